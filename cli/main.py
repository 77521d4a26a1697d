"""The command `nasdm-wsi`."""

from __future__ import annotations

import errno
import logging
import platform
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import click

from ..errors import NasdmError, StoppedError
from . import options
from .convert import convert
from .edit import edit
from .evaluate import evaluate
from .export import export
from .info import info
from .interrupts import CODE, interrupts
from .layout import layout
from .messages import OneLine, in_options
from .prepare import prepare
from .render import render
from .seams import seams
from .train import train
from .view import view

ACCELERATORS = ("dask-cuda", "triton")  # needed only on GPUs


class Commands(click.Group):
    """A group that reports errors of the user or the system in one line, with exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StoppedError as error:
            click.echo(f"Stopped: {error}", err=True)
            raise click.exceptions.Exit(CODE) from None
        except NasdmError as error:
            message = in_options(str(error), self.commands[ctx.invoked_subcommand or ""])
            raise click.ClickException(" ".join(message.split())) from error
        except OSError as error:
            if error.errno in (None, errno.EPIPE):  # of a pipe that was closed, click knows
                raise
            raise click.ClickException(_refusal(error)) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(CODE) from None


def _refusal(error: OSError) -> str:
    """Describe an error of the operating system in one line, with the file that it concerns."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    place = f"{' and '.join(names)}: " if names else ""
    return " ".join(f"{place}{error.strerror or error}".split())


def versions(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    """Print the versions that belong in a bug report, without importing any of the packages."""
    if not wanted or context.resilient_parsing:
        return
    needs = [need for need in requires("nasdm-wsi") or () if ";" not in need]  # without extras
    names = sorted(re.split(r"[^\w.-]", need)[0] for need in needs)
    click.echo(f"nasdm-wsi {version('nasdm-wsi')}")
    click.echo(f"Python {platform.python_version()} on {platform.platform()}")
    for name in (*names, *ACCELERATORS):
        with suppress(PackageNotFoundError):
            click.echo(f"{name} {version(name)}")
    context.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=versions,
    help="Show the versions that belong in a bug report, and exit.",
)
@click.option("-v", "--verbose", is_flag=True, help="Report progress in more detail.")
@options.quiet
@click.pass_context
def main(context: click.Context, verbose: bool) -> None:
    """Render synthetic H&E whole-slide images from nuclei annotations.

    The images are synthetic and not for diagnosis.
    """
    context.with_resource(interrupts(context.invoked_subcommand or ""))
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine(main.commands[context.invoked_subcommand or ""]))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    # tifffile also logs what it raises, and a mistake is reported in one line.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)


for command in (render, edit, view, info, seams, export, prepare, train, convert, evaluate, layout):
    main.add_command(command)

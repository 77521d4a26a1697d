"""The command `nasdm-wsi`."""

from __future__ import annotations

import logging
from typing import Any

import click

from ..errors import NasdmError
from .convert import convert
from .evaluate import evaluate
from .export import export
from .info import info
from .prepare import prepare
from .render import render
from .seams import seams
from .train import train
from .view import view


class Commands(click.Group):
    """A group whose commands end a user's mistake in one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NasdmError as error:
            raise click.ClickException(" ".join(str(error).split())) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nasdm-wsi")
@click.option("-v", "--verbose", is_flag=True, help="Say more about what is done.")
def main(verbose: bool) -> None:
    """Synthetic H&E whole-slide images from nuclei annotations.

    The pictures are synthetic: not for diagnosis.
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s: %(message)s"
    )
    # It logs what it then raises, and a mistake shall be one line.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)


for command in (render, view, info, seams, export, prepare, train, convert, evaluate):
    main.add_command(command)

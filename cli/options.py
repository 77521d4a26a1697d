"""Parameter types, options and output functions that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

EXISTING = click.Path(exists=True, path_type=Path)
NEW = click.Path(path_type=Path)

device = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Device to compute on: cpu, cuda, cuda:1, ... or auto.",
)
weights = click.option(
    "--weights",
    metavar="FILE|NAME",
    help="A file of weights, or the name of weights in the package; default: small.",
)
seed = click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the random numbers.",
)
steps = click.option(
    "--steps",
    type=click.IntRange(1, 1000),
    help="Number of solver steps; default: that of the weights.",
)
guidance = click.option(
    "--guidance", type=click.FloatRange(0, 20), help="Strength of guidance; default: 1."
)
regions = click.option(
    "--regions",
    type=EXISTING,
    metavar="FILE",
    help="Take the tissue regions from this file: annotations, or a label image.",
)


QUIET = "quiet"  # in the context of the whole command line


def _hush(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        context.find_root().meta[QUIET] = True


quiet = click.option(
    "-q",
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=_hush,
    help="Print only results, warnings and errors, without progress and summary.",
)


def _is_quiet() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.find_root().meta.get(QUIET))


def say(summary: str) -> None:
    """Print what a command has done, unless --quiet is given."""
    if not _is_quiet():
        click.echo(summary)


def _class_map(_ctx: click.Context, _option: click.Parameter, pairs: tuple[str, ...]) -> dict:
    mapping = {}
    for pair in pairs:
        name, sign, nucleus_type = pair.rpartition("=")
        if not sign or not name or not nucleus_type:
            raise click.BadParameter(f"{pair!r} is not NAME=TYPE")
        mapping[name] = nucleus_type
    return mapping


class_map = click.option(
    "--class-map",
    metavar="NAME=TYPE",
    multiple=True,
    callback=_class_map,
    help="Treat class NAME as nucleus type or tissue region TYPE; repeatable.",
)
ignore_classes = click.option(
    "--ignore-class",
    "ignore_classes",
    metavar="NAME",
    multiple=True,
    help="Ignore nuclei of class NAME; repeatable.",
)


max_pixels = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=1 << 28,
    show_default=True,
    help="Largest number of pixels of a label image; other limits on files are derived from it.",
)


def reading(command: Callable) -> Callable:
    """Add the options that say how to read an annotation file."""
    for option in reversed(
        [
            class_map,
            ignore_classes,
            click.option(
                "--tissue-class",
                "tissue_classes",
                metavar="NAME",
                multiple=True,
                default=("Tissue", "Region*"),
                show_default=True,
                help="Class of annotations that outline tissue; all else is glass; repeatable.",
            ),
            click.option(
                "--class-property",
                metavar="NAME",
                help="Property that holds the class of an object, instead of QuPath's.",
            ),
            click.option(
                "--contours",
                type=click.Choice(["auto", "corner", "cv2"]),
                default="auto",
                show_default=True,
                help="Whether outlines follow pixel corners or, as in OpenCV (cv2), pixel centres.",
            ),
            max_pixels,
        ]
    ):
        command = option(command)
    return command


@contextmanager
def bars(unit: str) -> Iterator[Callable[..., None]]:
    """Yield a callback ``(what, done, total, **facts)`` that draws a bar for each ``what``.

    No bar is drawn if standard error is not a terminal, or with --quiet.
    """
    from tqdm import tqdm

    off = not sys.stderr.isatty() or _is_quiet()
    opened: dict[str, Any] = {}

    def close() -> None:
        for bar in opened.values():
            bar.close()

    def progress(what: str, done: int, total: int, **facts: Any) -> None:
        if what not in opened:
            close()
            # What was done before this run does not count for the speed.
            opened[what] = tqdm(
                total=total, desc=what, unit=unit, initial=max(done - 1, 0), disable=off
            )
        bar = opened[what]
        if facts:
            bar.set_postfix(facts, refresh=False)
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        close()

"""nasdm-wsi info"""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .messages import in_options


@click.command()
@click.argument("file", type=options.EXISTING)
@options.reading
@click.pass_context
def info(context: click.Context, file: Path, **reading) -> None:
    """Describe FILE: a slide, annotations, a dataset or a checkpoint.

    For annotations, the table at the end shows which nucleus type each class is read as.
    """
    from ..tools.info import describe

    rows = describe(file, **reading)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(in_options(f"{name:<{width}}  {value}".rstrip(), context.command))

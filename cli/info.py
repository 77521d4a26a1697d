"""nasdm-wsi info"""

from __future__ import annotations

import json
from pathlib import Path

import click

from . import options
from .messages import in_options


@click.command()
@click.argument("file", type=options.EXISTING)
@click.option(
    "--mpp",
    type=float,
    help="Pixel size of the annotations in micrometres, to check the size of the nuclei.",
)
@options.reading
@click.option("--json", "as_json", is_flag=True, help="Print the facts as one JSON object.")
@click.pass_context
def info(context: click.Context, file: Path, as_json: bool, **reading) -> None:
    """Describe FILE: a slide, annotations, a dataset or a checkpoint.

    For annotations, a table at the end shows which nucleus type each class is read as. For a slide
    that nasdm-wsi rendered, the output includes its seed, weights and settings.
    """
    from ..tools.info import describe, examine

    if as_json:
        click.echo(json.dumps(examine(file, **reading), indent=2))
        return
    rows = describe(file, **reading)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(in_options(f"{name:<{width}}  {value}".rstrip(), context.command))

"""nasdm-wsi convert"""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command()
@click.argument("checkpoint", type=options.EXISTING)
@click.option(
    "-o", "--out", type=options.NEW, required=True, help="The file to write, NAME.safetensors."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@options.quiet
def convert(checkpoint: Path, out: Path, overwrite: bool) -> None:
    """Convert CHECKPOINT, a .pt file of the published NASDM training code, into weights for render.

    Only tensors are loaded from the file, never code. The shapes of the tensors determine the shape
    of the network.
    """
    from ..model.convert import convert as convert_checkpoint

    config = convert_checkpoint(checkpoint, out, overwrite=overwrite)
    options.say(f"{out}: semantic U-Net, widths {', '.join(map(str, config.widths))}")

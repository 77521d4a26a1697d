"""nasdm-wsi export"""

from __future__ import annotations

from pathlib import Path

import click

from . import options

FORMATS = ("lizard", "coco", "masks", "tiatoolbox", "types", "instances")


@click.command()
@click.argument("slide", type=options.EXISTING)
@click.option("-o", "--out", type=options.NEW, required=True, help="File or folder to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    required=True,
    help="The format to write, as listed above.",
)
@click.option(
    "--labels", type=options.EXISTING, help="Annotations; default: NAME.geojson beside SLIDE."
)
@click.option(
    "--mpp",
    type=float,
    help="Pixel size of the annotations in micrometres; default: that of SLIDE.",
)
@options.reading
@click.option(
    "--tile",
    type=click.IntRange(64, 2048),
    default=512,
    show_default=True,
    help="Largest side of a tile in pixels.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@options.quiet
def export(slide: Path, out: Path, **settings) -> None:
    """Write SLIDE and its nuclei in the format of another tool.

    \b
    lizard      tiles, images/NAME.png and labels/NAME.mat: HoVer-Net, `prepare`
    coco        tiles, images/NAME.png and annotations.json
    masks       tiles, NAME.png and NAME_masks.png: Cellpose, StarDist
    tiatoolbox  an AnnotationStore of TIAToolbox, NAME.db
    types       a label pyramid of the slide, in a format that render writes
    instances   the same, with the number of each nucleus instead of its type
    """
    from ..tools.export import export as export_slide

    with options.bars("tile") as progress:
        export_slide(slide, out, progress=progress, **settings)
    options.say(f"{out}: {settings['form']} of {slide}")

"""nasdm-wsi export"""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .messages import in_options

FORMATS = ("lizard", "coco", "masks", "tiatoolbox", "dicom", "types", "instances", "regions")


@click.command()
@click.argument("slides", type=options.EXISTING, nargs=-1, required=True)
@click.option("-o", "--out", type=options.NEW, required=True, help="File or folder to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    required=True,
    help="The format to write, as listed above.",
)
@click.option(
    "--labels",
    type=options.EXISTING,
    help="Annotations of a single slide; default: NAME.geojson beside it.",
)
@click.option(
    "--mpp",
    type=float,
    help="Pixel size of the annotations in micrometres; default: that of the slide.",
)
@options.reading
@click.option(
    "--mpp-out",
    type=float,
    help="Pixel size of tiles and label pyramids in micrometres; default: that of the slide.",
)
@click.option(
    "--tile",
    type=click.IntRange(64, 2048),
    default=512,
    show_default=True,
    help="Largest side of a tile in pixels.",
)
@click.option(
    "--split",
    "shares",
    type=(click.FloatRange(0), click.FloatRange(0), click.FloatRange(0)),
    metavar="TRAIN VAL TEST",
    help="Divide the slides into the folders train, val and test in these proportions; "
    "7 2 1 means the same as 0.7 0.2 0.1.",
)
@options.seed
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@options.quiet
@click.pass_context
def export(
    context: click.Context,
    slides: tuple[Path, ...],
    out: Path,
    labels: Path | None,
    shares: tuple[float, float, float] | None,
    seed: int,
    overwrite: bool,
    **settings,
) -> None:
    """Write SLIDES and their nuclei in the format of another tool.

    \b
    lizard      tiles, images/NAME.png and labels/NAME.mat: HoVer-Net, `prepare`
    coco        tiles, images/NAME.png and annotations.json
    masks       tiles, NAME.png and NAME_masks.png: Cellpose, StarDist
    tiatoolbox  an AnnotationStore of TIAToolbox, NAME.db
    dicom       Microscopy Bulk Simple Annotations of a DICOM slide, NAME.dcm
    types       a label pyramid of the slide, in a format that render writes
    instances   the same, with the number of each nucleus instead of its type
    regions     the same, with the tissue regions

    Tiles of many slides become one set; a slide that fails does not stop the others. SLIDES may be
    slides, folders of slides with NAME.geojson beside each, or a CSV with the columns slide, labels
    and patient. --split keeps the slides of a patient together.
    """
    from ..tools.export import export as export_slide
    from ..tools.sets import Source, export_set, find_sources

    sources = find_sources(slides, labels=labels)
    what = sources[0].slide if len(sources) == 1 else f"{len(sources)} slides"
    parts: dict[str, list] = {}
    failures: list[str] = []

    def failed(source: Source, reason: str) -> None:
        failures.append(f"{source.slide.name}: {reason.removeprefix(f'{source.slide}: ')}")

    with options.bars("tile") as progress:
        settings["progress"] = progress
        if len(sources) == 1 and not shares:
            (source,) = sources
            export_slide(source.slide, out, labels=source.labels, overwrite=overwrite, **settings)
        else:
            parts = export_set(sources, out, shares=shares, seed=seed, failed=failed, **settings)
    counts = [f", {len(found)} in {name}" for name, found in parts.items() if name]
    counts += [f", {len(failures)} failed"] * bool(failures)
    options.say(f"{out}: {settings['form']} of {what}{''.join(counts)}")
    for failure in failures:
        click.echo(f"Error: {in_options(failure, context.command)}", err=True)
    context.exit(1 if failures else 0)

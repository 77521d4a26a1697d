"""nasdm-wsi layout"""

from __future__ import annotations

import os
from pathlib import Path

import click

from . import options


@click.command()
@click.option(
    "-o", "--out", type=options.NEW, required=True, help="The file to write: NAME.geojson."
)
@click.option(
    "--size",
    type=(click.IntRange(1), click.IntRange(1)),
    metavar="WIDTH HEIGHT",
    help="Size of the canvas in pixels; may be left out with --regions. `nasdm-wsi render` takes "
    "it from the file.",
)
@click.option(
    "--mpp",
    type=float,
    help="Pixel size of the canvas in micrometres; default: that which the file of --regions "
    "states, or else 0.5.",
)
@options.seed
@click.option(
    "--count",
    type=click.IntRange(1),
    help="Write this many files, NAME_SEED.geojson, with consecutive seeds.",
)
@click.option(
    "--tissue",
    type=click.Choice(["normal", "adenoma", "carcinoma"]),
    default="normal",
    show_default=True,
    help="Kind of tissue.",
)
@click.option(
    "--plan",
    type=options.EXISTING,
    metavar="FILE",
    help="Map of the kinds of tissue on a slide: a PNG of classes, or GeoJSON drawn in QuPath.",
)
@click.option(
    "--regions",
    type=options.EXISTING,
    metavar="FILE",
    help="Drawn regions (lumen, epithelium, stroma, ...) to fill with nuclei.",
)
@click.option(
    "--like",
    type=options.EXISTING,
    metavar="FILE",
    help="Take densities from these annotated nuclei, for each region if the file has regions.",
)
@click.option(
    "--density",
    metavar="[REGION:]TYPE=NUMBER",
    multiple=True,
    help="Nuclei of a type per square millimetre, of a region or of all tissue; repeatable.",
)
@click.option(
    "--share",
    metavar="[REGION:]TYPE=FACTORx",
    multiple=True,
    help="Multiply the number of nuclei of a type, for example plasma=2x; repeatable.",
)
@options.class_map
@options.ignore_classes
@click.option(
    "--nuclei",
    type=click.Choice(["learned", "rules"]),
    default="learned",
    show_default=True,
    help="Place nuclei by a trained network, or by rules, which is several times as fast.",
)
@click.option(
    "--glands",
    type=click.Choice(["learned", "rules"]),
    default="rules",
    show_default=True,
    help="Generate the glands of mucosa and tumours by a trained network, or by rules.",
)
@click.option(
    "--workers", type=click.IntRange(1), help="Number of processes; default: one per core."
)
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@options.quiet
def layout(
    out: Path,
    size: tuple[int, int] | None,
    seed: int,
    count: int | None,
    nuclei: str,
    glands: str,
    workers: int | None,
    overwrite: bool,
    **given,
) -> None:
    """Generate regions and nuclei of colon for a canvas of any size, as GeoJSON.

    The file opens in QuPath, and `nasdm-wsi render` turns it into a slide. The same seed gives the
    same file.
    """
    from ..layouts.colon import Glands
    from ..layouts.making import check_new, layout
    from ..layouts.populate import Populated

    populate: type[Populated] = Populated
    if nuclei == "learned":
        from ..model.layouts.source import Learned

        populate = Learned
    paint: Glands | None = None
    if glands == "learned":
        from ..model.layouts.region_source import LearnedGlands

        paint = LearnedGlands
    many = range(seed, seed + (count or 1))
    files = [out if count is None else out.with_stem(f"{out.stem}_{k}") for k in many]
    inputs = [given[name] for name in ("plan", "regions", "like") if given[name]]
    for path in files:  # all of them before any is written
        check_new(path, overwrite=overwrite, inputs=inputs)
    for path, number in zip(files, many, strict=True):
        with options.bars("block") as progress:
            counts = layout(
                path,
                size and size[::-1],
                seed=number,
                populate=populate,
                glands=paint,
                workers=workers or os.cpu_count() or 1,
                overwrite=overwrite,
                progress=progress,
                **given,
            )
        told = ", ".join(f"{n:,} {name}" for name, n in counts.items())
        options.say(f"{path}: {sum(counts.values()):,} nuclei ({told})")

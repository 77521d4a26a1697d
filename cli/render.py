"""nasdm-wsi render"""

from __future__ import annotations

import time
from pathlib import Path

import click

from . import options


@click.command()
@click.argument("annotations", type=options.EXISTING)
@click.option("-o", "--out", type=options.NEW, required=True, help="The slide: NAME.ome.tif.")
@click.option("--mpp", type=float, help="Micrometres per pixel of the annotations.")
@click.option(
    "--like",
    type=options.EXISTING,
    metavar="SLIDE",
    help="Take pixel size and slide size from the slide on which the annotations were made.",
)
@options.reading
@click.option(
    "--size",
    type=(click.IntRange(1), click.IntRange(1)),
    metavar="WIDTH HEIGHT",
    help="Slide size in its own pixels (0.5 mpp); default: round the annotations.",
)
@click.option(
    "--region",
    type=(int, int, click.IntRange(1), click.IntRange(1)),
    metavar="X Y WIDTH HEIGHT",
    help="Render this part of the slide only.",
)
@options.seed
@click.option("--steps", type=click.IntRange(1, 1000), help="Solver steps.")
@click.option("--guidance", type=click.FloatRange(0, 20), help="Strength of guidance.")
@click.option("--style", help="A slide or image to take the stain from, or a name.")
@click.option("--weights", type=options.EXISTING, help="Default: those in the package.")
@options.device
@click.option("--workers", type=click.IntRange(1), help="Threads; default: the cores.")
@click.option("--quality", type=click.IntRange(1, 100), default=85, show_default=True)
@click.option("--lossless", is_flag=True, help="Deflate in place of JPEG.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
def render(annotations: Path, out: Path, dry_run: bool, **given) -> None:
    """Render ANNOTATIONS (GeoJSON, JSON, a store or a label image) into a pyramidal OME-TIFF.

    A render that was stopped goes on when the same command is given again. NAME.geojson beside
    the slide holds the nuclei in the slide's pixels.
    """
    from ..errors import PlanError
    from ..model.painter import Painter
    from ..rendering import check_output, labels_path, plan_render, read_annotations, size_like
    from ..rendering import render as render_slide
    from ..slides import find_style

    check_output(out, overwrite=given["overwrite"])
    size, region, like = given["size"], given["region"], given["like"]
    if like and size:
        raise PlanError(f"{like} tells the size: give --like or --size, not both")
    reading = ("mpp", "like", "class_map", "ignore_classes", "tissue_classes", "contours")
    nuclei = read_annotations(annotations, **{k: given[k] for k in reading})
    painting = {k: given[k] for k in ("weights", "steps", "guidance") if given[k] is not None}
    style = find_style(given["style"]) if given["style"] else None
    painter = Painter(**painting, style=style, device=given["device"])
    job = plan_render(
        nuclei,
        painter,
        size=size_like(like, painter.mpp) if like else size and size[::-1],
        region=region and (region[1], region[0], region[1] + region[3], region[0] + region[2]),
        seed=given["seed"],
    )
    if dry_run:
        for line in job.report(workers=given["workers"]):
            click.echo(line)
        return
    begin = time.perf_counter()
    with options.bars("task") as progress:
        render_slide(
            job,
            out,
            progress=progress,
            **{k: given[k] for k in ("workers", "overwrite", "quality", "lossless")},
        )
    height, width = job.region[2] - job.region[0], job.region[3] - job.region[1]
    seconds = time.perf_counter() - begin
    click.echo(
        f"{out}: {width} x {height} pixels at {painter.mpp} mpp, "
        f"{width * height / seconds:,.0f} pixels/s; open it in QuPath and drop "
        f"{labels_path(out).name} on it"
    )

"""nasdm-wsi render"""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path

import click

from ..slides.formats import names
from . import options, plans
from .many import is_many, render_all


@click.command()
@click.argument("annotations", type=options.EXISTING)
@click.option("-o", "--out", type=options.NEW, required=True, help=f"The slide: {names()}.")
@click.option(
    "--suffix",
    metavar=".SUFFIX",
    help="Suffix of the slides of a folder or CSV, which selects their format; default: .ome.tif.",
)
@click.option(
    "--mpp",
    type=float,
    help="Pixel size of the annotations in micrometres; may be left out if they state it.",
)
@click.option(
    "--like",
    type=options.EXISTING,
    metavar="SLIDE",
    help="Take pixel size and slide size from the slide that was annotated.",
)
@options.regions
@options.reading
@click.option(
    "--mpp-out",
    type=float,
    help="Pixel size of the slide in micrometres; default: that of the weights. With any "
    "other, the slide is painted at that of the weights and then enlarged or reduced.",
)
@click.option(
    "--size",
    type=(click.IntRange(1), click.IntRange(1)),
    metavar="WIDTH HEIGHT",
    help="Size of the slide in its own pixels; default: the canvas that the annotations state, as "
    "those of `nasdm-wsi layout` do, or else their bounding box.",
)
@click.option(
    "--region",
    type=(int, int, click.IntRange(1), click.IntRange(1)),
    metavar="X Y WIDTH HEIGHT",
    help="Render only this part of the slide.",
)
@click.option(
    "--max-canvas",
    type=click.IntRange(1),
    default=20_000_000_000,
    show_default=True,
    help="Largest number of pixels that a canvas may have.",
)
@options.seed
@options.steps
@options.guidance
@click.option(
    "--style", help="Stain: the name of a style, or a slide or image whose stain is copied."
)
@options.weights
@options.device
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Number of processes; default: one per GPU if there are several, else a thread per core.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Address or scheduler file of a dask cluster.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=85,
    show_default=True,
    help="Quality of the JPEG tiles.",
)
@click.option("--lossless", is_flag=True, help="Compress tiles without loss instead of as JPEG.")
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@click.option("--dry-run", is_flag=True, help="Print the plan without rendering.")
@options.quiet
def render(
    annotations: Path,
    out: Path,
    suffix: str | None,
    device: str,
    workers: int | None,
    scheduler: str | None,
    dry_run: bool,
    **given,
) -> None:
    """Render ANNOTATIONS (GeoJSON, JSON, a store or labels) into a pyramidal slide.

    For many slides, ANNOTATIONS is a folder of such files, or a CSV with the column annotations,
    and --out is a folder. Further columns of the CSV may be out and the names of options.

    To resume a render that was stopped, run the same command again. The nuclei are written beside
    the slide, to NAME.geojson, in the slide's pixels. While the slide is rendered,
    NAME.ome.tif.run/thumbnail.png shows how far it is.
    """
    if is_many(annotations):
        render_all(
            *(click.get_current_context(), annotations, out, given),
            suffix=suffix or ".ome.tif",
            device=device,
            workers=workers,
            scheduler=scheduler,
            dry_run=dry_run,
        )
        return
    if suffix:
        raise click.UsageError("--suffix is for many slides: the name of --out has a suffix")
    from ..delivery import check_output, run_folder
    from ..rendering import render as render_slide
    from ..slides.formats import format_of, labels_path

    inputs = (annotations, *(given[name] for name in ("like", "regions", "style", "weights")))
    # With a run folder there it depends on the job whether an existing slide is refused.
    overwrite = given["overwrite"] or run_folder(out).is_dir()
    check_output(out, overwrite=overwrite, inputs=inputs)
    nuclei = plans.read(annotations, given)
    with nullcontext() if dry_run else plans.workers_of(scheduler, workers, device) as client:
        job = plans.plan(nuclei, given, plans.painters(device, client)(given))
        if dry_run:
            for line in job.report(workers=workers):
                click.echo(line)
            return
        begin = time.perf_counter()
        with options.bars("task") as progress:
            painted = render_slide(
                job,
                out,
                client=client,
                progress=progress,
                **{k: given[k] for k in ("overwrite", "quality", "lossless")},
            )
    speed = painted / (time.perf_counter() - begin)
    next_step = format_of(out).next_step.format(labels=labels_path(out).name)
    options.say(f"{plans.described(out, job)}, {speed:,.0f} pixels/s; {next_step}")

"""nasdm-wsi render"""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..slides.formats import names
from . import options

if TYPE_CHECKING:
    from ..job import Job


@click.command()
@click.argument("annotations", type=options.EXISTING)
@click.option("-o", "--out", type=options.NEW, required=True, help=f"The slide: {names()}.")
@click.option("--mpp", type=float, help="Pixel size of the annotations in micrometres.")
@click.option(
    "--like",
    type=options.EXISTING,
    metavar="SLIDE",
    help="Take pixel size and slide size from the slide that was annotated.",
)
@click.option(
    "--regions",
    type=options.EXISTING,
    metavar="FILE",
    help="Take the tissue regions from this file: annotations, or a label image.",
)
@options.reading
@click.option(
    "--mpp-out",
    type=float,
    help="Pixel size of the slide in micrometres; default: that of the weights. Another one means "
    "that the slide is painted at theirs and then enlarged or reduced.",
)
@click.option(
    "--size",
    type=(click.IntRange(1), click.IntRange(1)),
    metavar="WIDTH HEIGHT",
    help="Size of the slide in its own pixels; default: the bounding box of the annotations.",
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
@click.option("--steps", type=click.IntRange(1, 1000), help="Number of solver steps.")
@click.option("--guidance", type=click.FloatRange(0, 20), help="Strength of guidance.")
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
    device: str,
    workers: int | None,
    scheduler: str | None,
    dry_run: bool,
    **given,
) -> None:
    """Render ANNOTATIONS (GeoJSON, JSON, a store or labels) into a pyramidal slide.

    To resume a render that was stopped, run the same command again. The nuclei are written beside
    the slide, to NAME.geojson, in the slide's pixels. While the slide is rendered,
    NAME.ome.tif.run/thumbnail.png shows how far it is.
    """
    from ..delivery import check_output, run_folder
    from ..errors import PlanError
    from ..model.arithmetic import describe
    from ..model.painter import Painter
    from ..rendering import plan_render, read_annotations, slide_mpp
    from ..rendering import render as render_slide
    from ..slides.formats import format_of, labels_path
    from ..slides.reading import find_style

    size, region, like = given["size"], given["region"], given["like"]
    inputs = (annotations, like, given["regions"], given["style"], given["weights"])
    # With a run folder there it depends on the job whether an existing slide is refused.
    overwrite = given["overwrite"] or run_folder(out).is_dir()
    check_output(out, overwrite=overwrite, inputs=inputs)
    if like and size:
        raise PlanError(f"{like} tells the size: give --like or --size, not both")
    reading = ("class_map", "ignore_classes", "tissue_classes", "class_property", "contours")
    told = {k: given[k] for k in ("mpp", "like", "regions", *reading, "max_pixels")}
    nuclei = read_annotations(annotations, **told)
    painting = {k: given[k] for k in ("weights", "steps", "guidance") if given[k] is not None}
    painting |= {"device": device, "style": find_style(given["style"]) if given["style"] else None}
    with nullcontext() if dry_run else _cluster(scheduler, workers, device) as client:
        if client:
            painting |= client.submit(describe, device).result()
        painter = Painter(**painting)
        job = plan_render(
            nuclei,
            painter,
            size=_size(like, given["mpp"], slide_mpp(given["mpp_out"], painter.mpp))
            if like
            else size and size[::-1],
            region=region and _box(*region),
            seed=given["seed"],
            **{k: given[k] for k in ("max_canvas", "mpp_out")},
        )
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
    y0, x0, y1, x1 = job.shown
    seconds = time.perf_counter() - begin
    next_step = format_of(out).next_step.format(labels=labels_path(out).name)
    options.say(
        f"{out}: {x1 - x0} x {y1 - y0} pixels at {job.mpp} mpp{_painted_at(job)}, "
        f"{painted / seconds:,.0f} pixels/s; {next_step}"
    )


def _size(like: Path, slide_mpp: float | None, mpp: float) -> tuple[int, int]:
    """Size (h, w) of a slide at ``mpp``; ``slide_mpp`` is its pixel size if it states none."""
    from ..slides.reading import size_like

    return size_like(like, mpp, slide_mpp=slide_mpp)


def _painted_at(job: Job) -> str:
    """Say at what pixel size a slide was painted, if it is not its own."""
    return f" (painted at {job.painter.mpp})" if job.output else ""


def _box(x: int, y: int, width: int, height: int) -> tuple[int, int, int, int]:
    """The box (y0, x0, y1, x1) of a region, as the core takes it."""
    return y, x, y + height, x + width


def _cluster(scheduler: str | None, workers: int | None, device: str) -> AbstractContextManager:
    """Return a client of the requested workers, or None for threads of this process."""
    from ..model.devices import gpus

    count = gpus(device)
    if not scheduler and not workers and count <= 1:
        return nullcontext()
    from ..mosaic.cluster import connect, local

    logging.getLogger("distributed").setLevel(logging.ERROR)  # set to INFO when it is imported
    return connect(scheduler) if scheduler else local(workers or count, gpus=count > 0)

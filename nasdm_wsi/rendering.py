"""The path from annotations to a slide. Read this module first.

`read_annotations` reads nuclei from a file. `plan_render` scales them to the painter's pixel size
and decides the size of the canvas. `render` then paints that canvas, keeping its state in a run
folder beside the output, and writes the slide and the nuclei in the slide's pixels.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from .annotations import formats
from .annotations.canvas import (
    MOST_CANVAS,
    check_canvas,
    label_image_fits,
    on_canvas,
    regions_on_canvas,
)
from .annotations.contents import Contents
from .annotations.formats import read_contents
from .annotations.nuclei import Nuclei
from .annotations.plausible import weigh_scale
from .annotations.regions import unpainted
from .delivery import (
    check_disk,
    check_output,
    finish_cleaning,
    nuclei_digest,
    pyramid_of,
    run_folder,
    write_outputs,
)
from .errors import NasdmError, PlanError
from .geometry import Box, intersect, shape
from .job import Job, Output, Painter
from .mosaic.painting import painted
from .mosaic.watch import Progress
from .mosaic.workers import Threads
from .resampling import Resampling
from .slides.reading import open_slide

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

MARGIN = 16  # pixels of background round the annotations where no size is given
MOST_RESAMPLED = 8  # times that a slide may be enlarged or reduced


def read_annotations(
    path: str | Path,
    *,
    mpp: float | None = None,
    like: str | Path | None = None,
    regions: str | Path | None = None,
    may_be_empty: bool = False,
    **options: Any,
) -> Nuclei:
    """Read the nuclei and regions of an annotation file.

    ``like`` names the slide that was annotated, instead of its pixel size ``mpp``; a slide that
    does not state its pixel size needs both. The coordinates are then those of the image that
    QuPath shows of the slide, whose size `size_like` returns. In MRXS and some other formats, this
    image is only the scanned part (``openslide.bounds-*``), and coordinates in GeoJSON start at its
    corner, as in QuPath and HoVerNeXt. Formats whose coordinates start at the corner of the whole
    slide are shifted.

    ``regions`` names a file of regions, instead of those in ``path``: annotations, or a label image
    as in `formats.read_contents`. Its coordinates are those of the slide, too; they have the pixel
    size that the file states, or else that of the nuclei. ``options`` are passed to
    `formats.read_contents` for both files. A file that ``may_be_empty`` gives a warning, and not an
    error, if it is valid and holds neither nuclei nor regions.

    Raises:
        AnnotationError: see `formats.read_contents` and `contents.Contents.checked`.
        SlideError: a slide that cannot be read, or whose pixel size is unknown.
        PlanError: ``mpp`` is given for a slide that states its pixel size.
    """
    slide_mpp, corner = None, (0, 0)
    if like is not None:
        with open_slide(like) as slide:
            if slide.mpp is not None and mpp is not None:
                raise PlanError(f"{like} states the pixel size: leave out `mpp`")
            slide_mpp, corner, mpp = slide.known_mpp(mpp), slide.bounds, None

    def placed(contents: Contents) -> Nuclei:
        nuclei = contents.checked(may_be_empty=may_be_empty)
        if slide_mpp is None or not contents.whole:
            return nuclei
        return nuclei.shifted(*(-n * slide_mpp / nuclei.mpp for n in corner))

    contents = read_contents(path, mpp=mpp, slide_mpp=slide_mpp, **options)
    if contents.nuclei.image_size and Path(path).suffix.lower() in (".tif", ".tiff"):
        stated = stated_mpp(path)
        weigh_scale(contents.findings, contents.nuclei.mpp, stated, of_slide=like is not None)
    nuclei = placed(contents)
    if regions is not None:
        options |= {"assumed_mpp": stated_mpp(regions) or slide_mpp or nuclei.mpp}
        drawn = placed(read_contents(regions, only_regions=True, **options)).regions
        nuclei = replace(nuclei, regions=drawn and drawn.scaled(nuclei.mpp))
    sources = (Path(source) for source in (path, like, regions) if source is not None)
    return replace(nuclei, sources=tuple(sources))


def stated_mpp(path: str | Path) -> float | None:
    """Return the pixel size that annotations or an image state; None if they state none."""
    with suppress(NasdmError):
        if mpp := formats.stated_mpp(path):
            return mpp
    with suppress(NasdmError), open_slide(path) as slide:
        return slide.mpp
    return None


def plan_render(
    nuclei: Nuclei,
    painter: Painter,
    *,
    size: tuple[int, int] | None = None,
    region: Box | None = None,
    seed: int = 0,
    max_canvas: int = MOST_CANVAS,
    mpp_out: float | None = None,
) -> Job:
    """Plan a slide; nothing is written yet.

    Args:
        nuclei: at any pixel size.
        painter: a `nasdm_wsi.model.Painter` or another object with the protocol `job.Painter`.
        size: of the slide, (h, w) in its own pixels. Without it the slide is the canvas that the
            file of the nuclei states, or else the bounding box of the annotations and a small
            margin, to whose corner the nuclei are shifted.
        region: the box (y0, x0, y1, x1) of the slide to show, exactly as the whole slide would
            show it; by default all.
        seed: of the noise from which the slide is painted, 0 to 2**64 - 1.
        max_canvas: a larger canvas is refused.
        mpp_out: micrometres per pixel of the slide; by default that of the painter. Other slides
            are painted at the painter's and then enlarged or reduced (`resampling`), which adds no
            detail.

    Nuclei outside the slide, a region without nuclei, and tissue regions that the painter has no
    planes for are logged as warnings.

    Raises:
        PlanError: an empty or too large canvas, one on which no nucleus lies, a region outside it,
            or a painter that requires a plane that cannot be made.
    """
    own, mpp = nuclei, slide_mpp(mpp_out, painter.mpp)
    wanted = size
    nuclei = nuclei.scaled(mpp)
    size = nuclei.canvas_size if size is None else size
    if size is None:
        y0, x0, y1, x1 = nuclei.extent()
        dy, dx = MARGIN - int(np.floor(y0)), MARGIN - int(np.floor(x0))
        nuclei = nuclei.shifted(dy, dx)
        size = (int(np.ceil(y1)) + dy + MARGIN, int(np.ceil(x1)) + dx + MARGIN)
        check_canvas(size, max_canvas, own)
    check_canvas(size, max_canvas)
    canvas = (0, 0, *size)
    region = canvas if region is None else region
    if intersect(region, canvas) != region or min(shape(region)) < 1:
        y0, x0, y1, x1 = region
        raise PlanError(
            f"the region {x0} {y0} {x1 - x0} {y1 - y0} (x, y, width, height) does not lie within "
            f"the canvas of {size[1]} x {size[0]} pixels"
        )
    if not 0 <= seed < 2**64:
        raise PlanError(f"seed {seed}: choose 0 to 2**64 - 1")
    warnings = on_canvas(nuclei, size, region, mpp=mpp, own_mpp=own.mpp)
    warnings += label_image_fits(nuclei, wanted) if wanted else []
    if nuclei.regions:
        warnings += regions_on_canvas(nuclei.regions, size, alone=not len(nuclei))
        warnings += label_image_fits(nuclei.regions, wanted) if wanted else []
        warnings += unpainted(nuclei.regions, painter.planes)
    for warning in warnings:
        log.warning("%s", warning)
    if mpp == painter.mpp:
        return Job(nuclei, painter, painter.plan(size), region, seed)
    step = mpp / painter.mpp
    painted_size = math.ceil(size[0] * step), math.ceil(size[1] * step)
    check_canvas(painted_size, max_canvas)
    read = Resampling(painted_size, step).reads(region)
    nuclei, output = nuclei.scaled(painter.mpp), Output(mpp, region)
    return Job(nuclei, painter, painter.plan(painted_size), read, seed, output)


def slide_mpp(wanted: float | None, painter_mpp: float) -> float:
    """Return the pixel size of the slide: the one that is wanted, or that of the painter.

    Raises:
        PlanError: it differs too much from that of the painter.
    """
    if wanted is None or math.isclose(wanted, painter_mpp, rel_tol=1e-6):
        return painter_mpp
    least, most = painter_mpp / MOST_RESAMPLED, painter_mpp * MOST_RESAMPLED
    if not least <= wanted <= most:
        raise PlanError(
            f"a slide of {wanted:g} micrometres per pixel: the weights paint at {painter_mpp:g}, "
            f"so give a `mpp_out` of {least:g} to {most:g}"
        )
    return wanted


def render(
    job: Job,
    out: str | Path,
    *,
    workers: int | Threads | None = None,
    client: Client | None = None,
    overwrite: bool = False,
    quality: int = 85,
    lossless: bool = False,
    progress: Progress | None = None,
) -> int:
    """Paint a planned slide into ``out``, and write ``NAME.geojson`` beside it.

    A render that was stopped resumes when it is called again: its state is in ``out`` + ``.run``
    until the slide is complete. The pixels depend only on the job, and not on the workers or on
    interruptions.

    The function returns how many pixels this call has painted: blocks of glass need no painting,
    and blocks that a stopped call has painted are not painted again.

    Args:
        job: from `plan_render`.
        out: the slide; its suffix determines the format (`slides.formats`).
        workers: how many threads of this process paint, by default one for each core; or threads
            that several renders share.
        client: of a dask cluster whose workers paint instead; they must reach the folder of
            ``out``.
        overwrite: replace outputs that exist, and the state of another job. A ``NAME.geojson`` is
            replaced only if a render wrote it.
        quality: quality of JPEG tiles, 1 to 100.
        lossless: compress tiles by deflate instead of JPEG.
        progress: called as ``progress(what, done, total)`` after each task.

    Raises:
        OutputError: an output exists and ``overwrite`` is not given, is an input, or was not
            written by this package; the run folder belongs to another job, the disk is too small or
            full, or the cluster was lost.
    """
    out = Path(out)
    pyramid = pyramid_of(job, out, quality=quality, lossless=lossless)
    if not overwrite and finish_cleaning(job, out, pyramid):
        return 0
    check_output(out, overwrite=overwrite, inputs=job.sources)
    replaced = nuclei_digest(out)
    count = workers.count if isinstance(workers, Threads) else workers
    check_disk(out.parent, job.disk(count))
    with painted(
        job,
        run_folder(out),
        pyramid=pyramid,
        workers=workers,
        client=client,
        overwrite=overwrite,
        progress=progress,
    ) as mosaic:
        write_outputs(mosaic, out, replaced=replaced, progress=progress)
        mosaic.store.clear()
        return mosaic.painted


def render_region(
    job: Job,
    *,
    workers: int | None = None,
    client: Client | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Paint a planned slide's region into memory: uint8 (h, w, 3), with the pixels of `render`.

    The state is in a temporary folder; everything else is as in `render`.
    """
    with TemporaryDirectory() as folder:
        check_disk(Path(folder), job.disk(workers))
        run = Path(folder, "run")
        with painted(job, run, workers=workers, client=client, progress=progress) as mosaic:
            return mosaic.pixels(job.shown)

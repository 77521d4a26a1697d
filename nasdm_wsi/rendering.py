"""Annotations in, slide out: the whole story. Read this first.

Nuclei are scaled to the model's resolution and rasterised where a window asks for them; the mosaic
engine runs the painter over windows in phases, keeping its state in a run folder beside the
output; finished pixels become the tiles of a pyramidal OME-TIFF, and the nuclei a GeoJSON in its
pixels. The work is done by threads of this process, or by the workers of a dask cluster.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from .annotations.formats import read_contents
from .annotations.geojson import write_geojson
from .annotations.nuclei import Nuclei
from .errors import OutputError, PlanError, SlideError
from .geometry import Box, intersect, shape
from .job import Job, Painter, default_workers
from .mosaic.engine import Mosaic
from .mosaic.schedule import Task
from .mosaic.store import RunStore, open_run
from .mosaic.watch import Progress, Watch
from .slides.formats import format_of, labels_path
from .slides.pyramid import Pyramid
from .slides.reading import Slide, open_slide

if TYPE_CHECKING:
    from distributed import Client

MARGIN = 16  # pixels of background round the annotations where no size is given
NUCLEI = "nuclei.npz"  # in the run folder
WARNING = "Synthetic image made by nasdm-wsi: not for diagnosis."


def read_annotations(
    path: str | Path, *, mpp: float | None = None, like: str | Path | None = None, **options: Any
) -> Nuclei:
    """Nuclei of any annotation file that `formats.read_contents` reads; ``options`` go to it.

    ``like`` names the slide on which they were made, in place of ``mpp``, its pixel size. The
    coordinates are then those of the image that QuPath shows of the slide, of which `size_like`
    gives the size. In MRXS and some others it is the scanned part alone (``openslide.bounds-*``):
    GeoJSON is taken to count from its corner, as QuPath and HoVerNeXt do. HoVer-Net, CellViT (JSON)
    and TIAToolbox (store) count from the corner of the whole slide and are shifted.

    Raises:
        AnnotationError: see `formats.read_contents` and `contents.Contents.checked`.
        SlideError: a slide that cannot be read or does not tell its pixel size.
    """
    if like is None:
        return read_contents(path, mpp=mpp, **options).checked()
    if mpp is not None:
        raise PlanError(f"{like} tells the pixel size: give `like` or `mpp`, not both")
    with open_slide(like) as slide:
        slide_mpp, corner = _mpp_of(slide), slide.bounds
    contents = read_contents(path, slide_mpp=slide_mpp, **options)
    nuclei = contents.checked()
    if contents.whole:
        dy, dx = (-n * slide_mpp / nuclei.mpp for n in corner)
        nuclei = nuclei.shifted(dy, dx)
    return nuclei


def size_like(path: str | Path, mpp: float) -> tuple[int, int]:
    """Size (h, w), at ``mpp``, of the image that QuPath shows of a slide; for `plan_render`.

    Raises:
        SlideError: a slide that cannot be read or does not tell its pixel size.
    """
    with open_slide(path) as slide:
        scale = _mpp_of(slide) / mpp
        height, width = (max(round(n * scale), 1) for n in slide.shown)
    return height, width


def _mpp_of(slide: Slide) -> float:
    if slide.mpp is None:
        raise SlideError(f"{slide.path} does not tell its pixel size: give `mpp` and `size`")
    return slide.mpp


def plan_render(
    nuclei: Nuclei,
    painter: Painter,
    *,
    size: tuple[int, int] | None = None,
    region: Box | None = None,
    seed: int = 0,
) -> Job:
    """Plan a slide of ``size`` (h, w) pixels at the painter's resolution.

    Without ``size`` the canvas is the bounding box of the annotations with a small margin, and
    the nuclei are shifted to its corner. ``region`` is in canvas pixels; it shows exactly what the
    whole slide would show there.

    Raises:
        PlanError: an empty canvas, a region outside it, or a painter that asks for a plane which
            nobody can give.
    """
    nuclei = nuclei.scaled(painter.mpp)
    if size is None:
        y0, x0, y1, x1 = nuclei.extent()
        dy, dx = MARGIN - int(np.floor(y0)), MARGIN - int(np.floor(x0))
        nuclei = nuclei.shifted(dy, dx)
        size = (int(np.ceil(y1)) + dy + MARGIN, int(np.ceil(x1)) + dx + MARGIN)
    canvas = (0, 0, *size)
    region = canvas if region is None else region
    if intersect(region, canvas) != region or min(shape(region)) < 1:
        raise PlanError(f"region {list(region)} does not lie within the canvas {list(canvas)}")
    if not 0 <= seed < 2**64:
        raise PlanError(f"seed {seed}: choose 0 to 2**64 - 1")
    return Job(nuclei, painter, painter.plan(size), region, seed)


def render(
    job: Job,
    out: str | Path,
    *,
    workers: int | None = None,
    client: Client | None = None,
    overwrite: bool = False,
    quality: int = 85,
    lossless: bool = False,
    progress: Progress | None = None,
) -> None:
    """Paint a planned slide into ``out``, with ``NAME.geojson`` beside it.

    Its suffix decides the format (`slides.formats`); ``quality`` and ``lossless`` are for the tiles
    of an OME-TIFF.

    A render that was stopped, however, goes on where it was when it is called again: its state
    lies in ``out`` + ``.run`` until the slide is whole. The bytes depend on the job alone, not on
    who works nor on interruptions. ``workers`` threads work (default: the cores), or the workers
    of ``client``, who must reach the folder of ``out``. ``overwrite`` replaces outputs that exist
    and the state of another job, and goes on with that of the same. ``progress(what, done, total)``
    is called after each task.

    Raises:
        OutputError: ``out`` exists and ``overwrite`` is not given, the run folder belongs to
            another job, the disk is too small or full, or the cluster was lost.
    """
    out = Path(out)
    labels, folder = labels_path(out), run_folder(out)
    check_output(out, overwrite=overwrite)
    _check_disk(folder, job.disk)
    form = format_of(out)
    pyramid = form.encoded((*shape(job.region), 3), quality=quality, lossless=lossless)
    encoding = pyramid.encoding if pyramid else form.name
    with open_run(folder, {**job.facts, "encoding": encoding}, overwrite=overwrite) as store:
        store.drop_damaged()
        mosaic = Mosaic(job, store, pyramid)
        with _hands(mosaic, job, workers, client) as hands:
            mosaic.paint(**hands, progress=Watch(mosaic, progress))
        # The slide comes last: when it is there, everything is.
        y0, x0, y1, x1 = job.region
        shown = job.nuclei.shifted(-y0, -x0).within((0, 0, y1 - y0, x1 - x0))
        write_geojson(labels, shown)
        common: dict[str, Any] = {
            "mpp": job.painter.mpp,
            "description": f"{WARNING} {json.dumps(job.facts)}",
            "progress": partial(progress, "writing") if progress else None,
        }
        if pyramid:
            form.write_tiles(out, pyramid, mosaic.encoded, **common)
        else:
            form.write(out, _Rows(mosaic), **common)
        store.clear()


def render_region(
    job: Job,
    *,
    workers: int | None = None,
    client: Client | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Paint a planned slide's region into memory: uint8 (h, w, 3), the pixels that `render` writes.

    The state lies in a temporary folder; the rest is as in `render`.
    """
    with TemporaryDirectory() as folder:
        _check_disk(Path(folder, "run"), job.disk)
        with open_run(Path(folder, "run"), job.facts) as store:
            mosaic = Mosaic(job, store)
            with _hands(mosaic, job, workers, client) as hands:
                mosaic.paint(**hands, progress=Watch(mosaic, progress))
            return mosaic.pixels(job.region)


@contextmanager
def _hands(
    mosaic: Mosaic, job: Job, workers: int | None, client: Client | None
) -> Iterator[dict[str, Any]]:
    """Who does the tasks: arguments for `Mosaic.paint`."""
    if client is None:
        count = workers or default_workers()
        with ThreadPoolExecutor(count) as pool:
            yield {
                "submit": lambda task: pool.submit(mosaic.do, task),
                "in_flight": lambda: count + 1,
            }
        return
    from .mosaic.workers import hands  # dask.distributed takes a second to import

    folder = mosaic.store.folder.resolve()
    job.nuclei.save(folder / NUCLEI)  # may be large, and a cluster's scheduler is one
    light = replace(job, nuclei=job.nuclei.take(np.empty(0, int)))
    pyramid = mosaic.pyramid
    with hands(client, folder, partial(_doer, light, folder, pyramid)) as those:
        yield those


def _doer(light: Job, folder: Path, pyramid: Pyramid | None) -> Callable[[Task], None]:
    """In another process: what does the tasks of a job whose nuclei lie in its run folder."""
    job = replace(light, nuclei=Nuclei.load(folder / NUCLEI))
    return Mosaic(job, RunStore(folder), pyramid).do


def run_folder(out: Path) -> Path:
    """Where the state of a render lies until its slide is whole."""
    return out.with_name(out.name + ".run")


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse outputs that exist, or whose folder does not.

    Raises:
        OutputError: as said.
    """
    if not out.parent.is_dir():
        raise OutputError(f"{out.parent} is no folder: make it first")
    form, labels = format_of(out), labels_path(out)
    for path in (out, labels):
        if path.is_dir() and not (path == out and form.may_replace(path)):
            raise OutputError(f"{path} is a folder: choose another name")
        ours = path != out and run_folder(out).exists()  # of a run stopped near its end
        if path.exists() and not (overwrite or ours):
            raise OutputError(f"{path} exists: choose another name or give `overwrite`")


class _Rows:
    """A finished region, sliced by rows and read only then."""

    dtype = np.dtype(np.uint8)

    def __init__(self, mosaic: Mosaic):
        self.mosaic, self.shape = mosaic, (*shape(mosaic.job.region), 3)

    def __getitem__(self, rows: slice) -> np.ndarray:
        y0, x0, _, x1 = self.mosaic.job.region
        start, stop, _ = rows.indices(self.shape[0])
        return self.mosaic.pixels((y0 + start, x0, y0 + stop, x1))


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise OutputError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, but the render may need "
            f"{needed / 1e9:.1f} GB: make room or choose another folder"
        )

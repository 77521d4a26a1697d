"""Annotations in, slide out: the whole story. Read this first.

Nuclei are scaled to the model's resolution and rasterised where a window asks for them; the mosaic
engine runs the painter over windows in phases, keeping its state in a run folder beside the
output; finished pixels become the tiles of a pyramidal OME-TIFF, and the nuclei a GeoJSON in its
pixels. The work is done by threads of this process, or by the workers of a dask cluster.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .annotations.formats import read_contents
from .annotations.geojson import write_geojson
from .annotations.nuclei import Nuclei
from .annotations.raster import Conditioning
from .errors import OutputError, PlanError, SlideError
from .geometry import Block, Box, Plan, cells_in, intersect, shape
from .mosaic.engine import CHANNELS, Mosaic, Work
from .mosaic.noise import noise
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


class Painter(Protocol):
    """What paints windows; `nasdm_wsi.model.Painter` is one.

    mpp: micrometres per pixel of the slides it paints.
    facts: what decides the bytes, for the provenance and for telling runs apart.
    bytes_per_pixel: memory that `solve` needs for each pixel of a window.
    resident_bytes: memory that the program and the network take, whatever is painted.
    """

    mpp: float
    facts: dict[str, Any]
    bytes_per_pixel: int
    resident_bytes: int

    def plan(self, size: tuple[int, int]) -> Plan:
        """How a canvas of ``size`` (h, w) is cut."""

    def solve(
        self, phase: int, state: np.ndarray, mask: np.ndarray, tissue: np.ndarray
    ) -> np.ndarray:
        """States (n, 6, h, w) of n windows after a phase.

        From those before, masks (n, 7, h, w) and where there is tissue, bool (n, h, w).
        """

    def glass(self, phase: int, unit: np.ndarray) -> np.ndarray:
        """State (6, h, w) after a phase where there is no tissue, from unit noise (3, h, w)."""


@dataclass(frozen=True)
class Job:
    """A render, planned: everything is known and nothing has happened yet.

    Attributes:
        nuclei: in canvas pixels at the painter's mpp.
        region: the part of the canvas that the slide will show.
    """

    nuclei: Nuclei
    painter: Painter
    plan: Plan
    region: Box
    seed: int

    def __repr__(self) -> str:
        h, w = shape(self.region)
        what = f"{w} x {h} pixels at {self.painter.mpp} mpp, {len(self.nuclei):,} nuclei"
        return f"<Job: {what}, seed {self.seed}>"

    @property
    def blocks(self) -> list[Block]:
        """The blocks to paint."""
        return cells_in(self.plan.blocks_of(self.region))

    @property
    def disk(self) -> int:
        """Bytes that the run folder and the output need at most."""
        i0, j0, i1, j1 = self.plan.needed(self.region)[0]
        rows = min(i1 - i0, len(self.plan.phases))
        # Of each phase, two rows wait for their neighbours while a third is written.
        state = 3 * 4 * CHANNELS * self.plan.part_side**2 * (rows + 2) * (j1 - j0)
        return state + 2 * 3 * self.plan.block_side**2 * len(self.blocks)

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the bytes of the slide."""
        return {
            "software": f"nasdm-wsi {version('nasdm-wsi')}",
            "seed": self.seed,
            "canvas": list(self.plan.size),
            "region": list(self.region),
            "plan": {k: getattr(self.plan, k) for k in ("stride", "margin", "taper", "windows")},
            "nuclei": _fingerprint(self.nuclei),
            **self.painter.facts,
        }

    def report(self, *, workers: int | None = None) -> list[str]:
        """The plan in lines: size, blocks, steps, memory, disk, expected time.

        The time is extrapolated from painting one small window, which takes a moment.
        """
        conditioning = Conditioning(self.nuclei, self.plan.size)
        needed = [cells_in(cells) for cells in self.plan.needed(self.region)]
        painted = {b for b in needed[0] if not conditioning.is_glass(self.plan.part(b))}
        pixels = {b: self._window_pixels(b) for b in painted}
        work = sum(pixels.get(b, 0) for blocks in needed for b in blocks) / len(needed)
        workers = min(workers or default_workers(), max(len(painted), 1))
        largest = math.prod(shape(self.plan.window(self.plan.cores(self.blocks[0])[0])))
        memory = workers * largest * self.painter.bytes_per_pixel + self.painter.resident_bytes
        minutes = work * self._seconds_per_pixel() / workers / 60
        h, w = shape(self.region)
        return [
            f"slide     {w} x {h} pixels at {self.painter.mpp} mpp, {len(self.nuclei):,} nuclei",
            f"blocks    {len(self.blocks)} of {self.plan.block_side} pixels, "
            f"margin {self.plan.margin}; {len(painted.intersection(self.blocks))} show tissue",
            f"phases    {len(needed)}",
            f"workers   {workers}",
            f"memory    {memory / 1e9:.1f} GB at most",
            f"disk      {self.disk / 1e9:.1f} GB at most",
            f"time      {minutes:.1f} minutes expected",
        ]

    def _window_pixels(self, block: Block) -> int:
        return sum(math.prod(shape(self.plan.window(core))) for core in self.plan.cores(block))

    def _seconds_per_pixel(self) -> float:
        first = self.plan.window(self.plan.cores(self.blocks[0])[0])
        side = min(256, *shape(first))
        state, mask = (np.zeros((1, n, side, side), np.float32) for n in (CHANNELS, 7))
        tissue = np.ones((1, side, side), bool)
        self.painter.solve(0, state, mask, tissue)
        begin = time.perf_counter()
        for phase in range(len(self.plan.phases)):
            self.painter.solve(phase, state, mask, tissue)
        return (time.perf_counter() - begin) / side**2


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
        AnnotationError: see `formats.read_contents` and `classes.Contents.checked`.
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
        PlanError: an empty canvas, or a region outside it.
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
        mosaic = mosaic_of(job, store, pyramid)
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
            mosaic = mosaic_of(job, store)
            with _hands(mosaic, job, workers, client) as hands:
                mosaic.paint(**hands, progress=Watch(mosaic, progress))
            return mosaic.pixels(job.region)


def mosaic_of(job: Job, store: RunStore, pyramid: Pyramid | None = None) -> Mosaic:
    """The mosaic of a job whose state is kept in ``store``."""
    conditioning = Conditioning(job.nuclei, job.plan.size)

    def start(box: Box) -> np.ndarray:
        unit = noise(box, seed=job.seed)
        return np.concatenate([unit, np.zeros_like(unit)])

    def solve(phase: int, boxes: list[Box], states: np.ndarray) -> np.ndarray:
        masks = np.stack([conditioning(box) for box in boxes])
        tissue = np.stack([conditioning.tissue(box) for box in boxes])
        return job.painter.solve(phase, states, masks, tissue)

    def finish(box: Box, state: np.ndarray) -> np.ndarray:
        rgb = np.rint((state[:3].transpose(1, 2, 0) + 1) * 127.5)
        return np.clip(rgb, 0, 255).astype(np.uint8)

    def glass(phase: int, box: Box) -> np.ndarray:
        return job.painter.glass(phase, noise(box, seed=job.seed))

    work = Work(start, solve, finish, conditioning.is_glass, glass)
    return Mosaic(work, job.plan, store, region=job.region, pyramid=pyramid)


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
    pyramid = mosaic.pyramid if mosaic.levels else None
    with hands(client, folder, partial(_doer, light, folder, pyramid)) as those:
        yield those


def _doer(light: Job, folder: Path, pyramid: Pyramid | None) -> Callable[[Task], None]:
    """In another process: what does the tasks of a job whose nuclei lie in its run folder."""
    job = replace(light, nuclei=Nuclei.load(folder / NUCLEI))
    return mosaic_of(job, RunStore(folder), pyramid).do


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


def default_workers() -> int:
    """One worker for each core this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Rows:
    """A finished region, sliced by rows and read only then."""

    dtype = np.dtype(np.uint8)

    def __init__(self, mosaic: Mosaic):
        self.mosaic, self.shape = mosaic, (*shape(mosaic.region), 3)

    def __getitem__(self, rows: slice) -> np.ndarray:
        y0, x0, _, x1 = self.mosaic.region
        start, stop, _ = rows.indices(self.shape[0])
        return self.mosaic.pixels((y0 + start, x0, y0 + stop, x1))


def _fingerprint(nuclei: Nuclei) -> str:
    digest = hashlib.sha256()
    for part in (nuclei.coords, nuclei.ring_offsets, nuclei.polygon_offsets, nuclei.types):
        digest.update(np.ascontiguousarray(part).reshape(-1).data)
    digest.update(nuclei.tissue.wkb if nuclei.tissue is not None else b"")
    return digest.hexdigest()[:16]


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise OutputError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, but the render may need "
            f"{needed / 1e9:.1f} GB: make room or choose another folder"
        )

"""Annotations in, slide out: the whole story. Read this first.

Nuclei are scaled to the model's resolution and rasterised where a window asks for them; the mosaic
engine runs the painter over windows in phases, keeping its state in a run folder beside the
output; finished pixels become a pyramidal OME-TIFF, and the nuclei a GeoJSON in its pixels.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import dask
import numpy as np
from dask.callbacks import Callback

from .conditioning import Conditioning
from .errors import OutputError, PlanError
from .geometry import Box, Plan, intersect, shape
from .lizard import read_mat
from .mosaic import Work, mosaic_graphs, mosaic_tasks
from .noise import noise
from .nuclei import Nuclei
from .pyramid import write_pyramid
from .qupath import read_geojson, write_geojson
from .store import CHANNELS, RunStore, open_run

MARGIN = 16  # pixels of background round the annotations where no size is given
WARNING = "Synthetic image made by nasdm-wsi: not for diagnosis."

Progress = Callable[[str, int, int], None]


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
        """State (6, h, w) after a phase, from that before, mask (7, h, w) and tissue (h, w)."""


@dataclass(frozen=True)
class Job:
    """A render, planned: everything is known and nothing has happened yet.

    nuclei: in canvas pixels at the painter's mpp.
    region: the part of the canvas that the slide will show.
    """

    nuclei: Nuclei
    painter: Painter
    plan: Plan
    region: Box
    seed: int

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """The blocks to paint."""
        return self.plan.blocks_of(self.region)

    @property
    def disk(self) -> int:
        """Bytes that the run folder and the output need at most."""
        columns = len({j for _, j in self.blocks})
        rows = min(len(self.blocks) // columns, len(self.plan.phases))
        # Of each phase, two rows wait for their neighbours while a third is written.
        state = 3 * 4 * CHANNELS * self.plan.part_side**2 * (rows + 2) * (columns + 2)
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
        workers = min(workers or default_workers(), len(self.blocks))
        cores = (core for block in self.blocks for core in self.plan.cores(block))
        windows = [math.prod(shape(self.plan.window(core))) for core in cores]
        memory = workers * max(windows) * self.painter.bytes_per_pixel
        h, w = shape(self.region)
        minutes = sum(windows) * self._seconds_per_pixel() / workers / 60
        return [
            f"slide     {w} x {h} pixels at {self.painter.mpp} mpp, {len(self.nuclei):,} nuclei",
            f"blocks    {len(self.blocks)} of {self.plan.block_side} pixels, "
            f"margin {self.plan.margin}",
            f"phases    {len(self.plan.phases)}",
            f"workers   {workers}",
            f"memory    {(memory + self.painter.resident_bytes) / 1e9:.1f} GB at most",
            f"disk      {self.disk / 1e9:.1f} GB at most",
            f"time      {minutes:.1f} minutes expected",
        ]

    def _seconds_per_pixel(self) -> float:
        first = self.plan.window(self.plan.cores(self.blocks[0])[0])
        side = min(256, *shape(first))
        state = np.zeros((CHANNELS, side, side), np.float32)
        mask, tissue = np.zeros((7, side, side), np.float32), np.ones((side, side), bool)
        self.painter.solve(0, state, mask, tissue)
        begin = time.perf_counter()
        for phase in range(len(self.plan.phases)):
            self.painter.solve(phase, state, mask, tissue)
        return (time.perf_counter() - begin) / side**2


def read_annotations(path: Path, *, mpp: float | None = None, **options: Any) -> Nuclei:
    """Nuclei of a QuPath GeoJSON or a Lizard ``.mat`` (0.5 mpp unless told otherwise).

    ``options`` go to `qupath.read_geojson`.

    Raises:
        AnnotationError: see there; also a GeoJSON without ``mpp``.
    """
    if Path(path).suffix.lower() == ".mat":
        return read_mat(path, mpp=mpp or 0.5)
    return read_geojson(path, mpp=mpp, **options)


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
    out: Path,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    quality: int = 85,
    lossless: bool = False,
    progress: Progress | None = None,
) -> None:
    """Paint a planned slide into ``out``, with ``NAME.geojson`` beside it.

    A render that was stopped, however, goes on where it was when it is called again: its state
    lies in ``out`` + ``.run`` until the slide is whole. The pixels depend on the job alone, not on
    ``workers`` (threads; default: the cores) nor on interruptions. ``overwrite`` replaces outputs
    that exist and the state of another job, and goes on with that of the same. ``progress(what,
    done, total)`` is called from the working threads.

    Raises:
        OutputError: ``out`` exists and ``overwrite`` is not given, the run folder belongs to
            another job, or the disk is too small or full.
    """
    out = Path(out)
    labels, folder = labels_path(out), _run_folder(out)
    check_output(out, overwrite=overwrite)
    _check_disk(folder, job.disk)
    with open_run(folder, job.plan, job.facts, overwrite=overwrite) as store:
        store.drop_damaged()
        _paint(job, store, workers, progress)
        # The slide comes last: when it is there, everything is.
        y0, x0, y1, x1 = job.region
        shown = job.nuclei.shifted(-y0, -x0).within((0, 0, y1 - y0, x1 - x0))
        write_geojson(labels, shown)
        write_pyramid(
            out,
            _Crop(store.pixels, job.region),
            mpp=job.painter.mpp,
            description=f"{WARNING} {json.dumps(job.facts)}",
            quality=quality,
            lossless=lossless,
            progress=partial(progress, "writing") if progress else None,
        )
        shutil.rmtree(folder)


def render_region(
    job: Job, *, workers: int | None = None, progress: Progress | None = None
) -> np.ndarray:
    """Paint a planned slide's region into memory: uint8 (h, w, 3), the pixels that `render` writes.

    The state lies in a temporary folder; the rest is as in `render`.
    """
    with TemporaryDirectory() as folder:
        _check_disk(Path(folder, "run"), job.disk)
        with open_run(Path(folder, "run"), job.plan, job.facts) as store:
            _paint(job, store, workers, progress)
            return _Crop(store.pixels, job.region)[:]


def _paint(job: Job, store: RunStore, workers: int | None, progress: Progress | None) -> None:
    tasks = mosaic_tasks(store, job.blocks)
    with _Painting(progress, len(tasks)):
        for graph, wanted in mosaic_graphs(_work(job), store, tasks):
            dask.threaded.get(graph, wanted, num_workers=workers or default_workers())


def labels_path(out: Path) -> Path:
    """Where the annotations of a slide go: slide.ome.tif has slide.geojson beside it."""
    name = out.name
    for suffix in (".ome.tif", ".ome.tiff", ".tif", ".tiff"):
        if name.lower().endswith(suffix):
            return out.with_name(name[: -len(suffix)] + ".geojson")
    raise OutputError(f"{out}: the output must end in .ome.tif, .ome.tiff, .tif or .tiff")


def _run_folder(out: Path) -> Path:
    return out.with_name(out.name + ".run")


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse outputs that exist, or whose folder does not.

    Raises:
        OutputError: as said.
    """
    if not out.parent.is_dir():
        raise OutputError(f"{out.parent} is no folder: make it first")
    for path in (out, labels_path(out)):
        if path.is_dir():
            raise OutputError(f"{path} is a folder: choose another name")
        ours = path != out and _run_folder(out).exists()  # of a run stopped near its end
        if path.exists() and not (overwrite or ours):
            raise OutputError(f"{path} exists: choose another name or give --overwrite")


def default_workers() -> int:
    """One worker for each core this process may use."""
    return len(os.sched_getaffinity(0))


def _work(job: Job) -> Work:
    conditioning = Conditioning(job.nuclei, job.plan.size)

    def start(box: Box) -> np.ndarray:
        unit = noise(box, seed=job.seed)
        return np.concatenate([unit, np.zeros_like(unit)])

    def solve(phase: int, box: Box, state: np.ndarray) -> np.ndarray:
        return job.painter.solve(phase, state, conditioning(box), conditioning.tissue(box))

    def finish(box: Box, state: np.ndarray) -> np.ndarray:
        rgb = np.rint((state[:3].transpose(1, 2, 0) + 1) * 127.5)
        return np.clip(rgb, 0, 255).astype(np.uint8)

    return Work(start, solve, finish)


class _Crop:
    """A region of an array, sliced by rows and read only then."""

    def __init__(self, array: Any, region: Box):
        self.array, self.region = array, region
        self.shape, self.dtype = (*shape(region), *array.shape[2:]), array.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        y0, x0, _, x1 = self.region
        start, stop, _ = rows.indices(self.shape[0])
        return self.array[y0 + start : y0 + stop, x0:x1]


class _Painting(Callback):
    """Tells of each finished block and phase."""

    def __init__(self, progress: Progress | None, total: int):
        self.progress, self.total, self.done = progress, total, 0
        super().__init__()

    def _posttask(self, key: Any, *_: Any) -> None:
        if key[0] != "free":
            self.done += 1
            if self.progress:
                self.progress("painting", self.done, self.total)


def _fingerprint(nuclei: Nuclei) -> str:
    digest = hashlib.sha256()
    for part in (nuclei.coords, nuclei.ring_offsets, nuclei.polygon_offsets, nuclei.types):
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update(nuclei.tissue.wkb if nuclei.tissue is not None else b"")
    return digest.hexdigest()[:16]


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise OutputError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, but the render may need "
            f"{needed / 1e9:.1f} GB: make room or choose another folder"
        )

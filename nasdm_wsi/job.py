"""A planned render: the input of its painter, its cost, and the facts that determine its bytes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .annotations.nuclei import Nuclei
from .annotations.raster import Conditioning, check_planes
from .errors import PlanError
from .geometry import Block, Box, Plan, Steps, cells_in, shape
from .provenance import provenance
from .resampling import KERNEL, Resampling

FLOAT32 = 4  # bytes
GPU_THREADS = 8  # of a process: one computes, and the others draw masks and encode tiles
# The planes of known pixels: 1 where the picture is given, and its values there in [-1, 1].
PIXELS_KNOWN = "pixels known"
PIXELS = (PIXELS_KNOWN, "known red", "known green", "known blue")


@dataclass(frozen=True)
class Window:
    """The input of a painter for one window.

    Attributes:
        box: the place of the window on the canvas.
        wanted: the part of the box whose result is used; the rest is only its context.
        state: float32 (channels, h, w), before the phase.
        planes: float32 (planes, h, w), the conditioning planes in the order of `Painter.planes`.
        tissue: bool (h, w); where it is false the slide shows glass.
        noise: maps a solver step, counted from 0, to unit Gaussian noise, float32 (3, h, w). A
            pixel has the same noise in every window, and other noise at every step.
    """

    box: Box
    wanted: Box
    state: np.ndarray
    planes: np.ndarray
    tissue: np.ndarray
    noise: Callable[[int], np.ndarray]


class Painter(Protocol):
    """The protocol of objects that paint windows, such as `nasdm_wsi.model.Painter`.

    Attributes:
        mpp: micrometres per pixel of the slides that it paints.
        channels: how many numbers the state of a pixel has; only the painter defines their meaning.
        planes: the names of the conditioning planes that it requires.
        facts: what determines the bytes, for the provenance and the run identity.
        bytes_per_pixel: memory that `solve` needs for each pixel of a window.
        resident_bytes: memory that the program and the network take for any picture.
    """

    mpp: float
    channels: int
    planes: tuple[str, ...]
    facts: dict[str, Any]
    bytes_per_pixel: int
    resident_bytes: int

    def plan(self, size: tuple[int, int]) -> Plan:
        """Plan how a canvas of ``size`` (h, w) is cut."""

    def start(self, unit: np.ndarray) -> np.ndarray:
        """Return state (channels, h, w) before the first phase, from unit noise (3, h, w)."""

    def solve(self, steps: Steps, windows: Sequence[Window]) -> np.ndarray:
        """States (n, channels, h, w) of the wanted parts of n windows after the steps of a phase.

        The wanted parts of all windows lie at the same place in them.
        """

    def glass(self, done: int, unit: np.ndarray) -> np.ndarray:
        """Return the state (channels, h, w) of glass after so many steps, from noise (3, h, w).

        Each pixel depends only on its own noise, and all finished pixels have the same colour.
        """

    def kept(self, done: int, unit: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Return state after so many steps, as `glass`, where the pixels uint8 (h, w, 3) are known.

        Only painters with the planes of known pixels need it.
        """

    def finish(self, state: np.ndarray) -> np.ndarray:
        """Return pixels uint8 (h, w, 3) of a state (channels, h, w) after the last phase."""


class Known(Protocol):
    """The protocol of what is known of the picture, such as the slide of which a part is edited.

    Boxes may reach beyond the canvas. Processes that paint get a copy by pickle, and threads share
    it.
    """

    @property
    def facts(self) -> dict[str, Any]:
        """What determines the mask and the known pixels, in types of JSON."""

    def mask(self, box: Box) -> np.ndarray:
        """Return bool (h, w): the pixels that are known; all others are painted."""

    def pixels(self, box: Box) -> np.ndarray:
        """Return the picture, uint8 (h, w, 3); where it is not known, nothing depends on it."""

    def finished(self, box: Box, painted: np.ndarray) -> np.ndarray:
        """Return finished pixels, uint8 (h, w, 3), of those that are known and those painted.

        They are exactly the known ones where these are known.
        """


@dataclass(frozen=True)
class Output:
    """A slide whose pixel size is not that of the painter.

    Attributes:
        mpp: micrometres per pixel of the slide.
        box: the part that is shown, in pixels of the slide.
    """

    mpp: float
    box: Box


@dataclass(frozen=True)
class Job:
    """A planned render: all settings are known, and nothing has been computed or written yet.

    Attributes:
        nuclei: in canvas pixels at the painter's mpp.
        region: the part of the canvas that is painted; the slide shows it, unless there is an
            ``output``.
        output: the slide, if it is resampled from the canvas to another pixel size.
        known: pixels of the picture that are given: they are kept exactly, and the rest is painted
            to fit them.

    Raises:
        PlanError: the painter requires a plane that cannot be made, or takes no known pixels.
    """

    nuclei: Nuclei
    painter: Painter
    plan: Plan
    region: Box
    seed: int
    output: Output | None = None
    known: Known | None = None

    def __post_init__(self) -> None:
        check_planes(self._drawn)
        if self.known and (PIXELS_KNOWN not in self.painter.planes or self.plan.taper):
            raise PlanError(
                "these weights cannot fit what they paint to known pixels: choose `weights` whose "
                f"planes include {PIXELS_KNOWN!r}"
            )

    def __repr__(self) -> str:
        h, w = shape(self.shown)
        what = f"{w} x {h} pixels at {self.mpp} mpp, {len(self.nuclei):,} nuclei"
        return f"<Job: {what}, seed {self.seed}>"

    def __getstate__(self) -> dict[str, Any]:
        # The cache of rasters stays here: another process fills its own.
        return {name: value for name, value in vars(self).items() if name != "_conditioning"}

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files that were read for this job, as far as they are known."""
        read = (self.nuclei, self.painter, self.known)
        return tuple(path for part in read for path in getattr(part, "sources", ()))

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of the slide."""
        return self.output.mpp if self.output else self.painter.mpp

    @property
    def shown(self) -> Box:
        """The part that the slide shows, in its own pixels."""
        return self.output.box if self.output else self.region

    @property
    def resampling(self) -> Resampling | None:
        """The way from the canvas to a slide of another pixel size."""
        if self.output is None:
            return None
        return Resampling(self.plan.size, self.output.mpp / self.painter.mpp)

    @cached_property
    def _conditioning(self) -> Conditioning:
        return Conditioning(self.nuclei, self.plan.size)

    @property
    def _drawn(self) -> list[str]:
        """The planes of the painter that are drawn from annotations."""
        return [name for name in self.painter.planes if name not in PIXELS]

    def planes(self, box: Box) -> np.ndarray:
        """Return the planes that the painter requires, float32 (planes, h, w), of a box."""
        names = self.painter.planes
        drawn = self._conditioning.planes(self._drawn, box)
        if len(drawn) == len(names):
            return drawn
        planes = np.zeros((len(names), *shape(box)), np.float32)
        planes[[names.index(name) for name in self._drawn]] = drawn
        if self.known:
            planes[[names.index(name) for name in PIXELS]] = _known_planes(self.known, box)
        return planes

    def tissue(self, box: Box) -> np.ndarray:
        """Return bool (h, w): where the slide shows tissue and not glass."""
        return self._conditioning.tissue(box)

    def is_glass(self, box: Box) -> bool:
        """Return whether the slide shows only glass in the box."""
        return self.known is None and self._conditioning.is_glass(box)

    def unknown(self, box: Box) -> np.ndarray:
        """Return bool (h, w): the pixels that have to be painted, also beyond the canvas."""
        return np.ones(shape(box), bool) if self.known is None else ~self.known.mask(box)

    @property
    def threads(self) -> int:
        """How many threads of this process paint by default: one a core, or a few for a GPU."""
        return min(default_workers(), getattr(self.painter, "threads", None) or default_workers())

    @property
    def blocks(self) -> list[Block]:
        """The blocks to paint."""
        return cells_in(self.plan.blocks_of(self.region))

    def disk(self, workers: int | None = None) -> int:
        """Return the most bytes that run folder and output need, with so many ``workers``."""
        short, long = sorted(shape(self.plan.needed(self.region)[0]))
        # The scheduler goes line by line: each phase keeps two short lines of blocks, and each
        # worker may hold up four more parts.
        waiting = 2 * short * len(self.plan.phases) + 4 * (workers or self.threads)
        pixels = math.prod(min(self.plan.part_side, n) for n in shape(self.plan.bounds))
        state = min(waiting, 2 * short * long) * pixels * self.painter.channels * FLOAT32
        # The tiles of all levels, a third more than the pixels, lie in the run folder and again in
        # the output; at worst they cannot be compressed.
        tiles = 3 * math.prod(shape(self.shown)) * 4 // 3
        return state + 2 * tiles

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that determine the bytes of the slide."""
        return {
            "software": f"nasdm-wsi {version('nasdm-wsi')}",
            "seed": self.seed,
            "canvas": list(self.plan.size),
            "region": list(self.region),
            "plan": self._plan_facts(),
            "nuclei": self.nuclei.fingerprint(),
            **self._resampling_facts(),
            **({"known": self.known.facts} if self.known else {}),
            **self.painter.facts,
        }

    def _plan_facts(self) -> dict[str, Any]:
        """Return the facts of the plan that determine the bytes; a phase is its last step."""
        names = ("stride", "margin", "taper", "windows", "grid")
        facts: dict[str, Any] = {name: getattr(self.plan, name) for name in names}
        return facts | {"phases": [last for _, last in self.plan.phases]}

    def _resampling_facts(self) -> dict[str, Any]:
        if self.output is None:
            return {}
        told = {"from mpp": self.painter.mpp, "to mpp": self.mpp, "kernel": KERNEL}
        return {"resampled": told | {"region": list(self.shown)}}

    @property
    def provenance(self) -> str:
        """The description of the slide: that it is synthetic, and the facts in JSON."""
        return provenance(self.facts)

    def report(self, *, workers: int | None = None) -> list[str]:
        """Return the plan in lines: size, blocks, steps, memory, disk, expected time.

        The time is extrapolated from painting one small window, which takes a short time.
        """
        needed = [cells_in(cells) for cells in self.plan.needed(self.region)]
        painted = {b for b in needed[0] if not self.is_glass(self.plan.part(b))}
        pixels = {b: self._computed_pixels(b) for b in painted}
        work = sum(pixels.get(b, 0) for blocks in needed for b in blocks) / len(needed)
        workers = min(workers or self.threads, max(len(painted), 1))
        largest = math.prod(shape(self.plan.window(self.plan.cores(self.blocks[0])[0])))
        memory = workers * largest * self.painter.bytes_per_pixel + self.painter.resident_bytes
        minutes = work * self._seconds_per_pixel() / workers / 60
        h, w = shape(self.shown)
        painted_at = f", painted at {self.painter.mpp} mpp" if self.output else ""
        return [
            f"slide     {w} x {h} pixels at {self.mpp} mpp{painted_at}, "
            f"{len(self.nuclei):,} nuclei",
            *self._region_lines(),
            f"blocks    {len(self.blocks)} of {self.plan.block_side} pixels, "
            f"margin {self.plan.margin}; {len(painted.intersection(self.blocks))} show tissue",
            f"phases    {len(needed)}",
            f"workers   {workers}",
            f"memory    {memory / 1e9:.1f} GB at most",
            f"disk      {self.disk(workers) / 1e9:.1f} GB at most",
            f"time      {minutes:.1f} minutes expected",
        ]

    def _region_lines(self) -> list[str]:
        """Return what regions are drawn, in a line, if there are any."""
        regions = self.nuclei.regions
        if not regions:
            return []
        areas = regions.square_millimetres()
        told = (f"{n:,} {name} ({areas[name]:.3g} mm2)" for name, n in regions.counts().items())
        return [f"regions   {', '.join(told)}"]

    def _computed_pixels(self, block: Block) -> float:
        """Return how many pixels of a block's windows a step computes, about.

        Context is dropped on the way, so it counts half.
        """
        cores = self.plan.cores(block)
        boxes = [(self.plan.window(core), self.plan.reached(core)) for core in cores]
        return sum(math.prod(shape(box)) for pair in boxes for box in pair) / 2

    def _seconds_per_pixel(self) -> float:
        first = self.plan.window(self.plan.cores(self.blocks[0])[0])
        window = self._trial_window(min(256, *shape(first)))
        self.painter.solve(self.plan.phases[0], [window])
        begin = time.perf_counter()
        for steps in self.plan.phases:
            self.painter.solve(steps, [window])
        return (time.perf_counter() - begin) / window.tissue.size

    def _trial_window(self, side: int) -> Window:
        """Make a window that is all tissue, in a state of zeros."""
        box = (0, 0, side, side)

        def zeros(channels: int) -> np.ndarray:
            return np.zeros((channels, side, side), np.float32)

        return Window(
            box=box,
            wanted=box,
            state=zeros(self.painter.channels),
            planes=self.planes(box),
            tissue=np.ones((side, side), bool),
            noise=lambda step: zeros(3),
        )


def _known_planes(known: Known, box: Box) -> np.ndarray:
    """Return the planes `PIXELS` of a box, float32 (4, h, w): zero where nothing is known."""
    mask = known.mask(box)
    values = known.pixels(box).astype(np.float32) / np.float32(127.5) - 1
    return np.concatenate([mask[None], values.transpose(2, 0, 1) * mask]).astype(np.float32)


def default_workers() -> int:
    """Return one worker for each core this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""Painters without a network, and a program that renders with one on a dask cluster."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import shapely
from scipy import ndimage as ndi

from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.errors import NasdmError
from nasdm_wsi.geometry import Plan, inside
from nasdm_wsi.job import Job, Window
from nasdm_wsi.mosaic.cluster import connect
from nasdm_wsi.mosaic.engine import Mosaic
from nasdm_wsi.mosaic.store import open_run
from nasdm_wsi.mosaic.workers import worker_pool
from nasdm_wsi.rendering import plan_render, render

SIDE = 200  # pixels of the slide: 7 x 7 blocks


@dataclass
class ToyPainter:
    """Blurs noise and darkens nuclei; ``seconds`` more for each window."""

    seconds: float = 0.0
    mpp: float = 0.5
    channels: int = 6
    planes: tuple[str, ...] = ("epithelial",)
    bytes_per_pixel: int = 100
    resident_bytes: int = 0
    facts: dict = field(default_factory=lambda: {"painter": "toy"})

    def plan(self, size: tuple[int, int]) -> Plan:
        """Small blocks, three phases."""
        return Plan(size, 32, 8, 0, 1, ((0, 1), (1, 2), (2, 3)), grid=8, reach=8)

    def start(self, unit):
        """Noise, and nothing before it."""
        return np.concatenate([unit, np.zeros_like(unit)])

    def solve(self, steps, windows):
        """A step that reaches 5 pixels."""
        time.sleep(self.seconds)
        return np.stack([wanted(self._step(window), window) for window in windows])

    def _step(self, window):
        before = window.state[:3]
        x = ndi.uniform_filter(before, (0, 11, 11)) * 3 - 0.5 * window.planes[0]
        return np.concatenate([np.where(window.tissue, x, np.float32(0.9)), before])

    def glass(self, done, unit):
        """Nothing is kept of the noise."""
        x = np.full_like(unit, 0.9)
        return np.concatenate([x, x if done > 1 else unit])

    def finish(self, state):
        """Pixels lie in [-1, 1]."""
        pixels = np.rint((state[:3].transpose(1, 2, 0) + 1) * 127.5)
        return np.clip(pixels, 0, 255).astype(np.uint8)


class DeadlyPainter(ToyPainter):
    """Takes its worker with it."""

    def solve(self, steps, windows):
        """Never returns."""
        os._exit(1)


@dataclass
class StepPainter:
    """A local step that reaches 8 pixels and remembers the pixels before it.

    It takes one such step in a phase; ``watch(step, windows)`` is called before with the first of
    the phase.
    """

    cut: Plan
    channels: int = 6
    planes: tuple[str, ...] = ()
    watch: Callable[[int, Sequence[Window]], None] = lambda step, windows: None
    mpp: float = 0.5
    bytes_per_pixel: int = 100
    resident_bytes: int = 0
    facts: dict = field(default_factory=lambda: {"painter": "steps"})

    DARKENS = {"epithelial": 0.3, "lymphocyte": 0.5, "edge": 0.7, "nuclei known": 0.1}

    def plan(self, size: tuple[int, int]) -> Plan:
        """The plan it was made with."""
        assert size == self.cut.size
        return self.cut

    def start(self, unit):
        """Noise, and zeros in all other channels."""
        return np.concatenate([unit, np.zeros((self.channels - 3, *unit.shape[1:]), np.float32)])

    def solve(self, steps, windows):
        """A step on each window."""
        self.watch(steps[0], windows)
        return np.stack([wanted(self.step(steps, window), window) for window in windows])

    def step(self, steps, window):
        """The state (channels, h, w) of a whole window after the steps of a phase."""
        x, rest = window.state[:3], window.state[3:]
        planes = dict(zip(self.planes, window.planes, strict=True))
        for name in sorted(planes):
            x = x - np.float32(self.DARKENS[name]) * planes[name]
        for _ in range(2):
            x = ndi.convolve(x, np.ones((1, 5, 5)) / (5 + steps[0]), mode="constant")
        return np.concatenate([np.tanh(x) - 0.1 * rest.sum(axis=0), np.resize(x, rest.shape)])

    def glass(self, done, unit):
        """There is none: see `GlassPainter`."""
        raise NotImplementedError

    def finish(self, state):
        """Zero is grey."""
        return np.clip(127.5 + 100 * state[:3].transpose(1, 2, 0), 0, 255).astype(np.uint8)


class GlassPainter(StepPainter):
    """As `StepPainter`, but outside the tissue the noise fades and the picture is even."""

    def step(self, steps, window):
        """Glass replaces what was painted there."""
        faded, even = (
            0.5 ** (steps[1] - steps[0]) * window.state[:3],
            np.full_like(window.state[3:], 0.3),
        )
        return np.where(window.tissue, super().step(steps, window), np.concatenate([faded, even]))

    def glass(self, done, unit):
        """As `step` has it, pixel for pixel."""
        return np.concatenate([0.5**done * unit, np.full_like(unit, 0.3)])

    def finish(self, state):
        """The picture before the last step."""
        return super().finish(state[3:])


def cut_up(job, stride, *, together=1):
    """The same job in blocks of ``stride`` pixels, with so many solver steps ``together``."""
    plan, steps = job.plan, job.plan.phases[-1][1]
    before = plan.phases[0][1]
    cut = replace(
        plan,
        stride=stride,
        margin=plan.margin // before * together,
        reach=plan.reach // before * together,
        phases=tuple((k, min(k + together, steps)) for k in range(0, steps, together)),
    )
    return replace(job, plan=cut)


def wanted(state, window):
    """The wanted part of a state (channels, h, w) of a whole window."""
    return state[:, *inside(window.wanted, window.box)]


def step_job(painter, *, nuclei=None, region=None) -> Job:
    """A job for a painter that knows its plan; without ``nuclei`` all is tissue."""
    nuclei = no_nuclei() if nuclei is None else nuclei
    return plan_render(nuclei, painter, size=painter.cut.size, region=region, seed=3)


def no_nuclei(tissue=None) -> Nuclei:
    """Nothing, on ``tissue`` or everywhere."""
    return Nuclei.from_polygons(np.array([]), np.array([], int), mpp=0.5, tissue=tissue)


def painted(folder, job, *, do=None, threads=1, pyramid=None):
    """The region's pixels, or the encoded tiles of a pyramid by level; ``do(mosaic)`` does all."""
    with open_run(folder, {"run": "test"}) as store:
        mosaic = Mosaic(job, store, pyramid)
        if do:
            do(mosaic)
        else:
            with worker_pool(mosaic, workers=threads) as pool:
                mosaic.paint(pool)
        if pyramid:
            return [list(mosaic.encoded(level)) for level in range(len(pyramid.shapes))]
        return mosaic.pixels(job.region)


def toy_job(seconds: float = 0.0) -> Job:
    """Disks on most of the slide; the upper left corner is glass."""
    rng = np.random.default_rng(0)
    disks = shapely.buffer(shapely.points(rng.uniform(70, SIDE, (60, 2))), rng.uniform(4, 9, 60))
    tissue = shapely.box(0, 0, SIDE, SIDE) - shapely.box(0, 0, 75, 75)
    nuclei = Nuclei.from_polygons(disks, np.full(60, 2), mpp=0.5, tissue=tissue)
    return plan_render(nuclei, ToyPainter(seconds), size=(SIDE, SIDE), seed=5)


def main(scheduler: str, out: str, seconds: str) -> None:
    """Render as the command line does; each task leaves a line on standard output."""
    try:
        with connect(scheduler) as client:
            render(
                toy_job(float(seconds)),
                Path(out),
                client=client,
                lossless=True,
                progress=lambda *now: print(*now, flush=True),
            )
    except NasdmError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A painter without a network, and a program that renders with it on a dask cluster."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
from scipy import ndimage as ndi

from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.errors import NasdmError
from nasdm_wsi.geometry import Plan
from nasdm_wsi.mosaic.workers import connect
from nasdm_wsi.rendering import Job, plan_render, render

SIDE = 200  # pixels of the slide: 7 x 7 blocks


@dataclass
class ToyPainter:
    """Blurs noise and darkens nuclei; ``seconds`` more for each window."""

    seconds: float = 0.0
    mpp: float = 0.5
    bytes_per_pixel: int = 100
    resident_bytes: int = 0
    facts: dict = field(default_factory=lambda: {"painter": "toy"})

    def plan(self, size: tuple[int, int]) -> Plan:
        """Small blocks, three phases."""
        return Plan(size, 32, 8, 0, 1, ((0, 1), (1, 2), (2, 3)), grid=8, reach=8)

    def solve(self, phase, state, mask, tissue):
        """A step that reaches 5 pixels."""
        time.sleep(self.seconds)
        x = ndi.uniform_filter(state[:, :3], (0, 0, 11, 11)) * 3 - 0.5 * mask[:, 1:2]
        x = np.where(tissue[:, None], x, 0.9).astype(np.float32)
        return np.concatenate([x, state[:, :3]], axis=1)

    def glass(self, phase, unit):
        """Nothing is kept of the noise."""
        x = np.full_like(unit, 0.9)
        return np.concatenate([x, x if phase else unit])


class DeadlyPainter(ToyPainter):
    """Takes its worker with it."""

    def solve(self, phase, state, mask, tissue):
        """Never returns."""
        os._exit(1)


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

"""Memory and disk as the slide grows, and the cost of a task.

    python benchmarks/slide_size.py [--sides 4096 16384 65536]

A painter that hardly computes stands in for the network, so that the engine is measured: two
phases with the halo of the shipped weights, noise, states on disk, tiles and the file. Two worker
processes of a local dask cluster.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from measure import machine, peaks, table, watched

from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.types import PLANES
from nasdm_wsi.delivery import run_folder
from nasdm_wsi.geometry import Plan, Steps, inside
from nasdm_wsi.job import Window
from nasdm_wsi.mosaic.cluster import local
from nasdm_wsi.rendering import plan_render, render

WORKERS = 2


@dataclass
class StandIn:
    """A painter that makes smooth noise in two phases."""

    mpp: float = 0.5
    channels: int = 6  # as the shipped weights have
    planes: tuple[str, ...] = PLANES
    bytes_per_pixel: int = 50
    resident_bytes: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    def plan(self, size: tuple[int, int]) -> Plan:
        """The plan of the shipped network, with two phases."""
        return Plan(size, 512, 72, 0, 1, ((0, 1), (1, 2)), grid=8, reach=80)

    def start(self, unit: np.ndarray) -> np.ndarray:
        """The noise, and zeros beside it."""
        return np.concatenate([unit, np.zeros_like(unit)])

    def solve(self, steps: Steps, windows: Sequence[Window]) -> np.ndarray:
        """Move pixels halfway to a constant."""
        parts = [window.state[:, *inside(window.wanted, window.box)] for window in windows]
        return 0.5 * np.stack(parts)

    def glass(self, done: int, unit: np.ndarray) -> np.ndarray:
        """Raise an error: this slide has no glass."""
        raise NotImplementedError

    def finish(self, state: np.ndarray) -> np.ndarray:
        """Grey is 128, and noise of one standard deviation moves it by 64."""
        pixels = 128 + 64 * state[:3].transpose(1, 2, 0)
        return np.clip(pixels, 0, 255).astype(np.uint8)


def size_of(folder: Path) -> int:
    """Bytes on disk below a folder to which others may be writing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(root, name).stat().st_blocks * 512
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[4096, 16_384, 65_536])
    options = parser.parse_args()
    print(machine("dask", "distributed", "numpy"), flush=True)
    rows = []
    nothing = Nuclei.from_polygons([], [], mpp=0.5)
    for side in options.sides:
        job = plan_render(nothing, StandIn(), size=(side, side))
        with TemporaryDirectory(dir=".") as folder, local(WORKERS) as client:
            out, tasks, disk = Path(folder, "slide.ome.tif"), [0], [0]

            def progress(what: str, done: int, total: int, tasks: list[int] = tasks) -> None:
                tasks[0] = total if what == "painting" else tasks[0]

            def look(folder: Path = Path(folder), disk: list[int] = disk) -> None:
                disk[0] = max(disk[0], size_of(folder))

            with watched(look, 1.0), peaks(0.2) as memory:
                begin = time.perf_counter()
                render(job, out, client=client, progress=progress)
                seconds = time.perf_counter() - begin
            assert not run_folder(out).exists()
            rows.append(
                (
                    f"{side:,}",
                    tasks[0],
                    seconds,
                    f"{memory['client'] / 1e6:.0f} MB",
                    f"{memory['worker'] / 1e6:.0f} MB",
                    f"{disk[0] / 1e9:.2f} GB",
                    f"{out.stat().st_size / 1e9:.2f} GB",
                    f"{1e3 * seconds * WORKERS / tasks[0]:.1f} ms",
                )
            )
            print(*rows[-1], flush=True)
    table(("side", "tasks", "s", "client", "a worker", "disk", "slide", "worker time a task"), rows)


if __name__ == "__main__":
    main()

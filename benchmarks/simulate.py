"""A simulated cluster: a thousand workers, ten gigapixels, the real ledger of tasks.

    python benchmarks/simulate.py [--side 100000]

Tasks go through `schedule.Ledger` as in a render. Workers, the scheduler and the storage are
queues with modelled service times. The time of client and scheduler for a task is measured with
tasks that do nothing. Prints the total time, how busy each part is, and which one is the limit.
"""

from __future__ import annotations

import argparse
import heapq
import time
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from measure import machine, table, unpainted

from nasdm_wsi.geometry import Plan
from nasdm_wsi.mosaic import schedule
from nasdm_wsi.mosaic.cluster import local
from nasdm_wsi.mosaic.engine import Mosaic
from nasdm_wsi.mosaic.schedule import Grid, Ledger, Task
from nasdm_wsi.mosaic.store import RunStore
from nasdm_wsi.slides.pyramid import Pyramid

HALO, STEPS = 72, 10
IN_FLIGHT = 2


@dataclass(frozen=True)
class Model:
    """Modelled seconds of a worker for a task of a block of ``side`` pixels."""

    name: str
    workers: int
    block: int
    pixels_per_second: float  # of one solver step, on one worker
    bytes_per_second: float  # of the storage, for all workers together

    def seconds(self, phase: bool) -> float:
        """Seconds of computing."""
        window = (self.block + 2 * HALO) ** 2
        return window / self.pixels_per_second if phase else 2e-8 * self.block**2

    def bytes(self, phase: bool) -> int:
        """Bytes read and written."""
        window = (self.block + 2 * HALO) ** 2
        return 24 * (window + self.block**2) if phase else 27 * self.block**2


def nothing(task: Task) -> None:
    """Do nothing."""


@dataclass
class DoingNothing:
    """A worker pool for empty tasks."""

    executor: Executor

    def submit(self, task: Task) -> Future:
        return self.executor.submit(nothing, task)

    def capacity(self) -> int:
        return 200  # so that no turn is waited for

    def stalled(self) -> None:
        raise RuntimeError("the workers are gone")


def seconds_per_task(tasks: int = 3_000) -> float:
    """Seconds of client, scheduler and two workers on this machine for an empty task."""
    line = Grid((range(0),), (range(0),) * tasks)
    with local(2) as client:
        pool = DoingNothing(client.get_executor())
        for count in (100, tasks):
            done = [np.arange(tasks)[None] >= count]
            begin = time.perf_counter()
            schedule.run(Ledger([line], done, done), pool, finished=lambda task, idle: None)
    return (time.perf_counter() - begin) / tasks


def run(model: Model, side: int, per_task: float) -> tuple[float, float, float, float, float]:
    """Simulated seconds; busy shares of workers, scheduler and storage; real seconds."""
    plan = Plan(
        (side, side),
        model.block,
        HALO,
        0,
        1,
        tuple((k, k + 1) for k in range(STEPS)),
        grid=8,
        reach=HALO + 8,
    )
    with TemporaryDirectory() as folder:
        mosaic = Mosaic(unpainted(plan), RunStore(Path(folder)), Pyramid((side, side, 3)))
        begin = time.perf_counter()
        ledger = mosaic.ledger()
    now = scheduler = storage = 0.0
    busy = {"workers": 0.0, "scheduler": 0.0, "storage": 0.0}
    free = [0.0] * model.workers  # when each worker is
    heapq.heapify(free)
    running: list[tuple[float, tuple[int, int, int]]] = []
    while True:
        while len(running) < IN_FLIGHT * model.workers and (task := ledger.next()):
            phase = task[0] < STEPS
            scheduler = max(scheduler, now) + per_task
            start = max(scheduler, heapq.heappop(free))
            moving = model.bytes(phase) / model.bytes_per_second
            storage = max(storage, start) + moving
            end = max(start + model.seconds(phase), storage)
            busy["workers"] += model.seconds(phase)
            busy["scheduler"] += per_task
            busy["storage"] += moving
            heapq.heappush(free, end)
            heapq.heappush(running, (end, task))
        if not running:
            break
        now, task = heapq.heappop(running)
        ledger.finish(task)
    real = time.perf_counter() - begin
    return (
        now,
        busy["workers"] / now / model.workers,
        busy["scheduler"] / now,
        busy["storage"] / now,
        real,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=100_000)
    options = parser.parse_args()
    print(machine("numpy", "distributed"), flush=True)
    per_task = seconds_per_task()
    print(f"{1e3 * per_task:.2f} ms of client and scheduler for a task", flush=True)
    # 280,000 window pixels a second and step: the shipped network on one core, guided steps
    # counted twice. 50,000,000: what a large GPU may do with it; not measured.
    models = [
        Model("1,000 cores, blocks of 512", 1_000, 512, 280e3, 20e9),
        Model("100 GPUs, blocks of 512", 100, 512, 50e6, 20e9),
        Model("100 GPUs, blocks of 2048", 100, 2048, 50e6, 20e9),
        Model("1,000 GPUs, blocks of 2048", 1_000, 2048, 50e6, 20e9),
        Model("1,000 GPUs, blocks of 2048, storage of 200 GB/s", 1_000, 2048, 50e6, 200e9),
    ]
    rows = []
    for model in models:
        seconds, workers, scheduler, storage, real = run(model, options.side, per_task)
        busy = {"workers": workers, "scheduler": scheduler, "storage": storage}
        rows.append(
            (
                model.name,
                f"{seconds / 60:.1f} min",
                *(f"{share:.0%}" for share in busy.values()),
                max(busy, key=lambda name: busy[name]),
                f"{real:.0f} s",
            )
        )
    table(
        ("cluster", "simulated", "workers busy", "scheduler", "storage", "limit", "real time"), rows
    )


if __name__ == "__main__":
    main()

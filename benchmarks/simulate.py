"""A simulated cluster: a thousand workers, ten gigapixels, the real plan and ledger of tasks.

    python benchmarks/simulate.py [--side 100000] [--steps 4] [--ms 2.4]

The plan is the one that `costs` chooses for the canvas and the kind of worker. Tasks go through
`schedule.Ledger` in bundles, as in a render. Workers, the scheduler and the storage are queues with
modelled service times. The time of client and scheduler for a bundle is measured with tasks that do
nothing. Prints the total time, how busy each part is, and which one is the limit.
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

from nasdm_wsi import costs
from nasdm_wsi.geometry import Plan
from nasdm_wsi.job import GPU_THREADS
from nasdm_wsi.model import Painter
from nasdm_wsi.model.families import FAMILIES, MACHINES, Sampling
from nasdm_wsi.mosaic import schedule
from nasdm_wsi.mosaic.cluster import BUNDLES_PER_THREAD, Bundler, local
from nasdm_wsi.mosaic.engine import Mosaic
from nasdm_wsi.mosaic.schedule import Grid, Ledger, Task
from nasdm_wsi.mosaic.store import RunStore
from nasdm_wsi.slides.pyramid import Pyramid

TILE = 512**2  # pixels
ENCODING = 4e-8  # seconds of a core for a pixel of a tile


@dataclass(frozen=True)
class Cluster:
    """Workers of a kind, and the bytes a second of the storage that they share."""

    name: str
    kind: tuple[str, str]
    workers: int
    storage: float


@dataclass(frozen=True)
class Load:
    """What tasks cost: modelled seconds of a worker, and bytes read and written."""

    work: costs.Work
    plan: Plan
    cluster: Cluster

    def of(self, task: Task) -> tuple[float, float]:
        """Seconds and bytes of one task, of a block or tile of full size."""
        phases = len(self.plan.phases)
        if task[0] >= phases:
            threads = 1 if self.cluster.kind[0] == "cpu" else GPU_THREADS
            return ENCODING * TILE / threads, TILE * (3 + 0.75 + 0.3)
        block, state = self.plan.stride, costs.FLOAT32 * self.work.channels
        window = block + 2 * self.plan.margin
        first, last = self.plan.phases[task[0]]
        sides = [block + 2 * k * self.work.halo for k in range(last - first + 1)]
        pixels = sum((a**2 + b**2) / 2 for a, b in zip(sides, sides[1:], strict=False))
        read = state * window**2 if task[0] else 0
        written = (3 if task[0] == phases - 1 else state) * block**2
        kind = MACHINES[self.cluster.kind]
        network = pixels * self.work.operations / kind.operations
        return self._seconds(network, kind.handling * window**2), read + written

    def _seconds(self, network: float, handling: float) -> float:
        """Seconds until a worker can take the next task."""
        if self.cluster.kind[0] == "cpu":
            return network + handling
        return max(network, handling)  # which is that of all threads of its process


def nothing(tasks: list[Task]) -> None:
    """Do nothing."""


@dataclass
class DoingNothing:
    """A worker pool for empty tasks."""

    executor: Executor

    def submit(self, tasks: list[Task]) -> Future:
        return self.executor.submit(nothing, tasks)

    def bundle(self, ledger: Ledger, running: int) -> list[Task]:
        task = ledger.next()
        return [task] if task else []

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


def run(cluster: Cluster, work: costs.Work, side: int, per_bundle: float) -> dict[str, float]:
    """Simulated seconds; busy shares of workers, scheduler and storage; real seconds."""
    plan = costs.cheapest((side, side), work, MACHINES[cluster.kind])
    load = Load(work, plan, cluster)
    with TemporaryDirectory() as folder:
        mosaic = Mosaic(unpainted(plan), RunStore(Path(folder)), Pyramid((side, side, 3)))
        begin = time.perf_counter()
        ledger = mosaic.ledger()
    total, bundler = ledger.left, Bundler()
    now = scheduler = storage = 0.0
    busy = {"workers": 0.0, "scheduler": 0.0, "storage": 0.0}
    free = [0.0] * cluster.workers  # when each worker is
    heapq.heapify(free)
    running: list[tuple[float, list[Task]]] = []
    while True:
        while len(running) < BUNDLES_PER_THREAD * cluster.workers and ledger.ready:
            tasks = bundler.take(ledger, threads=cluster.workers, running=len(running))
            seconds = moving = 0.0
            for task in tasks:
                computing, size = load.of(task)
                bundler.learn(task, computing)
                seconds, moving = seconds + computing, moving + size / cluster.storage
            scheduler = max(scheduler, now) + per_bundle
            start = max(scheduler, heapq.heappop(free))
            storage = max(storage, start) + moving
            end = max(start + seconds, storage)
            busy["workers"] += seconds / cluster.workers
            busy["scheduler"] += per_bundle
            busy["storage"] += moving
            heapq.heappush(free, end)
            heapq.heappush(running, (end, tasks))
        if not running:
            break
        now, tasks = heapq.heappop(running)
        for task in tasks:
            ledger.finish(task)
    shares = {name: value / now for name, value in busy.items()}
    real = time.perf_counter() - begin
    steps = plan.phases[0][1]
    cut = f"{plan.stride}, {steps} step{'s' * (steps > 1)} a phase"
    return {"plan": cut, "seconds": now, **shares, "real": real, "tasks": total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--ms", type=float, help="of a bundle, instead of measuring it")
    options = parser.parse_args()
    print(machine("numpy", "distributed"), flush=True)
    per_bundle = options.ms / 1e3 if options.ms else seconds_per_task()
    print(f"{1e3 * per_bundle:.2f} ms of client and scheduler for a bundle", flush=True)
    painter = Painter(device="cpu", steps=options.steps)
    clusters = [
        Cluster("1,000 cores, float32", ("cpu", "float32"), 1_000, 20e9),
        Cluster("1,000 cores, bfloat16", ("cpu", "bfloat16"), 1_000, 20e9),
        Cluster("100 GPUs", ("cuda", "bfloat16"), 100, 20e9),
        Cluster("1,000 GPUs", ("cuda", "bfloat16"), 1_000, 20e9),
        Cluster("1,000 GPUs, storage of 200 GB/s", ("cuda", "bfloat16"), 1_000, 200e9),
    ]
    rows = []
    for cluster in clusters:
        sampling = Sampling(options.steps, painter.channels, *cluster.kind)
        cut = FAMILIES[painter.family].cut(painter.network, sampling, painter.cut.halo)
        found = run(cluster, cut.plan.keywords["work"], options.side, per_bundle)
        shares = {name: found[name] for name in ("workers", "scheduler", "storage")}
        rows.append(
            (
                cluster.name,
                found["plan"],
                f"{found['tasks']:,}",
                f"{found['seconds'] / 60:.2f} min",
                *(f"{share:.0%}" for share in shares.values()),
                max(shares, key=lambda name: shares[name]),
                f"{found['real']:.0f} s",
            )
        )
    head = ("cluster", "blocks", "tasks", "simulated", "workers busy", "scheduler", "storage")
    table((*head, "limit", "real time"), rows)


if __name__ == "__main__":
    main()

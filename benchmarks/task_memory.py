"""Memory of client and worker against the number of bundles of tasks, which do nothing.

    python benchmarks/task_memory.py [--bundles 12000]

One worker process. The scheduler of dask runs in the process of the client, as with
`nasdm-wsi render --workers`.
"""

from __future__ import annotations

import argparse
import gc
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from distributed import Client
from measure import machine, table

from nasdm_wsi.mosaic.cluster import ClusterPool, Do, cluster_pool, local
from nasdm_wsi.mosaic.schedule import Task

IN_FLIGHT, ROWS = 20, 8


def nothing(task: Task) -> None:
    """Do nothing."""


def factory() -> Do:
    """Return what a worker does with a task."""
    return nothing


def resident() -> float:
    """Resident memory of this process in megabytes."""
    gc.collect()
    return psutil.Process().memory_info().rss / 1e6


def main() -> None:
    """Print the memory after each eighth of the bundles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundles", type=int, default=12_000)
    wanted = parser.parse_args().bundles
    print(machine("distributed"), end="\n\n")
    with TemporaryDirectory() as folder, local(1) as client:
        with cluster_pool(client, Path(folder), factory) as pool:
            table(["bundles", "client", "worker"], rows(client, pool, wanted))


def rows(client: Client, pool: ClusterPool, wanted: int) -> Iterator[list[str]]:
    """Yield how many bundles of one task are done, and the memory then."""
    running: deque[Future] = deque()
    for number in range(1, wanted + 1):
        running.append(pool.submit([(0, number, number)]))
        if len(running) > IN_FLIGHT:
            running.popleft().result()
        if number % (wanted // ROWS) == 0:
            (worker,) = client.run(resident).values()
            yield [f"{number:,}", f"{resident():.0f} MB", f"{worker:.0f} MB"]


if __name__ == "__main__":
    main()

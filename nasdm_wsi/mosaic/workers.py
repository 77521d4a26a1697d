"""The workers of a mosaic: threads of this process, or the workers of a dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..job import default_workers
from .engine import Mosaic
from .schedule import Task, WorkerPool

if TYPE_CHECKING:
    from distributed import Client


@contextmanager
def worker_pool(
    mosaic: Mosaic, *, workers: int | None = None, client: Client | None = None
) -> Iterator[WorkerPool]:
    """Yield the workers of ``client``, or ``workers`` threads; by default one for each core.

    Raises:
        OutputError: the cluster was lost, or a task killed several workers.
    """
    if client is None:
        count = workers or default_workers()
        with ThreadPoolExecutor(count) as executor:
            yield ThreadPool(executor, count, mosaic.do)
    else:
        from .cluster import cluster_pool, mosaic_factory  # dask takes a second to import

        with cluster_pool(client, mosaic.store.folder, mosaic_factory(mosaic)) as pool:
            yield pool


class ThreadPool:
    """A pool of ``count`` threads of this process, which call ``do`` with each task."""

    def __init__(self, executor: Executor, count: int, do: Callable[[Task], None]):
        self.executor, self.count, self.do = executor, count, do

    def submit(self, task: Task) -> Future:
        """Submit a task."""
        return self.executor.submit(self.do, task)

    def capacity(self) -> int:
        """Return one task for each thread, and one that waits for a free thread."""
        return self.count + 1

    def stalled(self) -> None:
        """Do nothing: a task may take any time."""

"""Who does the tasks of a mosaic: threads of this process, or the workers of a dask cluster."""

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
    """The workers of ``client``, or as many threads as ``workers`` says; by default one a core.

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
    """``count`` threads of this process, which call ``do`` with each task."""

    def __init__(self, executor: Executor, count: int, do: Callable[[Task], None]):
        self.executor, self.count, self.do = executor, count, do

    def submit(self, task: Task) -> Future:
        """Have a task done."""
        return self.executor.submit(self.do, task)

    def capacity(self) -> int:
        """One task for each thread, and one that waits for the first to be free."""
        return self.count + 1

    def stalled(self) -> None:
        """A task may take as long as it likes."""

"""The workers of a mosaic: threads of this process, or the workers of a dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from ..job import default_workers
from .engine import Mosaic
from .schedule import Ledger, Task, WorkerPool

if TYPE_CHECKING:
    from distributed import Client


class Threads(ThreadPoolExecutor):
    """``count`` threads of this process, by default one for each core; several renders may share
    them.
    """

    def __init__(self, count: int | None = None):
        self.count = count or default_workers()
        super().__init__(self.count)


@contextmanager
def worker_pool(
    mosaic: Mosaic, *, workers: int | Threads | None = None, client: Client | None = None
) -> Iterator[WorkerPool]:
    """Yield the workers of ``client``, or ``workers`` threads, which may be threads to share.

    Raises:
        OutputError: the cluster was lost, or a task killed several workers.
    """
    if client is None:
        count = workers or mosaic.job.threads
        shared = nullcontext(count) if isinstance(count, Threads) else Threads(count)
        with shared as threads:
            mine = ThreadPool(threads, mosaic.do)
            try:
                yield mine
            finally:
                wait(list(mine.running))  # they write to the run folder, which is locked until then
    else:
        from .cluster import cluster_pool, mosaic_factory  # dask takes a second to import

        with cluster_pool(client, mosaic.store.folder, mosaic_factory(mosaic)) as pool:
            yield pool


class ThreadPool:
    """A pool of threads of this process, which call ``do`` with each task."""

    def __init__(self, threads: Threads, do: Callable[[Task], None]):
        self.threads, self.do = threads, do
        self.running: set[Future] = set()

    def submit(self, tasks: list[Task]) -> Future:
        """Submit a bundle."""
        future = self.threads.submit(self._do_all, tasks)
        self.running.add(future)
        future.add_done_callback(self.running.discard)
        return future

    def capacity(self) -> int:
        """Return one bundle for each thread, and one that waits for a free thread."""
        return self.threads.count + 1

    def bundle(self, ledger: Ledger, running: int) -> list[Task]:
        """Take one task, because threads get tasks in no time."""
        task = ledger.next()
        return [task] if task else []

    def stalled(self) -> None:
        """Do nothing: a task may take any time."""

    def _do_all(self, tasks: list[Task]) -> None:
        for task in tasks:
            self.do(task)

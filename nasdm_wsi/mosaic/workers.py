"""Painting on a dask cluster: each worker holds what it needs once, and tasks are three numbers.

State lies in the run folder, on storage that all workers see; nothing but task numbers passes
through the scheduler. A worker that dies costs the tasks it was at: dask gives them to another,
and as a part appears whole or not at all, doing a task twice does no harm.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distributed import Client, KilledWorker, LocalCluster, Worker, WorkerPlugin, get_worker

from ..errors import NasdmError, OutputError, PlanError
from .schedule import Task

IN_FLIGHT = 2  # tasks with the cluster for each of its threads: the next waits where the last was
SECONDS_TO_JOIN = 60
RETRIES = 2  # of a task that failed, before the render ends

Do = Callable[[Task], None]

log = logging.getLogger(__name__)


@contextmanager
def connect(scheduler: str) -> Iterator[Client]:
    """A client of the cluster at an address (``tcp://host:8786``) or in a scheduler file.

    Raises:
        OutputError: nothing answers there, or no worker has joined after a minute.
    """
    place = {"scheduler_file": scheduler} if Path(scheduler).is_file() else {"address": scheduler}
    try:
        client = Client(**place, timeout=SECONDS_TO_JOIN, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OutputError(f"no dask scheduler answers at {scheduler}: start it first") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=SECONDS_TO_JOIN)
        except TimeoutError as error:
            raise OutputError(
                f"the dask scheduler at {scheduler} has no workers: start some first"
            ) from error
        yield client


@contextmanager
def local(workers: int, *, gpus: bool = False) -> Iterator[Client]:
    """A client of as many worker processes on this machine, each with a GPU of its own if ``gpus``.

    Raises:
        PlanError: ``gpus`` without the package dask-cuda.
    """
    if gpus:
        try:
            from dask_cuda import LocalCUDACluster
        except ImportError as error:
            raise PlanError(
                "workers on several GPUs need dask-cuda: install it, or give `device` cpu"
            ) from error
        cluster = LocalCUDACluster(n_workers=workers, silence_logs=logging.ERROR)
    else:
        # Without a limit: what a task needs is known beforehand, and a paused worker helps nobody.
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=None,
            dashboard_address="127.0.0.1:0",  # a free port
            silence_logs=logging.ERROR,
        )
    client = Client(cluster, set_as_default=False)
    try:
        yield client
    finally:
        # What dask raises when a worker is just being restarted must not hide what was raised here.
        for one in (client, cluster):
            with suppress(Exception):
                one.close()


@contextmanager
def hands(client: Client, folder: Path, make: Callable[[], Do]) -> Iterator[dict[str, Any]]:
    """Arguments for `Mosaic.paint` that have tasks done by the workers of ``client``.

    ``make`` is sent to each worker and called there once, when it joins; what it returns does the
    tasks. It must find ``folder`` there.

    Raises:
        OutputError: the cluster was lost, or a task killed several workers.
        NasdmError: what ``make`` or a task raised.
    """
    bench, crew = _Bench(folder, make), _Crew(client)
    try:
        client.register_plugin(bench)
        executor = client.get_executor(retries=RETRIES)
        yield {
            "submit": lambda task: executor.submit(_do, bench.name, task),
            "in_flight": lambda: IN_FLIGHT * max(crew.threads(), 1),
            "waiting": crew.complain,
        }
    except KilledWorker as error:
        raise OutputError(
            f"{error.allowed_failures + 1} workers died at one task; the last was "
            f"{error.last_worker.address}: look into its log (out of memory?), then give the same "
            "command again"
        ) from error
    except NasdmError:
        raise
    except (CancelledError, OSError) as error:
        if getattr(error, "errno", None) and not isinstance(error, ConnectionError):
            raise  # of a file
        raise OutputError(
            "the dask cluster was lost: start one and give the same command again to go on"
        ) from error
    finally:
        if client.status == "running":
            client.unregister_worker_plugin(bench.name)


class _Crew:
    """How many threads the cluster has; it is asked now and then, for workers come and go."""

    SECONDS = 2.0

    def __init__(self, client: Client):
        self.client, self.asked, self.known = client, -math.inf, 0

    def threads(self) -> int:
        if time.monotonic() - self.asked > self.SECONDS:
            self.known = sum(self.client.nthreads().values())
            self.asked = time.monotonic()
        return self.known

    def complain(self) -> None:
        """Nothing came back for a while."""
        if not self.threads():
            log.warning("the dask cluster has no worker left: waiting for one")


class _Bench(WorkerPlugin):
    """What a worker keeps: made once, when it joins."""

    def __init__(self, folder: Path, make: Callable[[], Do]):
        self.name = f"nasdm-wsi {folder}"
        self.folder, self.make, self.software = folder, make, version("nasdm-wsi")

    def setup(self, worker: Worker) -> None:
        """Called by dask on the worker."""
        if self.software != version("nasdm-wsi"):
            raise PlanError(f"{worker.address} has nasdm-wsi {version('nasdm-wsi')}: install ours")
        if not self.folder.exists():
            raise OutputError(
                f"{worker.address} does not see {self.folder}: render to storage that all "
                "workers share"
            )
        self.do = self.make()


def _do(name: str, task: Task) -> None:
    bench: Any = get_worker().plugins[name]
    bench.do(task)

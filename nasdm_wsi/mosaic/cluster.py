"""Painting on a dask cluster: each worker loads its data once, and a task is three numbers.

The state is in the run folder, on storage that all workers can access; only task numbers pass
through the scheduler. On a large cluster several tasks are sent together, because client and
scheduler handle only some hundreds of messages a second. When a worker dies, dask gives its tasks
to another one. Running a task twice is harmless, because a part is written completely or not at
all.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, KilledWorker, LocalCluster, Worker, WorkerPlugin, get_worker

from ..annotations.nuclei import Nuclei
from ..errors import NasdmError, OutputError, PlanError
from ..job import GPU_THREADS, Job
from ..processes import deaf_to_ctrl_c
from ..slides.pyramid import Pyramid
from .engine import Mosaic
from .schedule import Ledger, Task
from .store import RunStore

NUCLEI = "nuclei.npz"  # in the run folder
BUNDLES_PER_THREAD = 2  # with the cluster: one is done while the next waits on the same worker
BUNDLES_PER_SECOND = 200  # half of what client and scheduler can handle
SECONDS_TO_ANSWER = 60  # for a scheduler
SECONDS_TO_JOIN = 60  # for its first worker
RETRIES = 2  # of a task that failed, before the render ends

Do = Callable[[Task], None]

log = logging.getLogger(__name__)


@contextmanager
def connect(scheduler: str) -> Iterator[Client]:
    """Connect a client to the cluster at an address (``tcp://host:8786``) or in a scheduler file.

    Raises:
        OutputError: there is no such file, nothing answers, or no worker has joined after a minute.
    """
    place = {"scheduler_file": scheduler} if _is_file(scheduler) else {"address": scheduler}
    try:
        client = Client(**place, timeout=SECONDS_TO_ANSWER, set_as_default=False)
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


def _is_file(scheduler: str) -> bool:
    """Return whether a scheduler file is given, and not an address like ``tcp://host:8786``.

    Raises:
        OutputError: a file is given, and it is missing or no scheduler file.
    """
    if "://" in scheduler or re.fullmatch(r"[\w.\[\]:-]+:\d+", scheduler):
        return False
    try:
        told = json.loads(Path(scheduler).read_text(encoding="utf-8"))
        if isinstance(told["address"], str):
            return True
    except FileNotFoundError as error:
        raise OutputError(
            f"{scheduler}: no such scheduler file: start the dask scheduler first, with "
            "`scheduler` the file that it writes or its address, such as tcp://host:8786"
        ) from error
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise OutputError(f"{scheduler} is not a scheduler file, which dask scheduler writes as JSON")


@contextmanager
def local(workers: int, *, gpus: bool = False) -> Iterator[Client]:
    """Start worker processes on this machine, each with its own GPU if ``gpus``, and a client.

    Raises:
        PlanError: ``gpus`` without the package dask-cuda.
        OutputError: a worker could not be started.
    """
    try:
        with deaf_to_ctrl_c():
            cluster = _gpu_cluster(workers) if gpus else _cpu_cluster(workers)
    except (RuntimeError, OSError) as error:
        raise OutputError(
            f"the {workers} worker processes could not be started "
            f"({' '.join(str(error).split()) or type(error).__name__}): check that there is "
            "enough memory, and room for temporary files"
        ) from error
    client = Client(cluster, set_as_default=False)
    try:
        yield client
    finally:
        # If a worker is just being restarted dask raises, which must not hide an error of ours.
        for one in (client, cluster):
            with suppress(Exception):
                one.close()


def _cpu_cluster(workers: int) -> LocalCluster:
    # No memory limit: what a task needs is known beforehand, and a paused worker does nothing.
    # The error of a task reaches this process, so its worker need not log it, too.
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=None,
        dashboard_address="127.0.0.1:0",  # a free port
        silence_logs=logging.CRITICAL,
    )


def _gpu_cluster(workers: int) -> LocalCluster:
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise PlanError(
            "workers on several GPUs need dask-cuda: install it, or give `device` cpu"
        ) from error
    return LocalCUDACluster(
        n_workers=workers, threads_per_worker=GPU_THREADS, silence_logs=logging.CRITICAL
    )


@contextmanager
def cluster_pool(client: Client, folder: Path, factory: Callable[[], Do]) -> Iterator[ClusterPool]:
    """Yield the workers of ``client`` as a pool.

    ``factory`` is sent to each worker and called there once, when the worker joins. It returns the
    function that runs tasks. Each worker must be able to access ``folder``.

    Raises:
        OutputError: the cluster was lost, or a task killed several workers.
        NasdmError: what the factory or a task raised.
    """
    plugin = _Painting(folder.resolve(), factory)
    try:
        client.register_plugin(plugin)
        yield ClusterPool(client, plugin.name)
    except KilledWorker as error:
        raise OutputError(
            f"{error.allowed_failures + 1} workers died during one task; the last was "
            f"{error.last_worker.address}: see its log (out of memory?), then run the same "
            "command again"
        ) from error
    except NasdmError:
        raise
    except (CancelledError, OSError) as error:
        if getattr(error, "errno", None) and not isinstance(error, ConnectionError):
            raise  # of a file
        raise OutputError(
            "the dask cluster was lost: start one and run the same command again to resume"
        ) from error
    finally:
        if client.status == "running":
            client.unregister_worker_plugin(plugin.name)


class Bundler:
    """The choice of tasks that are sent together, so that the scheduler keeps up with the workers.

    ``seconds`` are those of a task, by stage, averaged over the last ones.
    """

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}

    def learn(self, task: Task, seconds: float) -> None:
        """Note how long a task took."""
        before = self.seconds.get(task[0], seconds)
        self.seconds[task[0]] = before + 0.1 * (seconds - before)

    def take(self, ledger: Ledger, *, threads: int, running: int) -> list[Task]:
        """Take tasks from the ledger that keep a thread busy for long enough.

        While fewer bundles are ``running`` than there are ``threads``, all idle ones get a share.
        """
        idle = max(threads - running, 1)
        most = max(ledger.ready // idle, 1)
        left = threads / BUNDLES_PER_SECOND
        tasks: list[Task] = []
        while left > 0 and len(tasks) < most and (task := ledger.next()):
            tasks.append(task)
            left -= self.seconds.get(task[0], left)  # one, of a stage that is not known yet
        return tasks


class ClusterPool:
    """The workers of a dask cluster, which may come and go."""

    SECONDS = 2.0  # between two questions how many threads there are

    def __init__(self, client: Client, plugin: str):
        self.client, self.plugin = client, plugin
        self.executor = client.get_executor(retries=RETRIES)
        self.asked, self.known = -math.inf, 0
        self.bundler = Bundler()

    def submit(self, tasks: list[Task]) -> Future:
        """Submit a bundle to any worker."""
        future = self.executor.submit(_do, self.plugin, tasks)
        future.add_done_callback(partial(self._learn, tasks))
        return future

    def capacity(self) -> int:
        """Return the number of bundles in flight: some for each thread, so that none is idle."""
        return BUNDLES_PER_THREAD * max(self._threads(), 1)

    def bundle(self, ledger: Ledger, running: int) -> list[Task]:
        """Take tasks to be sent together from the ledger."""
        return self.bundler.take(ledger, threads=max(self._threads(), 1), running=running)

    def _learn(self, tasks: list[Task], future: Future) -> None:
        if not future.cancelled() and future.exception() is None:
            for task, seconds in zip(tasks, future.result(), strict=True):
                self.bundler.learn(task, seconds)

    def stalled(self) -> None:
        """Warn if all workers are gone."""
        if not self._threads():
            log.warning("the dask cluster has no workers left: waiting for one")

    def _threads(self) -> int:
        if time.monotonic() - self.asked > self.SECONDS:
            self.known = sum(self.client.nthreads().values())
            self.asked = time.monotonic()
        return self.known


def mosaic_factory(mosaic: Mosaic) -> Callable[[], Do]:
    """Return the factory that builds the same mosaic on a worker, for `cluster_pool`.

    The nuclei are passed through the run folder, because they may be large and a cluster has only
    one scheduler.
    """
    job, folder = mosaic.job, mosaic.store.folder.resolve()
    job.nuclei.save(folder / NUCLEI)
    light = replace(job, nuclei=job.nuclei.take(np.empty(0, int)))
    return partial(_restored, light, RunStore(folder, mosaic.store.identity), mosaic.pyramid)


def _restored(light: Job, store: RunStore, pyramid: Pyramid | None) -> Do:
    job = replace(light, nuclei=Nuclei.load(store.folder / NUCLEI))
    return Mosaic(job, store, pyramid).do


class _Painting(WorkerPlugin):
    """The data that a worker keeps, which is made once, when it joins."""

    def __init__(self, folder: Path, factory: Callable[[], Do]):
        self.name = f"nasdm-wsi {folder}"
        self.folder, self.factory, self.software = folder, factory, version("nasdm-wsi")

    def setup(self, worker: Worker) -> None:
        """Build the data on the worker, when dask calls this method."""
        if self.software != version("nasdm-wsi"):
            raise PlanError(
                f"{worker.address} has nasdm-wsi {version('nasdm-wsi')} and this is "
                f"{self.software}: install the same version there"
            )
        if not self.folder.exists():
            raise OutputError(
                f"{worker.address} does not see {self.folder}: render to storage that all "
                "workers share"
            )
        self.do = self.factory()


def _do(plugin: str, tasks: list[Task]) -> list[float]:
    """Do tasks one after another; return how many seconds each of them took."""
    painting: Any = get_worker().plugins[plugin]
    times = [time.perf_counter()]
    for task in tasks:
        painting.do(task)
        times.append(time.perf_counter())
    return [after - before for before, after in pairwise(times)]

"""The order of tasks: which are ready, which results may be deleted, and the loop that runs them.

A job is a sequence of stages. Each stage is a grid of tasks, and each task reads a rectangle of the
tasks of the stage before. The ledger records which tasks are left. It needs a few bytes for each
task, even for the largest slides, and neither tasks nor their results pass through it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Protocol

import numpy as np

Task = tuple[int, int, int]  # stage, row, column
PATIENCE = 60.0  # seconds without any result before the pool is told


@dataclass(frozen=True)
class Grid:
    """The tasks of a stage, and the tasks of the stage before that each of them reads.

    Attributes:
        rows: for each row of tasks, the rows that it reads; both ends are non-decreasing.
        columns: for each column of tasks, the columns that it reads.
    """

    rows: tuple[range, ...]
    columns: tuple[range, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.rows), len(self.columns)


class Ledger:
    """The record of which tasks are wanted, ready and done.

    A task is wanted if it is not finished, or if a wanted task reads it and it is not present.

    Args:
        stages: their grids, each of which reads the one before.
        present: for each stage a bool array: whether a task's result is there for others to read.
        finished: for each stage a bool array: whether the final result of a task is there.

    Attributes:
        left: how many tasks are still to be done.
        readers: for each stage an array: how many wanted tasks will read each result.
    """

    def __init__(self, stages: list[Grid], present: list[np.ndarray], finished: list[np.ndarray]):
        self.stages = stages
        self._readers_of = [_inverse(stages, s) for s in range(len(stages))]
        # Line by line along the longer side: what waits on disk are lines, and these are short.
        height, width = stages[0].shape
        self._wide = width > height
        self.readers = [np.zeros(stage.shape, np.uint16) for stage in stages]
        self._missing = [np.zeros(stage.shape, np.uint16) for stage in stages]
        self._ready: list[tuple[int, int, int]] = []
        self.left = 0
        wanted = [~array for array in finished]
        for s in reversed(range(len(stages))):
            tasks = np.argwhere(wanted[s])
            self.left += len(tasks)
            for i, j in tasks.tolist():
                read = self._read_by(s, i, j)
                if s:
                    self.readers[s - 1][read] += 1
                    wanted[s - 1][read] |= ~present[s - 1][read]
        for s, array in enumerate(wanted):
            for i, j in np.argwhere(array).tolist():
                if s:
                    self._missing[s][i, j] = wanted[s - 1][self._read_by(s, i, j)].sum()
                if not self._missing[s][i, j]:
                    self._push(s, i, j)

    @property
    def ready(self) -> int:
        """How many tasks are ready."""
        return len(self._ready)

    def next(self) -> Task | None:
        """Return a task that is ready, in an order in which results can be deleted early."""
        if not self._ready:
            return None
        stage, line, at = heapq.heappop(self._ready)
        return (-stage, at, line) if self._wide else (-stage, line, at)

    def finish(self, task: Task) -> list[Task]:
        """Record that a task is done; return the tasks whose results no task will read again."""
        s, i, j = task
        self.left -= 1
        if s + 1 < len(self.stages):
            rows, columns = self._readers_of[s]
            for a in rows[i]:
                for b in columns[j]:
                    if missing := self._missing[s + 1][a, b]:
                        self._missing[s + 1][a, b] = missing - 1
                        if missing == 1:
                            self._push(s + 1, a, b)
        if not s:
            return []
        read = self._read_by(s, i, j)
        self.readers[s - 1][read] -= 1
        idle = np.argwhere(self.readers[s - 1][read] == 0).tolist()
        return [(s - 1, read[0].start + a, read[1].start + b) for a, b in idle]

    def _push(self, s: int, i: int, j: int) -> None:
        # The furthest stage first: it is nearest to setting something free.
        heapq.heappush(self._ready, (-s, j, i) if self._wide else (-s, i, j))

    def _read_by(self, s: int, i: int, j: int) -> tuple[slice, slice]:
        rows, columns = self.stages[s].rows[i], self.stages[s].columns[j]
        return slice(rows.start, rows.stop), slice(columns.start, columns.stop)


class WorkerPool(Protocol):
    """The protocol of a pool that runs tasks; `workers.worker_pool` makes one."""

    def submit(self, tasks: list[Task]) -> Future:
        """Submit a bundle of tasks, which one worker does one after another."""

    def capacity(self) -> int:
        """Return how many bundles the workers may have at present."""

    def bundle(self, ledger: Ledger, running: int) -> list[Task]:
        """Take tasks to be sent together from the ledger, while so many bundles are running."""

    def stalled(self) -> None:
        """React to a minute in which no task has finished."""


def run(ledger: Ledger, pool: WorkerPool, finished: Callable[[Task, list[Task]], None]) -> None:
    """Run all remaining tasks, with as many bundles of them at a time as the pool allows.

    ``finished(task, idle)`` is called in this process for each task when its bundle is done, with
    the tasks whose results no task will read again. An exception in a task ends the run; bundles
    that have not started are cancelled.
    """
    back: SimpleQueue[Future] = SimpleQueue()
    running: dict[Future, list[Task]] = {}
    try:
        while True:
            while len(running) < pool.capacity() and (tasks := pool.bundle(ledger, len(running))):
                future = pool.submit(tasks)
                running[future] = tasks
                future.add_done_callback(back.put)
            if not running:
                return
            try:
                future = back.get(timeout=PATIENCE)
            except Empty:
                pool.stalled()
                continue
            future.result()
            for task in running.pop(future):
                finished(task, ledger.finish(task))
    finally:
        for future in running:
            future.cancel()


def _inverse(stages: list[Grid], s: int) -> tuple[list[range], list[range]]:
    """Return for each row and column of a stage those of the next stage that read it."""
    if s + 1 == len(stages):
        return [], []
    after = stages[s + 1]
    return (
        _inverse_axis(after.rows, len(stages[s].rows)),
        _inverse_axis(after.columns, len(stages[s].columns)),
    )


def _inverse_axis(reads: tuple[range, ...], count: int) -> list[range]:
    first, last = [len(reads)] * count, [0] * count
    for k, read in enumerate(reads):
        for source in read:
            first[source], last[source] = min(first[source], k), k + 1
    return [range(a, b) for a, b in zip(first, last, strict=True)]

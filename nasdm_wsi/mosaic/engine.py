"""The engine, which paints a canvas in phases over blocks and cuts it into tiles of a pyramid.

The tasks of each stage (`stages`) depend only on those of the stage before, so a slide can be
computed in any order, on any workers. The ledger (`schedule`) knows which tasks are left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ..geometry import Box, intersect, shape
from ..job import Job
from ..slides.pyramid import Pyramid
from .canvas import Canvas
from .pictures import Picture, Pixels, Resampled, levels_of
from .schedule import Ledger, Task, WorkerPool, run
from .stages import Stage, phases_of
from .store import RunStore


class Mosaic:
    """The region of a job while it is painted: its stages and tasks.

    With a ``pyramid``, finished pixels become its encoded tiles; without one they stay in the
    store.
    """

    def __init__(self, job: Job, store: RunStore, pyramid: Pyramid | None = None):
        self.job, self.store, self.pyramid = job, store, pyramid
        canvas = Canvas(job, store)
        phases = phases_of(canvas)
        blocks = job.plan.blocks_of(job.region)
        self._pixels = Pixels(canvas, blocks, phases[-1], wanted=pyramid is None)
        self._picture: Picture = self._pixels
        if job.resampling:
            self._picture = Resampled(self._pixels, job.resampling)
        self._levels = levels_of(canvas, pyramid, self._picture) if pyramid else []
        stored = phases if job.plan.taper else phases[:-1]
        self._stages: list[Stage] = [*stored, self._pixels, *self._levels]
        self.painted = 0  # pixels of the region that `paint` has finished, settled blocks aside

    def ledger(self) -> Ledger:
        """Return the tasks that the store lacks; parts that no task will read are freed."""
        on_disk = [self.store.present(stage.part, stage.cells) for stage in self._stages]
        settled = [stage.settled() for stage in self._stages]
        ledger = Ledger(
            [stage.grid() for stage in self._stages],
            present=[a | b for a, b in zip(on_disk, settled, strict=True)],
            finished=[self._finished(*both) for both in zip(self._stages, settled, strict=True)],
        )
        for number, (stage, parts) in enumerate(zip(self._stages, on_disk, strict=True)):
            if stage.part != stage.product:
                for row, column in np.argwhere(parts & (ledger.readers[number] == 0)).tolist():
                    self.free((number, row, column))
        return ledger

    def _finished(self, stage: Stage, settled: np.ndarray) -> np.ndarray:
        """Return bool, for each task of a stage: whether its final result is in the store."""
        if stage.product is None:
            return np.ones_like(settled)
        return self.store.present(stage.product, stage.cells) | settled

    def paint(
        self, pool: WorkerPool, *, progress: Callable[[Task, int, int], None] | None = None
    ) -> None:
        """Run all remaining tasks; ``progress(task, done, total)`` is called after each one."""
        ledger = self.ledger()
        total = ledger.left

        def finished(task: Task, idle: Iterable[Task]) -> None:
            if box := self.finished_by(task):
                self.painted += math.prod(shape(intersect(box, self.job.region)))
            if progress:
                progress(task, total - ledger.left, total)
            for other in idle:
                self.free(other)

        run(ledger, pool, finished)

    def do(self, task: Task) -> None:
        """Run one task, in any process that can access the store; a repeat gives the same bytes."""
        number, row, column = task
        stage = self._stages[number]
        stage.do(stage.place(row, column))

    def free(self, task: Task) -> None:
        """Delete the part that a task wrote for other tasks."""
        number, row, column = task
        stage = self._stages[number]
        self.store.free(stage.part, stage.place(row, column))

    def finished_by(self, task: Task) -> Box | None:
        """Return the box of the canvas whose pixels a task finishes, if it finishes any."""
        number, row, column = task
        if self._stages[number] is not self._pixels:
            return None
        return self._pixels.covers(self._pixels.place(row, column))

    def canvas_pixels(self, box: Box) -> np.ndarray:
        """Return the finished pixels, uint8 (h, w, 3), of a box of the region on the canvas."""
        return self._pixels.pixels(box)

    def pixels(self, box: Box) -> np.ndarray:
        """Return the finished pixels, uint8 (h, w, 3), of a box of what the slide shows."""
        return self._picture.pixels(box)

    def encoded(self, level: int) -> Iterator[bytes]:
        """Yield the encoded tiles of a level in raster order, when all tasks are done."""
        return self._levels[level].encoded()

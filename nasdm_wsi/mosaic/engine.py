"""The engine: a canvas painted in phases over blocks, then cut into the tiles of a pyramid.

The task (phase k, block b) reads the state after phase k - 1 around its block, runs the windows it
owns, and writes its part once. It depends on its neighbours' tasks of the phase before and on
nothing else. The phases are the first stages of `schedule.Ledger`; finished pixels are the next,
and each level of the pyramid one more, so a slide grows in any order, on any workers. What the
channels of a state mean, and what paints them, is the painter's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import cached_property
from typing import Any

import numpy as np

from ..geometry import Block, Box, cells_in, grow, inside, intersect, shape
from ..job import Job, Window
from ..slides.pyramid import Pyramid, halved
from .noise import noise
from .schedule import Ledger, Stage, Task, run
from .store import RunStore


class Mosaic:
    """A region of a canvas in the making: what there is to do, and how each task is done.

    With a ``pyramid`` of the region's shape finished pixels go on into its encoded tiles; without
    one they stay in the store.
    """

    def __init__(
        self,
        job: Job,
        store: RunStore,
        pyramid: Pyramid | None = None,
    ):
        self.job, self.store = job, store
        self.plan, self.painter, self.region = job.plan, job.painter, job.region
        self.levels = range(len(pyramid.shapes) if pyramid else 0)
        self.pyramid = pyramid or Pyramid((*shape(self.region), 3))
        self.phases = len(self.plan.phases)
        self._glass: dict[tuple[int, int, int], bool] = {}

    # -- what there is to do ----------------------------------------------------------------

    def ledger(self) -> Ledger:
        """What is left, by what the store holds; parts that nobody will read are freed."""
        on_disk = [self.store.present(self._part(s), cells) for s, cells in enumerate(self._cells)]
        glass = [self._glass_of(s) for s in range(len(self._cells))]
        present = [a | b for a, b in zip(on_disk, glass, strict=True)]
        finished = [np.ones_like(array) for array in present]
        if not self.levels:
            finished[-1] = present[-1]
        for level in self.levels:
            s = self.phases + 1 + level
            finished[s] = self.store.present(f"tiles-{level}", self._cells[s]) | glass[s]
        ledger = Ledger(self._stages(), present, finished)
        for s, array in enumerate(on_disk[:-1]):
            for i, j in np.argwhere(array & (ledger.readers[s] == 0)).tolist():
                self.free((s, i, j))
        return ledger

    def paint(
        self,
        submit: Callable[[Task], Future],
        *,
        in_flight: Callable[[], int],
        progress: Callable[[Task, int, int], None] | None = None,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """Do all that is left, as `schedule.run` does; ``submit`` has `do` done somewhere.

        ``progress(task, done, total)`` is called after each task.
        """
        ledger = self.ledger()
        total = ledger.left

        def finished(task: Task, idle: Iterable[Task]) -> None:
            if progress:
                progress(task, total - ledger.left, total)
            for other in idle:
                self.free(other)

        run(ledger, submit, in_flight=in_flight, finished=finished, waiting=waiting)

    def free(self, task: Task) -> None:
        """Delete what a task left for others to read."""
        s, i, j = task
        self.store.free(self._part(s), self._place(s, i, j))

    @cached_property
    def _cells(self) -> list[Box]:
        """The rectangle of each stage, in blocks or tiles."""
        levels = [(0, 0, *self.pyramid.grid(n)) for n in self.levels]
        return [*self.plan.needed(self.region), self.plan.blocks_of(self.region), *levels]

    def _stages(self) -> list[Stage]:
        """Who reads whom; sources are counted from the first of their own stage."""
        cells = self._cells
        rows, columns = shape(cells[0])
        stages = [Stage((range(0),) * rows, (range(0),) * columns)]
        for s in range(1, len(cells)):
            i0, j0, i1, j1 = cells[s]
            seen = [self._sources(s, (i, j0)) for i in range(i0, i1)]
            across = [self._sources(s, (i0, j)) for j in range(j0, j1)]
            before = cells[s - 1]
            stages.append(
                Stage(
                    tuple(range(box[0] - before[0], box[2] - before[0]) for box in seen),
                    tuple(range(box[1] - before[1], box[3] - before[1]) for box in across),
                )
            )
        return stages

    def _sources(self, s: int, place: Block) -> Box:
        """What of the stage before a task reads."""
        level = s - self.phases - 1
        if level > 0:
            i, j = place
            found = 2 * i, 2 * j, 2 * i + 2, 2 * j + 2
        elif level == 0:
            found = self.plan.blocks_of(self._tile(place))
        elif level == -1:
            found = self.plan.sources(self.plan.owned(place))
        else:
            found = self.plan.sources(self.plan.view(place))
        return intersect(found, self._cells[s - 1])

    def _part(self, s: int) -> str:
        """What a task of the stage leaves for others to read, as the store calls it."""
        if s < self.phases:
            return f"phase-{s}"
        return "pixels" if s == self.phases else f"halves-{s - self.phases - 1}"

    def _place(self, s: int, i: int, j: int) -> Block:
        return self._cells[s][0] + i, self._cells[s][1] + j

    # -- how it is done ---------------------------------------------------------------------

    def do(self, task: Task) -> None:
        """One task, wherever the store can be reached; doing it again gives the same bytes."""
        s, place = task[0], self._place(*task)
        if s < self.phases:
            self._solve_block(s, place)
        elif s == self.phases:
            box = self.plan.owned(place)
            self.store.write("pixels", place, self._finished(box))
        else:
            self._cut_tile(s - self.phases - 1, place)

    def _solve_block(self, phase: int, block: Block) -> None:
        """Run the block's windows through a phase and store their weighted sum."""
        plan = self.plan
        view, covers = plan.view(block), plan.part(block)
        state = self._before(phase, view)
        cores = plan.cores(block)
        boxes = [plan.window(core) for core in cores]
        windows = [self._window(box, state[:, *inside(box, view)]) for box in boxes]
        results = self.painter.solve(phase, windows)
        part = np.zeros((self.painter.channels, *shape(covers)), np.float32)
        for core, box, result in zip(cores, boxes, results, strict=True):
            reached = intersect(grow(core, plan.taper), covers)
            weighted = result * plan.weight(core)
            part[:, *inside(reached, covers)] += weighted[:, *inside(reached, box)]
        self.store.write(f"phase-{phase}", block, part)

    def _window(self, box: Box, state: np.ndarray) -> Window:
        return Window(
            box=box,
            state=state,
            planes=self.job.planes(box),
            tissue=self.job.tissue(box),
            noise=lambda step: self._noise(box, step=step),
        )

    def _noise(self, box: Box, *, step: int | None = None) -> np.ndarray:
        return noise(box, seed=self.job.seed, step=step)

    def _before(self, phase: int, box: Box) -> np.ndarray:
        """The state (channels, h, w) of ``box`` that a phase begins with."""
        if phase == 0:
            return self.painter.start(self._noise(box))
        return self._state(phase - 1, box)

    def _state(self, phase: int, box: Box) -> np.ndarray:
        """The fused state (channels, h, w) of ``box`` after a phase: the sum of the parts.

        It is zero where no part is needed.
        """
        out = np.zeros((self.painter.channels, *shape(box)), np.float32)
        for block in cells_in(intersect(self.plan.sources(box), self._cells[phase])):
            covers = self.plan.part(block)
            common = intersect(box, covers)
            at = inside(common, covers)
            if self._is_glass(phase, block):
                part = self._glass_state(phase, common) * self.plan.block_weight(block)[at]
            else:
                size = (self.painter.channels, *shape(covers))
                part = self.store.array(f"phase-{phase}", block, size, np.float32)[:, *at]
            out[:, *inside(common, box)] += part
        return out

    def _finished(self, box: Box) -> np.ndarray:
        """Fuse and round to 8 bits once."""
        return self.painter.finish(self._state(self.phases - 1, box))

    def pixels(self, box: Box) -> np.ndarray:
        """Finished pixels, uint8 (h, w, 3), of a box within the region."""
        out = np.empty((*shape(box), 3), np.uint8)
        for block in cells_in(self.plan.blocks_of(box)):
            covers = self.plan.owned(block)
            common = intersect(box, covers)
            if self._is_glass(self.phases, block):
                part: Any = self._glass_colour
            else:
                size = (*shape(covers), 3)
                part = self.store.array("pixels", block, size, np.uint8)[inside(common, covers)]
            out[inside(common, box)] = part
        return out

    def block_of(self, task: Task) -> Box:
        """The canvas pixels that a task of the stage of pixels finishes."""
        return self.plan.owned(self._place(*task))

    def _cut_tile(self, level: int, place: Block) -> None:
        """Store an encoded tile, and half of it for the next level."""
        pixels = self.pixels(self._tile(place)) if level == 0 else self._quarters(level, place)
        self.store.write(f"tiles-{level}", place, self.pyramid.encode(pixels))
        if level + 1 in self.levels:
            self.store.write(f"halves-{level}", place, halved(pixels))

    def _tile(self, place: Block) -> Box:
        """The canvas pixels of a tile of level 0."""
        y, x = self.region[:2]
        y0, x0, y1, x1 = self.pyramid.box(0, place)
        return y0 + y, x0 + x, y1 + y, x1 + x

    def _quarters(self, level: int, place: Block) -> np.ndarray:
        """The pixels of a tile: the halves of up to four of the level below."""
        box = self.pyramid.box(level, place)
        out = np.empty((*shape(box), 3), np.uint8)
        s, side = self.phases + 1 + level, self.pyramid.tile // 2
        for i, j in cells_in(self._sources(s, place)):
            at = intersect((i * side, j * side, (i + 1) * side, (j + 1) * side), box)
            if self._is_glass(s - 1, (i, j)):
                out[inside(at, box)] = self._glass_colour
            else:
                half = self.store.array(f"halves-{level - 1}", (i, j), (*shape(at), 3), np.uint8)
                out[inside(at, box)] = half
        return out

    def encoded(self, level: int) -> Iterator[bytes]:
        """The encoded tiles of a level in raster order, when all is done."""
        for place in cells_in((0, 0, *self.pyramid.grid(level))):
            blank = self._is_glass(self.phases + 1 + level, place)
            yield self._glass_tile if blank else self.store.read(f"tiles-{level}", place)

    # -- glass ------------------------------------------------------------------------------

    def _is_glass(self, s: int, place: Block) -> bool:
        """Whether a task of the stage need not be done: a block or whole tile of glass alone."""
        key = (max(s - self.phases, 0), *place)  # blocks are the same in all phases
        if key not in self._glass:
            if s <= self.phases:
                self._glass[key] = self.job.is_glass(self.plan.part(place))
            else:
                whole = shape(self.pyramid.box(s - self.phases - 1, place))
                self._glass[key] = whole == (self.pyramid.tile, self.pyramid.tile) and all(
                    self._is_glass(s - 1, source) for source in cells_in(self._sources(s, place))
                )
        return self._glass[key]

    def _glass_of(self, s: int) -> np.ndarray:
        """Bool, of the shape of a stage."""
        found = [self._is_glass(s, place) for place in cells_in(self._cells[s])]
        return np.reshape(found, shape(self._cells[s]))

    @cached_property
    def _glass_colour(self) -> np.ndarray:
        return self.painter.finish(self._glass_state(self.phases - 1, (0, 0, 1, 1)))[0, 0]

    def _glass_state(self, phase: int, box: Box) -> np.ndarray:
        return self.painter.glass(phase, self._noise(box))

    @cached_property
    def _glass_tile(self) -> bytes:
        side = self.pyramid.tile
        return self.pyramid.encode(np.full((side, side, 3), self._glass_colour))

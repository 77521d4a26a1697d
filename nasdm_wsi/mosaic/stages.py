"""The stages of a render, and the phases: what a task reads, and how it is computed.

A render is a sequence of stages: the phases on blocks of the canvas, the finished pixels of the
same blocks, and the levels of the pyramid on tiles (`pictures`). A task of a stage is identified by
its position (row, column). It reads parts of the stage before, computes, and writes its own part to
the store; repeating it gives the same bytes.
"""

from __future__ import annotations

import numpy as np

from ..geometry import Block, Box, cells_in, inside, intersect, shape
from .canvas import Canvas
from .schedule import Grid


class Stage:
    """One kind of task.

    Attributes:
        cells: the places of the tasks, a rectangle (i0, j0, i1, j1).
        before: the stage that the tasks read, if there is one.
        part: the kind of the part in the store that a task writes for the next stage.
        product: the kind of the part in the store that is the final result of a task, if any.
    """

    part: str
    product: str | None = None

    def __init__(self, cells: Box, before: Stage | None):
        self.cells, self.before = cells, before

    # What each kind of stage says for itself.

    def _reads(self, place: Block) -> Box:
        """Return the tasks that a task reads, as if the stage before were infinite."""
        raise NotImplementedError

    def is_glass(self, place: Block) -> bool:
        """Return whether a task would show only glass."""
        raise NotImplementedError

    def is_settled(self, place: Block) -> bool:
        """Return whether a task can be skipped, because its result is known without it."""
        return self.is_glass(place)

    def do(self, place: Block) -> None:
        """Run one task."""
        raise NotImplementedError

    # What follows from it.

    def sources(self, place: Block) -> Box:
        """Return the tasks of the stage before that a task reads: a rectangle."""
        return intersect(self._reads(place), self.before.cells) if self.before else (0, 0, 0, 0)

    def place(self, row: int, column: int) -> Block:
        """Return the position of a task whose index counts from the first task of the stage."""
        return self.cells[0] + row, self.cells[1] + column

    def grid(self) -> Grid:
        """Return the stage as the ledger sees it; tasks are counted from its first."""
        i0, j0, i1, j1 = self.cells
        top, left = self.before.cells[:2] if self.before else (0, 0)
        rows = [self.sources((i, j0)) for i in range(i0, i1)]
        columns = [self.sources((i0, j)) for j in range(j0, j1)]
        return Grid(
            tuple(range(box[0] - top, box[2] - top) for box in rows),
            tuple(range(box[1] - left, box[3] - left) for box in columns),
        )

    def settled(self) -> np.ndarray:
        """Return bool (rows, columns): which tasks can be skipped."""
        found = [self.is_settled(place) for place in cells_in(self.cells)]
        return np.reshape(found, shape(self.cells))


class Phase(Stage):
    """A run of solver steps; a task takes one block through it."""

    before: Phase | None

    def __init__(self, canvas: Canvas, number: int, cells: Box, before: Phase | None):
        super().__init__(cells, before)
        self.canvas, self.plan, self.steps = canvas, canvas.plan, canvas.plan.phases[number]
        self.part = f"phase-{number}"

    def _reads(self, place: Block) -> Box:
        return self.plan.sources(self.plan.view(place))

    def is_glass(self, place: Block) -> bool:
        """Return whether the block shows only glass, which is the same in every phase."""
        return self.canvas.is_glass(place)

    def is_settled(self, place: Block) -> bool:
        """Return whether nothing has to be painted, which is the same in every phase."""
        return self.canvas.is_settled(place)

    def do(self, place: Block) -> None:
        """Take a block through the phase, and store its state."""
        self.canvas.store.write(self.part, place, self.solved(place))

    def solved(self, place: Block) -> np.ndarray:
        """Return the weighted sum of a block's windows: float32 (channels, h, w) of its part."""
        if self.canvas.job.known:
            return self._beside_known(place)
        view = self.plan.view(place)
        state = self._state_before(view)
        cores = self.plan.cores(place)
        windows = [
            self.canvas.window(core, state[:, *inside(self.plan.window(core), view)])
            for core in cores
        ]
        return self._fused(place, cores, self.canvas.painter.solve(self.steps, windows))

    def _beside_known(self, block: Block) -> np.ndarray:
        """Return the state of a block, (channels, h, w), of which only unknown pixels are painted.

        Each box of them is painted in a window of its own, so that the cost follows their number.
        """
        core = self.plan.core(block)
        state = self._kept(core)
        for box in self.canvas.cores(block):
            window = self.canvas.window(box, self._state_before(self.plan.window(box)))
            (result,) = self.canvas.painter.solve(self.steps, [window])
            state[:, *inside(box, core)] = result
        return state

    def _kept(self, box: Box) -> np.ndarray:
        """Return the state (channels, h, w) of a box after the phase, as if all were known."""
        pixels = self.canvas.known_pixels(box)
        return self.canvas.painter.kept(self.steps[1], self.canvas.noise(box), pixels)

    def _state_before(self, box: Box) -> np.ndarray:
        if self.before is None:
            return self.canvas.painter.start(self.canvas.noise(box))
        return self.before.state(box)

    def _fused(self, block: Block, cores: list[Box], results: np.ndarray) -> np.ndarray:
        if not self.plan.taper:
            return results[0]  # of the one window
        covers = self.plan.part(block)
        fused = np.zeros((self.canvas.painter.channels, *shape(covers)), np.float32)
        for core, result in zip(cores, results, strict=True):
            fused[:, *inside(self.plan.reached(core), covers)] += result * self.plan.weight(core)
        return fused

    def state(self, box: Box) -> np.ndarray:
        """Return the state (channels, h, w) of a box after the phase: the sum of the blocks' parts.

        It is zero where no part is needed.
        """
        out = np.zeros((self.canvas.painter.channels, *shape(box)), np.float32)
        for block in cells_in(intersect(self.plan.sources(box), self.cells)):
            common = intersect(box, self.plan.part(block))
            out[:, *inside(common, box)] += self._contribution(block, common)
        return out

    def _contribution(self, block: Block, box: Box) -> np.ndarray:
        """Return the contribution of a block to a box within its part."""
        covers = self.plan.part(block)
        at = inside(box, covers)
        if self.canvas.job.known and self.is_settled(block):
            return self._kept(box)
        if self.is_glass(block):
            glass = self.canvas.painter.glass(self.steps[1], self.canvas.noise(box))
            return glass * self.plan.block_weight(block)[at]
        size = (self.canvas.painter.channels, *shape(covers))
        return self.canvas.store.array(self.part, block, size, np.float32)[:, *at]


def phases_of(canvas: Canvas) -> list[Phase]:
    """Return the phases of a job."""
    phases: list[Phase] = []
    for number, cells in enumerate(canvas.plan.needed(canvas.job.region)):
        phases.append(Phase(canvas, number, cells, phases[-1] if phases else None))
    return phases

"""The stages of a render: the tasks of each stage, their inputs, and their computation.

A render is a sequence of stages: the phases on blocks of the canvas, the finished pixels of the
same blocks, and the levels of the pyramid on tiles. A task of a stage is identified by its position
(row, column). It reads parts of the stage before, computes, and writes its own part to the store;
repeating it gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import scipy

from ..geometry import Block, Box, cells_in, inside, intersect, shape
from ..job import Job, Window
from ..resampling import Resampling
from ..slides.pyramid import Pyramid, halved
from .noise import noise
from .schedule import Grid
from .store import RunStore


class Canvas:
    """The data that all stages share: the job, the store, the noise, and what is left to paint."""

    def __init__(self, job: Job, store: RunStore):
        self.job, self.plan, self.painter, self.store = job, job.plan, job.painter, store
        self._glass: dict[Block, bool] = {}
        self._unpainted: dict[Block, list[Box]] = {}

    def noise(self, box: Box, *, step: int | None = None) -> np.ndarray:
        """Return unit noise (3, h, w) of a box, for a solver step or for the start."""
        return noise(box, seed=self.job.seed, step=step)

    def window(self, core: Box, state: np.ndarray) -> Window:
        """Return the input of the painter for a core; its window has state (channels, h, w)."""
        box = self.plan.window(core)
        return Window(
            box=box,
            wanted=self.plan.reached(core),
            state=state,
            planes=self.job.planes(box),
            tissue=self.job.tissue(box),
            noise=lambda step: self.noise(box, step=step),
        )

    def is_glass(self, block: Block) -> bool:
        """Return whether nothing has to be painted where the block contributes."""
        if block not in self._glass:
            self._glass[block] = self.job.is_glass(self.plan.part(block))
        return self._glass[block]

    def known_pixels(self, box: Box) -> np.ndarray:
        """Return the known pixels of a box, uint8 (h, w, 3), in a job that has some."""
        return self.job.known.pixels(box)  # type: ignore[union-attr]

    def cores(self, block: Block) -> list[Box]:
        """Return the cores of a block's windows, or boxes round its pixels that are not known."""
        if self.job.known is None:
            return self.plan.cores(block)
        if block not in self._unpainted:
            self._unpainted[block] = self._boxes_to_paint(self.plan.core(block))
        return self._unpainted[block]

    def _boxes_to_paint(self, core: Box) -> list[Box]:
        """Return boxes, on the grid of the plan, that hold all unknown pixels of a core.

        Pixels whose windows would overlap lie in one box.
        """
        pixels = self.job.unknown(core)
        if not pixels.any():
            return []
        grid = self.plan.grid
        h, w = (n // grid for n in shape(core))
        unknown = pixels.reshape(h, grid, w, grid).any(axis=(1, 3))
        near = scipy.ndimage.maximum_filter(unknown, 1 + 2 * (self.plan.margin // grid))
        groups, _ = scipy.ndimage.label(near, np.ones((3, 3)))
        found = scipy.ndimage.find_objects(groups * unknown)
        return [
            tuple(side * grid + core[k % 2] for k, side in enumerate(sides))
            for rows, columns in found
            for sides in [(rows.start, columns.start, rows.stop, columns.stop)]
        ]

    def is_settled(self, block: Block) -> bool:
        """Return whether nothing has to be painted in a block: it is glass, or known."""
        return self.is_glass(block) or not self.cores(block)

    @cached_property
    def glass_colour(self) -> np.ndarray:
        """The one colour of glass, uint8 (3,)."""
        done = self.plan.phases[-1][1]
        return self.painter.finish(self.painter.glass(done, self.noise((0, 0, 1, 1))))[0, 0]


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
        """The stage as the ledger sees it: tasks are counted from the first of each stage."""
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


class Picture(Stage):
    """A stage whose tasks write pixels for the next stage, uint8 (h, w, 3)."""

    canvas: Canvas

    def covers(self, place: Block) -> Box:
        """Return the box of pixels that a task writes."""
        raise NotImplementedError

    def holders(self, box: Box) -> Box:
        """Return the tasks that write the pixels of a box."""
        raise NotImplementedError

    def pixels(self, box: Box) -> np.ndarray:
        """Return the pixels of a box, uint8 (h, w, 3), when all that hold it are done."""
        out = np.empty((*shape(box), 3), np.uint8)
        for place in cells_in(intersect(self.holders(box), self.cells)):
            common = intersect(box, self.covers(place))
            out[inside(common, box)] = self._of_task(place, common)
        return out

    def _of_task(self, place: Block, box: Box) -> np.ndarray:
        if self.is_glass(place):
            return self.canvas.glass_colour
        if self.is_settled(place):
            return self.canvas.known_pixels(box)
        covers = self.covers(place)
        pixels = self.canvas.store.array(self.part, place, (*shape(covers), 3), np.uint8)
        return pixels[inside(box, covers)]


class Pixels(Picture):
    """The finished pixels of the canvas; a task rounds those of one block, once.

    Where windows are fused, it reads the states of neighbouring blocks after the ``last`` phase.
    Otherwise the last phase is part of the task, and its states are not stored.
    """

    part = "pixels"

    def __init__(self, canvas: Canvas, cells: Box, last: Phase, *, wanted: bool):
        super().__init__(cells, last if canvas.plan.taper else last.before)
        self.canvas, self.plan, self.last = canvas, canvas.plan, last
        self.product = self.part if wanted else None

    def covers(self, place: Block) -> Box:
        """Return the pixels that the block delivers."""
        return self.plan.owned(place)

    def holders(self, box: Box) -> Box:
        """Return the blocks that deliver a box of the canvas."""
        return self.plan.blocks_of(box)

    def _reads(self, place: Block) -> Box:
        read = self.covers(place) if self.plan.taper else self.plan.view(place)
        return self.plan.sources(read)

    def is_glass(self, place: Block) -> bool:
        """Return whether the block shows only glass, as in the phases."""
        return self.canvas.is_glass(place)

    def is_settled(self, place: Block) -> bool:
        """Return whether the block shows only glass or what is known, as in the phases."""
        return self.canvas.is_settled(place)

    def do(self, place: Block) -> None:
        """Store the pixels that the block delivers; those that are known stay as they are."""
        box = self.covers(place)
        pixels = self.canvas.painter.finish(self._state(place, box))
        if known := self.canvas.job.known:
            pixels = known.finished(box, pixels)
        self.canvas.store.write(self.part, place, pixels)

    def _state(self, place: Block, box: Box) -> np.ndarray:
        if self.plan.taper:
            return self.last.state(box)
        return self.last.solved(place)[:, *inside(box, self.plan.core(place))]


class Resampled(Picture):
    """The finished pixels at another pixel size.

    There are no tasks: a box is computed from the finished pixels whenever it is read.
    """

    PIECE = 2048  # columns that are computed at once, so that a wide row needs little memory

    def __init__(self, pixels: Pixels, resampling: Resampling):
        super().__init__(pixels.cells, pixels.before)
        self.source, self.resampling = pixels, resampling

    def holders(self, box: Box) -> Box:
        """Return the blocks that a box of the slide is computed from."""
        return self.source.holders(self.resampling.reads(box))

    def is_glass(self, place: Block) -> bool:
        """Return whether the block shows only glass, as in the phases."""
        return self.source.is_glass(place)

    def pixels(self, box: Box) -> np.ndarray:
        """Return the pixels of a box of the slide, uint8 (h, w, 3)."""
        y0, left, y1, right = box
        starts = range(left, right, self.PIECE)
        pieces = [(y0, x, y1, min(x + self.PIECE, right)) for x in starts]
        return np.concatenate([self._resampled(piece) for piece in pieces], axis=1)

    def _resampled(self, box: Box) -> np.ndarray:
        return self.resampling.pixels(self.source.pixels(self.resampling.reads(box)), box)


class Level(Picture):
    """A level of the pyramid; a task encodes a tile, and writes it at half size for the next level.

    The tile's box counts from ``corner`` of the stage before: that of what the slide shows, or that
    of the level below.
    """

    before: Picture

    def __init__(
        self, canvas: Canvas, pyramid: Pyramid, number: int, before: Picture, corner: Block
    ):
        super().__init__((0, 0, *pyramid.grid(number)), before)
        self.canvas, self.pyramid, self.number, self.corner = canvas, pyramid, number, corner
        self.last = number == len(pyramid.shapes) - 1
        self.part, self.tiles = f"halves-{number}", f"tiles-{number}"
        self.product = self.tiles
        self._glass: dict[Block, bool] = {}

    def covers(self, place: Block) -> Box:
        """Return the box of a tile at half size, in pixels of the next level."""
        y0, x0, y1, x1 = self.pyramid.box(self.number, place)
        return y0 // 2, x0 // 2, -(-y1 // 2), -(-x1 // 2)

    def holders(self, box: Box) -> Box:
        """Return the tiles that contain a box of the next level."""
        side = self.pyramid.tile // 2
        return box[0] // side, box[1] // side, -(-box[2] // side), -(-box[3] // side)

    def _box(self, place: Block) -> Box:
        """Return the box of a tile, in pixels of the stage before."""
        (y, x), (y0, x0, y1, x1) = self.corner, self.pyramid.box(self.number, place)
        return y0 + y, x0 + x, y1 + y, x1 + x

    def _reads(self, place: Block) -> Box:
        return self.before.holders(self._box(place))

    def is_glass(self, place: Block) -> bool:
        """Return whether a whole tile shows only glass."""
        if place not in self._glass:
            whole = shape(self._box(place)) == (self.pyramid.tile, self.pyramid.tile)
            sources = cells_in(self.sources(place))
            self._glass[place] = whole and all(self.before.is_glass(source) for source in sources)
        return self._glass[place]

    def do(self, place: Block) -> None:
        """Store an encoded tile, and the tile at half size for the next level."""
        pixels = self.before.pixels(self._box(place))
        self.canvas.store.write(self.tiles, place, self.pyramid.encode(pixels))
        if not self.last:
            self.canvas.store.write(self.part, place, halved(pixels))

    def encoded(self) -> Iterator[bytes]:
        """Yield the encoded tiles in raster order, when all are done."""
        for place in cells_in(self.cells):
            glass = self.is_glass(place)
            yield self._blank if glass else self.canvas.store.read(self.tiles, place)

    @cached_property
    def _blank(self) -> bytes:
        side = self.pyramid.tile
        return self.pyramid.encode(np.full((side, side, 3), self.canvas.glass_colour))


def phases_of(canvas: Canvas) -> list[Phase]:
    """Return the phases of a job."""
    phases: list[Phase] = []
    for number, cells in enumerate(canvas.plan.needed(canvas.job.region)):
        phases.append(Phase(canvas, number, cells, phases[-1] if phases else None))
    return phases


def levels_of(canvas: Canvas, pyramid: Pyramid, picture: Picture) -> list[Level]:
    """Return the levels of a job's pyramid."""
    top, left = canvas.job.shown[:2]
    levels = [Level(canvas, pyramid, 0, picture, (top, left))]
    for number in range(1, len(pyramid.shapes)):
        levels.append(Level(canvas, pyramid, number, levels[-1], (0, 0)))
    return levels

"""The stages whose tasks write pixels: the finished picture, and the levels of its pyramid."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from ..geometry import Block, Box, cells_in, inside, intersect, shape, squares_of
from ..resampling import Resampling
from ..slides.pyramid import Pyramid, halved
from .canvas import Canvas
from .stages import Phase, Stage


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
        return squares_of(self.pyramid.box(self.number, place), 2)

    def holders(self, box: Box) -> Box:
        """Return the tiles that contain a box of the next level."""
        return squares_of(box, self.pyramid.tile // 2)

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


def levels_of(canvas: Canvas, pyramid: Pyramid, picture: Picture) -> list[Level]:
    """Return the levels of a job's pyramid."""
    top, left = canvas.job.shown[:2]
    levels = [Level(canvas, pyramid, 0, picture, (top, left))]
    for number in range(1, len(pyramid.shapes)):
        levels.append(Level(canvas, pyramid, number, levels[-1], (0, 0)))
    return levels

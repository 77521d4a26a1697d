"""Boxes, windows, blocks and phases: which windows compute a pixel, and which block owns it.

Axis order is (y, x); a box is (y0, x0, y1, x1), half open, in canvas pixels.

The canvas is cut into cores of ``stride`` pixels a side. The input of the network is the window: a
core grown by ``margin``. A pixel's value is the weighted sum of the windows' results, with weights
that reach ``taper`` pixels beyond the core and sum to one everywhere. A block owns ``windows`` x
``windows`` cores, and a phase is a run of solver steps between two fusions.

There are two kinds of plan:

- box (taper 0): each pixel belongs to one core. Windows end at the canvas. With a margin as wide
  as the network's receptive field the result is that of one evaluation on the whole canvas.
- tapered (taper = margin): neighbouring windows are fused by linear ramps. All windows have the
  same size. A margin around the canvas makes this possible, and is cut off at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import PlanError

Box = tuple[int, int, int, int]
Block = tuple[int, int]
Steps = tuple[int, int]  # of a solver: first, last + 1


def grow(box: Box, by: int) -> Box:
    """Return the box with ``by`` more pixels on each side."""
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


def intersect(a: Box, b: Box) -> Box:
    """Return the box that two boxes share; it may be empty, with no height or no width."""
    y0, x0 = max(a[0], b[0]), max(a[1], b[1])
    return y0, x0, max(y0, min(a[2], b[2])), max(x0, min(a[3], b[3]))


def joined(a: Box, b: Box) -> Box:
    """Return the smallest box that contains two boxes."""
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def shape(box: Box) -> tuple[int, int]:
    """Return (height, width) of a box."""
    return box[2] - box[0], box[3] - box[1]


def inside(box: Box, frame: Box) -> tuple[slice, slice]:
    """Return slices that pick ``box`` from an array that covers ``frame``."""
    y, x = frame[:2]
    return slice(box[0] - y, box[2] - y), slice(box[1] - x, box[3] - x)


def square_box(place: Block, side: int) -> Box:
    """Return the box of a square, where squares of a ``side`` cut the plane into rows and columns.

    ``place`` is the row and the column; those left of and above the origin are negative.
    """
    i, j = place
    return i * side, j * side, (i + 1) * side, (j + 1) * side


def squares_of(box: Box, side: int) -> Box:
    """Return the squares of a ``side`` that meet a box: a rectangle of rows and columns."""
    y0, x0, y1, x1 = box
    return y0 // side, x0 // side, -(-y1 // side), -(-x1 // side)


@dataclass(frozen=True)
class Plan:
    """The division of a canvas into windows and blocks, and of the solver's steps into phases.

    Attributes:
        size: (h, w) of the canvas in pixels.
        stride, margin, taper, windows: see the module's docstring.
        phases: for each phase its solver steps, as (first, last + 1).
        grid: the corners of windows are multiples of it, so that networks which halve the
            resolution do so at the same places in every window.
        reach: the radius of the receptive field of one phase, in pixels; by default it is taken to
            be as wide as the window.

    Raises:
        PlanError: the numbers are inconsistent.
    """

    size: tuple[int, int]
    stride: int
    margin: int
    taper: int
    windows: int
    phases: tuple[Steps, ...]
    grid: int = 1
    reach: int | None = None

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise PlanError(f"a canvas of {self.size[0]} x {self.size[1]} pixels has no pixels")
        if self.taper not in (0, self.margin):
            raise PlanError("the taper is either zero or the margin")
        if not self.taper and self.windows != 1:
            raise PlanError("without a taper a block is one window")
        if self.stride % self.grid or self.margin % self.grid:
            raise PlanError(f"stride and margin must be multiples of {self.grid}")
        if self.margin + self.taper > self.block_side:
            raise PlanError("a block must be at least as wide as margin and taper together")

    @property
    def block_side(self) -> int:
        """Pixels a side of a whole block."""
        return self.stride * self.windows

    @property
    def part_side(self) -> int:
        """Pixels a side of the area to which a whole block contributes."""
        return self.block_side + 2 * self.taper

    @property
    def covered(self) -> Box:
        """The box of all cores: the canvas, rounded up to the grid or to whole strides."""
        unit = self.stride if self.taper else self.grid
        return 0, 0, -(-self.size[0] // unit) * unit, -(-self.size[1] // unit) * unit

    @property
    def bounds(self) -> Box:
        """The box that has state; windows end at its border."""
        return grow(self.covered, self.taper)

    @property
    def blocks(self) -> tuple[int, int]:
        """Number of block rows and columns."""
        return tuple(-(-n // self.block_side) for n in self.covered[2:])  # type: ignore[return-value]

    def core(self, block: Block) -> Box:
        """Return the pixels whose windows the block owns."""
        return intersect(square_box(block, self.block_side), self.covered)

    def owned(self, block: Block) -> Box:
        """Return the slide pixels that the block delivers: its core within the canvas."""
        return intersect(self.core(block), (0, 0, *self.size))

    def part(self, block: Block) -> Box:
        """Return the pixels to which the block's windows contribute: its part in the store."""
        return intersect(grow(self.core(block), self.taper), self.bounds)

    def view(self, block: Block) -> Box:
        """Return the box of pixels that the block's windows take as input."""
        return intersect(grow(self.core(block), self.margin), self.bounds)

    def cores(self, block: Block) -> list[Box]:
        """Return the cores of the block's windows, in raster order."""
        y0, x0, y1, x1 = core = self.core(block)
        s = self.stride
        return [
            intersect((y, x, y + s, x + s), core)
            for y in range(y0, y1, s)
            for x in range(x0, x1, s)
        ]

    def window(self, core: Box) -> Box:
        """Return the window of a core."""
        return intersect(grow(core, self.margin), self.bounds)

    def reached(self, core: Box) -> Box:
        """Return the pixels to which a core's window contributes."""
        return intersect(grow(core, self.taper), self.bounds)

    def weight(self, core: Box) -> np.ndarray:
        """Return float32 weights, (h, w) of the core's window; over all windows they sum to one."""
        y, x = (self._profile(core, axis) for axis in (0, 1))
        return (y[:, None] * x).astype(np.float32)

    def block_weight(self, block: Block) -> np.ndarray:
        """Float32, (h, w) of the block's part: the sum of its windows' weights."""
        core, part = self.core(block), self.part(block)
        frame = self.window(core)
        return self.weight(core)[inside(part, frame)]

    def _profile(self, core: Box, axis: int) -> np.ndarray:
        start, stop = core[axis], core[axis + 2]
        window, covered = self.window(core), self.covered
        at = np.arange(window[axis], window[axis + 2]) + 0.5
        if not self.taper:
            return ((at > start) & (at < stop)).astype(float)
        rise = (at - start + self.taper) / (2 * self.taper)
        fall = (stop - at + self.taper) / (2 * self.taper)
        # Nothing lies beyond the first and the last window, so they do not ramp there.
        rise = np.ones_like(at) if start == covered[axis] else rise
        fall = np.ones_like(at) if stop == covered[axis + 2] else fall
        return np.clip(np.minimum(rise, fall), 0, 1)

    def sources(self, box: Box) -> Box:
        """Return the blocks whose parts are needed for ``box``: a rectangle (i0, j0, i1, j1)."""
        box = intersect(box, self.bounds)
        first = [max((n - self.taper) // self.block_side, 0) for n in box[:2]]
        last = [
            min((n + self.taper - 1) // self.block_side + 1, most)
            for n, most in zip(box[2:], self.blocks, strict=True)
        ]
        return first[0], first[1], last[0], last[1]

    def blocks_of(self, region: Box) -> Box:
        """Return the blocks that deliver the pixels of ``region``: a rectangle (i0, j0, i1, j1)."""
        return squares_of(region, self.block_side)

    def needed(self, region: Box) -> list[Box]:
        """Return for each phase the blocks that ``region`` needs: rectangles (i0, j0, i1, j1).

        At the border of these blocks some pixels depend on blocks that are left out. Their values
        are wrong, but ``region`` does not depend on them.
        """
        rectangles: list[Box] = []
        box = region
        for _ in self.phases:
            i0, j0, i1, j1 = cells = self.sources(box)
            rectangles.insert(0, cells)
            seen = *self.view((i0, j0))[:2], *self.view((i1 - 1, j1 - 1))[2:]
            whole = self.taper or self.reach is None
            box = seen if whole else intersect(grow(box, self.reach or 0), seen)
        return rectangles


def cells_in(rectangle: Box) -> list[Block]:
    """Return the blocks (i, j) of a rectangle (i0, j0, i1, j1), in raster order."""
    i0, j0, i1, j1 = rectangle
    return [(i, j) for i in range(i0, i1) for j in range(j0, j1)]

"""The lines at which a slide may have seams, and the cells in which these are measured.

Axis order is (y, x), a box is (y0, x0, y1, x1), half open, in pixels of level 0.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np

from ..errors import SlideError
from ..geometry import Box

STEP = 16  # side of a JPEG block where chroma has half the resolution
NEAR = 4  # lines on each side, STEP pixels apart, with which a line is compared
MARGIN = (NEAR + 1) * STEP  # pixels of context round a cell
SMALLEST_CELL = 384
LARGEST_CELL = 2048


@dataclass(frozen=True)
class Grid:
    """The lines at which a slide may have seams.

    stride, windows, taper: as in `geometry.Plan`.
    origin: (y, x) of a crossing of block lines, in slide pixels; may lie outside the slide.
    """

    stride: int
    windows: int = 1
    taper: int = 0
    origin: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        wide = self.stride >= 2 * STEP and self.block <= LARGEST_CELL
        if not wide or not all(self.near(at) for kind in self.lines.values() for at in kind):
            raise SlideError(
                f"lines every {self.stride} pixels: seams are measured for strides from "
                f"{2 * STEP}, with room between ramps, and blocks up to {LARGEST_CELL}"
            )

    @property
    def block(self) -> int:
        """Side of a block in pixels."""
        return self.stride * self.windows

    @property
    def lines(self) -> dict[str, list[int]]:
        """The distances of each kind of line from a block line, within one block."""
        windows = [k * self.stride for k in range(1, self.windows)]
        ramps = [(at + d) % self.block for at in (0, *windows) for d in (-self.taper, self.taper)]
        kinds = {"block": [0], "window": windows, "ramp": sorted(set(ramps)) if self.taper else []}
        return {kind: at for kind, at in kinds.items() if at}

    def near(self, at: int) -> list[int]:
        """Distances from a line to those it is compared with: whole JPEG blocks, off the grid."""
        lines = [line for kind in self.lines.values() for line in kind]
        steps = [k * STEP for k in range(-NEAR, NEAR + 1)]
        return [
            d for d in steps if all(2 < (at + d - n) % self.block < self.block - 2 for n in lines)
        ]

    @property
    def cell(self) -> int:
        """Side of a cell in pixels: a whole number of JPEG blocks, and nearly of blocks."""
        return self.pitch // (2 * STEP) * 2 * STEP

    @property
    def pitch(self) -> int:
        """Distance in pixels from one cell to the next."""
        return self.block * math.ceil(SMALLEST_CELL / self.block)

    def places(self, kind: str) -> np.ndarray:
        """Places in a cell of the lines of a kind: the first pixel after each."""
        at = np.arange(self.cell)
        beyond = (at - self.cell // 2) % self.block
        return at[np.isin(beyond, self.lines[kind])]

    def cells(self, size: tuple[int, int]) -> list[Box]:
        """Return all cells that fit, with their margins, into a slide of ``size`` (h, w)."""
        starts = []
        for origin, length in zip(self.origin, size, strict=True):
            first = (origin - self.cell // 2 - MARGIN) % self.pitch + MARGIN
            starts.append(range(first, length - self.cell - MARGIN + 1, self.pitch))
        return [(y, x, y + self.cell, x + self.cell) for y in starts[0] for x in starts[1]]


def rendered_grid(description: str) -> Grid | None:
    """Return the grid of a slide that `rendering.render` made, or None for other slides."""
    try:
        facts = json.loads(description[description.index("{") : description.rindex("}") + 1])
        plan, (y0, x0, *_) = facts["plan"], facts["region"]
    except (ValueError, KeyError, TypeError):
        return None
    return Grid(plan["stride"], plan["windows"], plan["taper"], origin=(-y0, -x0))

"""Gaussian noise as a function of seed, solver step and position, for any box by itself.

The plane is cut into tiles; each has a counter-based generator of its own (Philox, Salmon and
others 2011) whose key is the seed and whose counter starts at the step and the tile's place.
"""

from __future__ import annotations

import numpy as np

from ..geometry import Box, cells_in, inside, intersect, shape, square_box, squares_of

TILE = 128
_OFFSET = 2**31  # tiles left of and above the canvas have negative places


def noise(box: Box, *, seed: int, step: int | None = None, channels: int = 3) -> np.ndarray:
    """Return unit Gaussian noise, float32 (channels, h, w), of any box of the plane.

    Without a ``step`` it is the noise that a canvas starts from. Each solver step, counted from 0,
    has independent noise.
    """
    draw = 0 if step is None else step + 1
    out = np.empty((channels, *shape(box)), np.float32)
    for row, column in cells_in(squares_of(box, TILE)):
        bits = np.random.Philox(key=seed, counter=[0, draw, row + _OFFSET, column + _OFFSET])
        values = np.random.Generator(bits).standard_normal((channels, TILE, TILE), np.float32)
        tile = square_box((row, column), TILE)
        part = intersect(tile, box)
        out[:, *inside(part, box)] = values[:, *inside(part, tile)]
    return out

"""Glands by a trained network, which paints maps of regions.

The canvas is cut into blocks of `BLOCK` micrometres. The network paints the map of each block with
`NEAR` around it separately (`painting`), from the kinds of tissue in and around it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...geometry import Box, grow, inside
from ...layouts.colon import NEAR
from ...layouts.glands import STEP
from ..painter import Painter
from ..planes import HISTOLOGIES
from .painting import paint_map
from .region_map import REACHES

WEIGHTS = "layout-regions"
BLOCK = 1024  # micrometres, two squares of `layouts.colon`
SHIFT = 512  # of the blocks: the squares just above and left of a canvas are in its first ones
NAMES = ("epithelium", "lumen", "mucus")

Tissue = Callable[[Box], np.ndarray]
"""Which kind of glands belongs where in a box of micrometres: uint8, one for `STEP` of them.

0 is none, the others are numbers of `HISTOLOGIES` from 1.
"""


class LearnedGlands:
    """Glands that a network paints, as a function of seed, place and tissue.

    Args:
        tissue: which kind of glands belongs where.
        seed: another seed gives other glands.
        weights: a file of weights, or the name of weights in the package.
        steps: solver steps; by default as many as the header of the weights says.

    Raises:
        CheckpointError: the weights are damaged, or of another architecture.
    """

    def __init__(
        self,
        tissue: Tissue,
        *,
        seed: int,
        weights: str | Path = WEIGHTS,
        steps: int | None = None,
    ):
        self._tissue, self._seed = tissue, seed
        self._painter = Painter(weights, steps=steps, guidance=0.0, device="cpu")
        self._painted = lru_cache(maxsize=64)(self._paint)

    def heights(self, box: Box) -> dict[str, np.ndarray]:
        """Return how far each place of a box lies inside each region, in micrometres.

        Float32 (h, w), one for every `STEP` micrometres, negative outside. The epithelium includes
        the lumens and the mucus in it. The box is a square of `layouts.colon` with up to `NEAR`
        around it. What two squares get for the same place differs by less than a micrometre.
        """
        row, column = (((box[k] + box[k + 2]) // 2 + SHIFT) // BLOCK for k in (0, 1))
        around = _with_context(row, column)
        part = self._painted(row, column)[:, *inside(_cells(box), _cells(around))]
        reaches = np.array(REACHES, np.float32)[:, None, None]
        return dict(zip(NAMES, part * reaches, strict=True))

    def _paint(self, row: int, column: int) -> np.ndarray:
        """Return the map of a block with `NEAR` around it, float16 (3, h, w)."""
        around = _with_context(row, column)
        cells = _cells(around)
        if not self._tissue(around).any():
            return np.full((len(NAMES), cells[2] - cells[0], cells[3] - cells[1]), -1, np.float16)
        return paint_map(self._painter, cells, self._planes, seed=self._seed).astype(np.float16)

    def _planes(self, cells: Box) -> np.ndarray:
        """Return the planes of the network, `TISSUE_PLANES`, for a box of pixels."""
        y0, x0, y1, x1 = cells
        tissue = self._tissue((y0 * STEP, x0 * STEP, y1 * STEP, x1 * STEP))
        planes = [tissue == number for number, _ in enumerate(HISTOLOGIES, 1)]
        return np.stack([*planes, np.ones(tissue.shape)]).astype(np.float32)


def _with_context(row: int, column: int) -> Box:
    """Return a block in micrometres with `NEAR` around it."""
    y, x = row * BLOCK - SHIFT, column * BLOCK - SHIFT
    return grow((y, x, y + BLOCK, x + BLOCK), NEAR)


def _cells(box: Box) -> Box:
    """Return a box of micrometres in pixels of the map."""
    y0, x0, y1, x1 = (edge // STEP for edge in box)
    return y0, x0, y1, x1

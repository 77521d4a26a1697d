"""Nuclei in regions: how many of each type, where, and in which direction.

The canvas is cut into squares of `TILE` micrometres. A square is populated by itself from the
regions in and around it, so that the numbers that are wanted are met in every square. Where two
squares meet, nuclei that come too near to each other are cut or left out (`outlines.shapes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..annotations.raster import Drawing
from ..annotations.regions import REGIONS, Regions
from ..annotations.types import TYPES
from ..geometry import Box, grow, shape
from .darts import Darts
from .densities import Densities
from .ground import Ground
from .keyed import generator
from .source import NOTHING, Proposals
from .tissues import TISSUES, Tissue

TILE = 256
HALO = 64  # of regions around a square that matter in it
_DRAW = 2000  # the first of the draws of random numbers in this file

# Epithelial nuclei come first, in their rows; then rare types, because the others leave no room.
_ORDER = ("epithelial", "eosinophil", "neutrophil", "plasma", "lymphocyte", "connective")

Kinds = Callable[[Box], tuple[np.ndarray, Sequence[Tissue]]]
"""The kind of tissue at every micrometre of a box: indices (h, w), and what they mean."""


class Populated:
    """A source of layouts: nuclei in the regions that ``regions`` gives for a box.

    Args:
        regions: the regions that meet a box, at 1 micrometre a pixel.
        seed: another seed, other nuclei.
        tissue: the name of the kind of tissue, or a function that gives it by place.
        densities: numbers of nuclei that are wanted instead of those of the tissue.
    """

    def __init__(
        self,
        regions: Callable[[Box], Regions],
        *,
        seed: int,
        tissue: str | Kinds = "normal",
        densities: Densities | None = None,
    ):
        self._regions = regions
        self._seed = seed
        self._tissue = tissue
        self.densities = densities or Densities()

    def regions(self, box: Box) -> Regions:
        """Return the regions that meet a box."""
        return self._regions(box)

    def tissue(self, box: Box) -> None:
        """Return None: what is not drawn is unknown."""

    def nuclei(self, box: Box) -> Proposals:
        """Return the nuclei whose centres lie in a box."""
        y0, x0, y1, x1 = box
        squares = [
            self._square(row, column)
            for row in range(y0 // TILE, -(-y1 // TILE))
            for column in range(x0 // TILE, -(-x1 // TILE))
        ]
        return Proposals.concatenate(squares).within(box)

    def _kinds(self, box: Box) -> tuple[np.ndarray, Sequence[Tissue]]:
        if callable(self._tissue):
            return self._tissue(box)
        return np.zeros(shape(box), np.uint8), (TISSUES[self._tissue],)

    def _square(self, row: int, column: int) -> Proposals:
        """Return the nuclei of one square."""
        box = (row * TILE, column * TILE, (row + 1) * TILE, (column + 1) * TILE)
        around = grow(box, HALO)
        labels = Drawing(self.regions(around)).labels(around)[1]
        if not (labels[_CORE] > 0).any():
            return NOTHING
        rng = generator(self._seed, _DRAW, row, column)
        darts = Darts(box[:2], shape(box), rng)
        ground = Ground(labels, box, self._seed)
        kinds, tissues = self._kinds(box)
        here = [(tissues[k], kinds == k) for k in np.unique(kinds)]
        wanted = self.densities.counts(here, labels[_CORE], rng)
        for name in _ORDER:
            for (place, region, kind), count in wanted.items():
                if kind == name and count:
                    tissue, mask = here[place]
                    mask = mask & (labels[_CORE] == REGIONS.index(region) + 1)
                    weights, angles = ground.habits(region, name, tissue)
                    darts.throw(TYPES.index(name), weights * mask, count, angles)
        return darts.nuclei()


_CORE = slice(HALO, -HALO), slice(HALO, -HALO)

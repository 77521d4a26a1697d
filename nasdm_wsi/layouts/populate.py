"""Nuclei in regions: how many of each type, where, and in which direction.

The canvas is cut into squares of `TILE` micrometres. Each square is filled separately, according to
the regions in and around it, so that every square has the wanted numbers. Where two
squares meet, nuclei that come too near to each other are cut or left out (`outlines.shapes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..annotations.raster import Drawing
from ..annotations.regions import REGIONS, Regions
from ..annotations.types import TYPES
from ..geometry import Box, cells_in, grow, intersect, shape, square_box, squares_of
from .darts import Darts
from .densities import Densities, Place
from .ground import Ground
from .keyed import generator
from .source import NOTHING, Proposals
from .tissues import TISSUES, Tissue

TILE = 256
HALO = 64  # of regions around a square that matter in it
_DRAW = 2000  # the first of the draws of random numbers in this file

# Epithelial nuclei come first, in their rows; then rare types, because the others leave no room.
ORDER = ("epithelial", "eosinophil", "neutrophil", "plasma", "lymphocyte", "connective")

Kinds = Callable[[Box], tuple[np.ndarray, Sequence[Tissue]]]
"""The kind of tissue at every micrometre of a box: indices (h, w), and what they mean."""


class Populated:
    """A source of layouts: nuclei in the regions that ``regions`` gives for a box.

    Args:
        regions: the regions that meet a box, at 1 micrometre a pixel.
        seed: another seed, other nuclei.
        tissue: the name of the kind of tissue, or a function that gives it by place.
        densities: numbers of nuclei that are wanted instead of those of the tissue.
        canvas: height and width; beyond it the regions go on as at its border.
    """

    def __init__(
        self,
        regions: Callable[[Box], Regions],
        *,
        seed: int,
        tissue: str | Kinds = "normal",
        densities: Densities | None = None,
        canvas: tuple[int, int] | None = None,
    ):
        self._regions = regions
        self._seed = seed
        self._tissue = tissue
        self._canvas = canvas
        self.densities = densities or Densities()

    def regions(self, box: Box) -> Regions:
        """Return the regions that meet a box."""
        return self._regions(box)

    def tissue(self, box: Box) -> None:
        """Return None: what is not drawn is unknown."""

    def nuclei(self, box: Box) -> Proposals:
        """Return the nuclei whose centres lie in a box."""
        squares = [self._square(*place) for place in cells_in(squares_of(box, TILE))]
        return Proposals.concatenate(squares).within(box)

    def _kinds(self, box: Box) -> tuple[np.ndarray, Sequence[Tissue]]:
        if callable(self._tissue):
            return self._tissue(box)
        return np.zeros(shape(box), np.uint8), (TISSUES[self._tissue],)

    def _labels(self, box: Box) -> np.ndarray:
        """Return the number of the region at every micrometre of a box: uint8 (h, w)."""
        if self._canvas is None:
            return Drawing(self.regions(box)).labels(box)[1]
        height, width = self._canvas
        part = intersect(box, (0, 0, height, width))
        if 0 in shape(part):
            return np.zeros(shape(box), np.uint8)
        beyond = [(part[k] - box[k], box[k + 2] - part[k + 2]) for k in (0, 1)]
        return np.pad(Drawing(self.regions(part)).labels(part)[1], beyond, mode="edge")

    def _scene(self, row: int, column: int) -> Scene | None:
        """Return what is wanted in a square before any nucleus is there; None without regions."""
        box = square_box((row, column), TILE)
        labels = self._labels(grow(box, HALO))
        if not (labels[_CORE] > 0).any():
            return None
        rng = generator(self._seed, _DRAW, row, column)
        darts = Darts(box[:2], shape(box), rng)
        ground = Ground(labels, box, self._seed)
        kinds, tissues = self._kinds(box)
        here = {int(k): tissues[k] for k in np.unique(kinds)}
        masks = [(tissue, kinds == k) for k, tissue in here.items()]
        wanted = self.densities.counts(masks, labels[_CORE], rng, variation=ground.variation)
        places = np.searchsorted(list(here), kinds)
        return Scene(box, labels[_CORE], places, here, wanted, darts, ground)

    def _square(self, row: int, column: int) -> Proposals:
        """Return the nuclei of one square."""
        scene = self._scene(row, column)
        if scene is None:
            return NOTHING
        scene.throw(scene.wanted)
        return scene.darts.nuclei()


_CORE = slice(HALO, -HALO), slice(HALO, -HALO)


@dataclass(frozen=True)
class Scene:
    """A square that is being populated.

    Attributes:
        box: the square.
        labels: numbers of regions at every micrometre, uint8 (h, w).
        places: int (h, w), which of the kinds of tissue lies where.
        tissues: the kinds of tissue, by their numbers, in the order that ``places`` counts.
        wanted: how many nuclei of which type are wanted where.
        darts: the nuclei that are there so far.
        ground: what the regions say about the nuclei.
    """

    box: Box
    labels: np.ndarray
    places: np.ndarray
    tissues: dict[int, Tissue]
    wanted: dict[Place, float]
    darts: Darts
    ground: Ground

    def throw(self, counts: Mapping[Place, float]) -> None:
        """Add as many nuclei, by kind of tissue, region and type, as find room."""
        tissues = list(self.tissues.values())
        for name in ORDER:
            for (place, region, kind), count in counts.items():
                if kind == name and count:
                    mask = (self.places == place) & (self.labels == REGIONS.index(region) + 1)
                    weights, angles = self.ground.habits(region, name, tissues[place])
                    apart = tissues[place].apart if name == "epithelial" else 0.0
                    number = TYPES.index(name)
                    self.darts.throw(number, weights * mask, count, angles, apart=apart)

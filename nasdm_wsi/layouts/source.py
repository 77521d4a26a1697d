"""What a source of layouts returns: regions, and nuclei whose outlines are not drawn yet."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import shapely

from ..annotations.regions import Regions
from ..geometry import Box


class Proposals(NamedTuple):
    """Nuclei without outlines, as columns.

    Attributes:
        centres: float64 (n, 2), y and x.
        types: uint8 (n,), nucleus types from 1.
        areas: float64 (n,), square micrometres.
        angles: float64 (n,), radians: where the long axis points, from x (right) to y (down).
    """

    centres: np.ndarray
    types: np.ndarray
    areas: np.ndarray
    angles: np.ndarray

    def take(self, index: np.ndarray) -> Proposals:
        """Return the nuclei of an index or a mask."""
        return Proposals(*(column[index] for column in self))

    def within(self, box: Box) -> Proposals:
        """Return the nuclei whose centres lie in the box."""
        y, x = self.centres.T
        return self.take((y >= box[0]) & (x >= box[1]) & (y < box[2]) & (x < box[3]))

    @classmethod
    def concatenate(cls, parts: list[Proposals]) -> Proposals:
        """Join proposals in their order."""
        columns = zip(*(parts or [NOTHING]), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


NOTHING = Proposals(np.empty((0, 2)), np.empty(0, np.uint8), np.empty(0), np.empty(0))


class Source(Protocol):
    """A source of layouts: a function of seed and place, and picklable.

    Two boxes agree, bit for bit, wherever they overlap. Boxes may lie outside the canvas.
    """

    def regions(self, box: Box) -> Regions:
        """Return the regions that meet a box, at 1 micrometre a pixel, later over earlier.

        No region is cut at the box: every box that meets it gets the same polygon.
        """

    def tissue(self, box: Box) -> shapely.Geometry | None:
        """Return the tissue in a box, outside of which is glass; None if that is not known."""

    def nuclei(self, box: Box) -> Proposals:
        """Return the nuclei whose centres lie in a box."""

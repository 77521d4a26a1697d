"""Nuclei and regions for the screen, tile by tile.

Nuclei are outlines at high magnification and counts at low; regions are areas with a border.

Coordinates are x, y in slide pixels whose corners are the integers, a box is (y0, x0, y1, x1),
half open. Answers are bytes, little-endian, for JavaScript's typed arrays.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import shapely

from ..annotations.nuclei import Nuclei
from ..annotations.raster import Drawing, edges
from ..annotations.regions import REGIONS
from ..annotations.types import TYPES
from ..geometry import Box, grow, shape

SIMPLIFIED = 0.35  # screen pixels by which outlines may be off when the slide is reduced


class Overlay:
    """Nuclei and regions in slide pixels; many threads may share one object."""

    def __init__(self, nuclei: Nuclei):
        self.nuclei = replace(nuclei, ids=None, tissue=None, regions=None)
        self._regions = nuclei.regions
        self._reduced = lru_cache(self._reduced_regions)  # one for each level
        # No tree is needed: comparing the boxes of a million nuclei takes a millisecond.
        self._y0, self._x0, self._y1, self._x1 = np.ascontiguousarray(nuclei.boxes().T)

    def outlines(self, box: Box, *, down: int = 1) -> bytes:
        """Return the complete rings of all nuclei whose bounding boxes meet ``box``.

        uint32 n; n lengths in vertices and n type numbers, uint32; then x, y of all vertices,
        float32, relative to the corner of ``box``. For a slide that is reduced by the factor
        ``down``, the outlines are simplified.
        """
        y0, x0, y1, x1 = box
        meets = (self._y0 < y1) & (self._x0 < x1) & (self._y1 > y0) & (self._x1 > x0)
        shown = self.nuclei.take(np.flatnonzero(meets))
        coords, offsets = shown.coords, shown.ring_offsets
        if down > 1 and len(shown):
            rings = shapely.from_ragged_array(shapely.GeometryType.LINESTRING, coords, (offsets,))
            simple = shapely.simplify(rings, SIMPLIFIED * down, preserve_topology=False)
            _, coords, (offsets,) = shapely.to_ragged_array(simple)
        lengths = np.diff(offsets)
        types = np.repeat(shown.types, np.diff(shown.polygon_offsets))
        head = np.concatenate([[len(lengths)], lengths, types]).astype("<u4")
        return head.tobytes() + (coords - (x0, y0)).astype("<f4").tobytes()

    def counts(self, box: Box, *, cell: int) -> np.ndarray:
        """Return how many nuclei of each type have their centre in each cell: uint16 (6, h, w).

        The cells are squares of ``cell`` pixels, which divide the sides of ``box``. If boxes tile a
        slide, each nucleus is counted in exactly one of them.
        """
        y, x = (self._y0 + self._y1) / 2, (self._x0 + self._x1) / 2
        here = np.flatnonzero((y >= box[0]) & (y < box[2]) & (x >= box[1]) & (x < box[3]))
        row = ((y[here] - box[0]) / cell).astype(int)
        column = ((x[here] - box[1]) / cell).astype(int)
        size = (len(TYPES) - 1, *(n // cell for n in shape(box)))
        place = np.ravel_multi_index((self.nuclei.types[here] - 1, row, column), size)
        counts = np.bincount(place, minlength=np.prod(size)).reshape(size)
        return np.minimum(counts, 2**16 - 1).astype("<u2")

    def region_counts(self) -> dict[str, int]:
        """Return the number of regions of each name, without those that have none."""
        return self._regions.counts() if self._regions else {}

    def regions(self, box: Box, *, down: int = 1) -> np.ndarray:
        """Return the number of the region of each pixel of a box, uint8 (h, w); 0 is none.

        ``box`` is in pixels of the slide as it is reduced by the factor ``down``. On the border to
        another region or to none, ``len(REGIONS)`` is added.
        """
        drawing = self._reduced(down)
        if drawing is None:
            return np.zeros(shape(box), np.uint8)
        _, numbers = drawing.labels(grow(box, 1))
        border = edges(numbers) & (numbers > 0)
        return (numbers + border * np.uint8(len(REGIONS)))[1:-1, 1:-1]

    def _reduced_regions(self, down: int) -> Drawing | None:
        if not self._regions:
            return None
        return Drawing(self._regions.scaled(self._regions.mpp * down))

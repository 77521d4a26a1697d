"""Rasterising of nuclei and regions: planes, tissue and labels of any box of the canvas.

A pixel belongs to a nucleus if its centre lies inside the outline. Where nuclei overlap, it belongs
to the last of them. A centre on an outline belongs to the nucleus to its right, or to the one below
it if the outline is horizontal there: polygons that share an edge share no pixel and leave none
out. The same holds for regions. A pixel depends on the outlines alone, whatever box it is
rasterised with, because everything is computed in integers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import numpy as np
import shapely

from ..errors import PlanError
from ..geometry import Box, grow, inside, intersect, shape
from .columns import Columns, members, runs
from .nuclei import Nuclei
from .regions import GLASS, REGIONS, REGIONS_KNOWN, told_as
from .regions import PLANES as REGION_PLANES
from .types import EDGE, NUCLEI_KNOWN, PLANES, TYPES

CACHE_BYTES = 64_000_000  # for the codes that each `Conditioning` keeps
# The code of a pixel is its type number and two bits, and from bit 8 on the number of its region.
TYPE_MASK, EDGE_BIT, TISSUE_BIT, REGION_SHIFT = 0x3F, 0x40, 0x80, 8

GRID = 1024  # vertices are rounded to 1 / GRID pixels
FAR = 1 << 30  # in these units; vertices farther away are moved here, so that products fit int64


def edges(instances: np.ndarray) -> np.ndarray:
    """Return bool (h, w): pixels with one of 4 neighbours in another instance or in none.

    instances: int (h, w), 0 = none. Neighbours outside the array do not count.
    """
    edge = np.zeros(instances.shape, bool)
    for a, b, array in ((edge[1:], edge[:-1], instances), (edge.T[1:], edge.T[:-1], instances.T)):
        step = array[1:] != array[:-1]
        a |= step
        b |= step
    return edge


def planes_of(
    names: Sequence[str], types: np.ndarray, edge: np.ndarray, regions: np.ndarray | None = None
) -> np.ndarray:
    """Conditioning planes in the order of their names: float32 (len(names), h, w).

    A region that ``names`` lacks is told as `regions.told_as` says, or counts as unknown.

    Args:
        types: uint8 (h, w), nucleus types; any other number, such as 255, counts as background.
        edge: bool (h, w), from `edges`.
        regions: uint8 (h, w), numbers of regions, 0 where unknown; None if no region is known.

    Raises:
        PlanError: a name that is none of `types.PLANES` and `regions.PLANES`.
    """
    check_planes(names)
    told = None if regions is None else told_as(names)[regions]
    planes = np.empty((len(names), *types.shape), np.float32)
    for name, plane in zip(names, planes, strict=True):
        if name == NUCLEI_KNOWN:
            plane[...] = 1
        elif name == EDGE:
            plane[...] = edge
        elif name in TYPES:
            plane[...] = types == TYPES.index(name)
        elif told is None:
            plane[...] = 0
        elif name == REGIONS_KNOWN:
            plane[...] = told > 0
        else:
            plane[...] = told == REGIONS.index(name) + 1
    return planes


def check_planes(names: Sequence[str]) -> None:
    """Refuse names of planes that cannot be made from annotations.

    Raises:
        PlanError: a name that is none of `types.PLANES` and `regions.PLANES`.
    """
    given = (*PLANES, *REGION_PLANES)
    for name in names:
        if name not in given:
            raise PlanError(
                f"the weights ask for a plane {name!r}, which annotations do not give: choose "
                f"other `weights`, which ask for some of {', '.join(given)}"
            )


class Conditioning:
    """The conditioning of a canvas of ``size`` (h, w), rasterised box by box on demand.

    ``nuclei``, with their tissue and regions, are in canvas pixels. Boxes may reach beyond the
    canvas, where no nuclei and no regions are drawn.
    Many threads may share one object. It keeps the latest boxes, so that a window is rasterised
    once although every phase asks for its planes and its tissue.
    """

    def __init__(self, nuclei: Nuclei, size: tuple[int, int]):
        self._canvas = (0, 0, *size)
        self._nuclei = Drawing(nuclei)
        self._regions = Drawing(nuclei.regions) if nuclei.regions else None
        self._tissue = None if nuclei.tissue is None else _outline_edges(nuclei.tissue)
        has_glass = self._regions is not None and GLASS in self._regions.table.types
        self._all_tissue = self._tissue is None and not has_glass
        self._recent = _Recent(CACHE_BYTES)

    def planes(self, names: Sequence[str], box: Box) -> np.ndarray:
        """Return the planes of a box in the order of their names: float32 (len(names), h, w).

        Raises:
            PlanError: a name that is none of `types.PLANES` and `regions.PLANES`.
        """
        codes = self._codes(box)
        regions = None if self._regions is None else codes >> REGION_SHIFT
        return planes_of(names, codes & TYPE_MASK, (codes & EDGE_BIT) > 0, regions)

    def labels(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Instances int32 (h, w), 0 = none, else the nucleus' index + 1; and types uint8 (h, w)."""
        instances, types = self._nuclei.labels(box)
        on_canvas = self._on_canvas(box)
        return instances * on_canvas, types * on_canvas

    def regions(self, box: Box) -> np.ndarray:
        """Return the numbers of the regions of a box, uint8 (h, w); 0 where they are unknown."""
        return (self._codes(box).astype(np.uint16) >> REGION_SHIFT).astype(np.uint8)

    def tissue(self, box: Box) -> np.ndarray:
        """Return bool (h, w): the pixels of tissue and nuclei.

        All are of tissue if none is outlined. Regions of glass are cut out of it.
        """
        if self._all_tissue:
            return np.ones(shape(box), bool)
        return (self._codes(box) & TISSUE_BIT) > 0

    def is_glass(self, box: Box) -> bool:
        """Return whether no pixel of the box is of tissue or a nucleus."""
        return not (self._all_tissue or self.tissue(box).any())

    def _codes(self, box: Box) -> np.ndarray:
        """Type, edge, tissue and region of each pixel in one number: (h, w), read-only.

        The numbers are uint8, or uint16 if there are regions.
        """
        codes = self._recent.get(box)
        if codes is None:
            codes = self._encoded(box)
            codes.flags.writeable = False
            self._recent.put(box, codes)
        return codes

    def _encoded(self, box: Box) -> np.ndarray:
        around, types = self._nuclei.labels(grow(box, 1))  # edges depend on neighbours
        instances, types = around[1:-1, 1:-1], types[1:-1, 1:-1]
        edge = edges(around)[1:-1, 1:-1]
        on_canvas = self._on_canvas(box)
        codes = (types | edge * np.uint8(EDGE_BIT)) * on_canvas
        regions = None
        if self._regions is not None:
            regions = self._regions.labels(box)[1] * on_canvas
        codes[self._is_tissue(box, regions) | (instances > 0)] |= TISSUE_BIT
        if regions is None:
            return codes
        return codes | regions.astype(np.uint16) << REGION_SHIFT

    def _is_tissue(self, box: Box, regions: np.ndarray | None) -> np.ndarray:
        """Return bool (h, w): the pixels of tissue, without nuclei."""
        tissue = np.full(shape(box), self._tissue is None)
        if self._tissue is not None:
            pixels, _ = _inside(*self._tissue, np.zeros(len(self._tissue[0]), int), box)
            tissue.reshape(-1)[pixels] = True
        return tissue if regions is None else tissue & (regions != GLASS)

    def _on_canvas(self, box: Box) -> np.ndarray:
        mask = np.zeros(shape(box), bool)
        mask[inside(intersect(box, self._canvas), box)] = True
        return mask


class Drawing:
    """Polygons that are rasterised box by box."""

    def __init__(self, table: Columns):
        self.table = table
        boxes = table.boxes()
        self._order = np.argsort(boxes[:, 0], kind="stable")
        self._boxes = boxes[self._order]
        self._lowest = np.maximum.accumulate(self._boxes[:, 2])  # of each and all before it

    def labels(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Index + 1 of the polygon of each pixel, int32 (h, w), 0 = none, and its type, uint8."""
        near, table = self._near(box), self.table
        rings, counts = members(table.polygon_offsets, near)
        # Rings are closed: an edge begins at each vertex but the last.
        begins = table.ring_offsets[rings]
        steps = table.ring_offsets[rings + 1] - begins - 1
        begins = runs(begins, steps)
        number = np.repeat(np.repeat(near + 1, counts), steps)
        pixels, number = _inside(
            _fixed(table.coords[begins]), _fixed(table.coords[begins + 1]), number, box
        )
        labels, types = np.zeros(shape(box), np.int32), np.zeros(shape(box), np.uint8)
        labels.reshape(-1)[pixels] = number  # of repeated pixels the last one stays
        types.reshape(-1)[pixels] = table.types[number - 1]
        return labels, types

    def _near(self, box: Box) -> np.ndarray:
        """Return the indices of polygons whose bounding boxes meet the box, in no order."""
        y0, x0, y1, x1 = box
        first, last = np.searchsorted(self._lowest, y0), np.searchsorted(self._boxes[:, 0], y1)
        _, left, bottom, right = self._boxes[first:last].T
        meet = (bottom >= y0) & (left <= x1) & (right >= x0)
        return self._order[first:last][meet]


class Cover:
    """The pixels inside polygons, rasterised box by box on demand by the rule of nuclei.

    area: Polygons or MultiPolygons in canvas pixels; they may overlap. box: holds all of them.
    """

    def __init__(self, area: shapely.Geometry):
        self._polygons = shapely.get_parts(area)
        x0, y0, x1, y1 = area.bounds
        self.box = (int(np.floor(y0)), int(np.floor(x0)), int(np.ceil(y1)), int(np.ceil(x1)))
        self._tree = shapely.STRtree(self._polygons)

    def meets(self, box: Box) -> bool:
        """Return whether the bounding box of any polygon meets a box."""
        return bool(len(self._near(box)))

    def _near(self, box: Box) -> np.ndarray:
        y0, x0, y1, x1 = box
        return self._tree.query(shapely.box(x0, y0, x1, y1))

    def mask(self, box: Box) -> np.ndarray:
        """Return bool (h, w): the pixels of a box inside any of the polygons."""
        inside = np.zeros(shape(box), bool)
        for number in self._near(box):
            a, b = _outline_edges(self._polygons[number])
            pixels, _ = _inside(a, b, np.zeros(len(a), int), box)
            inside.reshape(-1)[pixels] = True
        return inside


class _Recent:
    """A thread-safe cache of the arrays of the latest boxes, of at most ``most`` bytes."""

    def __init__(self, most: int):
        self._most, self._bytes = most, 0
        self._arrays: OrderedDict[Box, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def get(self, box: Box) -> np.ndarray | None:
        """Return the array of a box, or None if it is not kept."""
        with self._lock:
            if box in self._arrays:
                self._arrays.move_to_end(box)
            return self._arrays.get(box)

    def put(self, box: Box, array: np.ndarray) -> None:
        """Keep an array, and drop the oldest ones to make room for it."""
        with self._lock:
            if box in self._arrays:  # another thread was first
                return
            self._arrays[box] = array
            self._bytes += array.nbytes
            while self._bytes > self._most:
                _, oldest = self._arrays.popitem(last=False)
                self._bytes -= oldest.nbytes


def _outline_edges(outline: shapely.Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of all edges of polygons: x, y, int64 (e, 2) each."""
    rings = shapely.get_rings(shapely.get_parts(outline))
    coords, ring = shapely.get_coordinates(rings, return_index=True)
    inner = ring[1:] == ring[:-1]
    return _fixed(coords[:-1][inner]), _fixed(coords[1:][inner])


def _fixed(coords: np.ndarray) -> np.ndarray:
    """Return coordinates in whole 1 / GRID pixels: int64."""
    return np.clip(np.rint(coords * GRID), -FAR, FAR).astype(np.int64)


def _inside(
    a: np.ndarray, b: np.ndarray, owner: np.ndarray, box: Box
) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels inside polygons, as (flat index in the box, owner) by ascending owner.

    a, b: the ends of edges, int64 (e, 2), as x and y in 1 / GRID pixels. owner: int (e,), the
    polygon of each edge. A pixel is inside where an odd number of its polygon's edges cross its row
    at or to the left of its centre; an edge includes its upper end and not its lower one.
    """
    (h, w), (y0, x0) = shape(box), box[:2]
    (xa, ya), (xb, yb) = a.T, b.T
    half = GRID // 2
    # The first rows whose centres lie at or below either end.
    rows = -((half - np.stack([ya, yb])) // GRID) - y0
    top, bottom = np.clip(np.sort(rows, axis=0), 0, h)
    row = runs(top, bottom - top)
    edge = np.repeat(np.arange(len(a)), bottom - top)
    xa, ya, dx, dy = xa[edge], ya[edge], (xb - xa)[edge], (yb - ya)[edge]
    # The first column whose centre lies at or to the right of the crossing.
    across = (xa - half) * dy + ((row + y0) * GRID + half - ya) * dx
    column = np.clip(-(-across // (dy * GRID)) - x0, 0, w)
    # Sorted by owner, row and column, every two crossings enclose a span.
    begin, end = np.sort((owner[edge] * h + row) * (w + 1) + column).reshape(-1, 2).T
    line, column = np.divmod(begin, w + 1)
    return runs(line % h * w + column, end - begin), np.repeat(line // h, end - begin)

"""Nuclei in, conditioning of any box out.

A pixel belongs to a nucleus when its centre lies inside; where nuclei overlap the later one wins.
What a pixel gets depends on the nuclei alone and never on the box that asks.
"""

from __future__ import annotations

from threading import Lock

import numpy as np
import shapely
from skimage.draw import polygon

from .geometry import Box, grow, inside, intersect, shape
from .nuclei import TYPES, Nuclei

GRID = 1024  # vertices are rounded to 1 / GRID pixels


def edges(instances: np.ndarray) -> np.ndarray:
    """Bool (h, w): where one of a pixel's 4 neighbours belongs to another instance or to none.

    Pixels at the array's border have no neighbours outside it and hence no edge towards there.
    """
    edge = np.zeros(instances.shape, bool)
    for a, b, array in ((edge[1:], edge[:-1], instances), (edge.T[1:], edge.T[:-1], instances.T)):
        step = array[1:] != array[:-1]
        a |= step
        b |= step
    return edge


def one_hot(types: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Float32 (7, h, w): a plane for each of the six types, then the edges; types, edge (h, w)."""
    kinds = np.arange(1, len(TYPES))[:, None, None]
    return np.concatenate([types == kinds, edge[None]], dtype=np.float32, casting="unsafe")


class Conditioning:
    """The conditioning of a canvas of ``size`` (h, w), rasterised where it is asked for.

    ``nuclei`` are in canvas pixels. Boxes may reach beyond the canvas; nothing is there. One
    object may serve many threads.
    """

    def __init__(self, nuclei: Nuclei, size: tuple[int, int]):
        self._nuclei = nuclei
        self._type_of = np.concatenate([np.zeros(1, np.uint8), nuclei.types])
        self._canvas = (0, 0, *size)
        # Binary fractions survive the shift into a box unrounded, so that a centre which lies on
        # an outline falls to the same side in every box. Centres are integers from here on.
        self._coords = np.rint(nuclei.coords * GRID) / GRID - 0.5
        y0, x0, y1, x1 = nuclei.boxes().T
        self._tree = shapely.STRtree(shapely.box(x0, y0, x1, y1))
        self._lock = Lock()  # prepared geometries are not made for several threads
        shapely.prepare(nuclei.tissue)

    def __call__(self, box: Box) -> np.ndarray:
        """The conditioning of a box: float32 (7, h, w), six one-hot types and instance edges."""
        framed = grow(box, 1)
        instances = self._rasterise(framed)
        planes = one_hot(self._types(instances), edges(instances))[:, 1:-1, 1:-1]
        return planes * self._on_canvas(box)

    def labels(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Instances int32 (h, w), 0 = none, else the nucleus' index + 1; and types uint8 (h, w)."""
        instances = self._rasterise(box) * self._on_canvas(box)
        return instances, self._types(instances)

    def tissue(self, box: Box) -> np.ndarray:
        """Bool (h, w): pixels of tissue or nuclei; everywhere if no tissue is outlined."""
        outline = self._nuclei.tissue
        if outline is None:
            return np.ones(shape(box), bool)
        if self.is_glass(box):
            return np.zeros(shape(box), bool)
        y, x = np.mgrid[box[0] : box[2], box[1] : box[3]] + 0.5
        with self._lock:
            found = shapely.contains_xy(outline, x, y)
        return found | (self._rasterise(box) > 0)

    def is_glass(self, box: Box) -> bool:
        """Whether tissue is outlined, but neither it nor a nucleus meets the box."""
        outline, (y0, x0, y1, x1) = self._nuclei.tissue, box
        if outline is None or len(self._near(box)):
            return False
        with self._lock:
            return not shapely.intersects(outline, shapely.box(x0, y0, x1, y1))

    def _near(self, box: Box) -> np.ndarray:
        """Indices of nuclei whose bounding boxes meet the box, ascending."""
        y0, x0, y1, x1 = box
        return np.sort(self._tree.query(shapely.box(x0, y0, x1, y1)))

    def _types(self, instances: np.ndarray) -> np.ndarray:
        return self._type_of[instances]

    def _on_canvas(self, box: Box) -> np.ndarray:
        mask = np.zeros(shape(box), bool)
        mask[inside(intersect(box, self._canvas), box)] = True
        return mask

    def _rasterise(self, box: Box) -> np.ndarray:
        """Like the instances of `labels`, but nuclei go on beyond the canvas."""
        out = np.zeros(shape(box), np.int32)
        rings, vertices = self._nuclei.polygon_offsets, self._nuclei.ring_offsets
        for k in self._near(box):
            covered: tuple[np.ndarray, ...] = ()
            for ring in range(rings[k], rings[k + 1]):
                x, y = self._coords[vertices[ring] : vertices[ring + 1]].T
                pixels = polygon(y - box[0], x - box[1], out.shape)
                covered = _without(covered, pixels, out.shape) if covered else pixels
            out[covered] = k + 1
        return out


def _without(
    pixels: tuple[np.ndarray, ...], hole: tuple[np.ndarray, ...], size: tuple[int, ...]
) -> tuple[np.ndarray, ...]:
    """Index arrays of the pixels that are not in the hole."""
    mask = np.zeros(size, bool)
    mask[pixels] = True
    mask[hole] = False
    return mask.nonzero()

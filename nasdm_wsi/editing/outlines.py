"""Outlines for nuclei that an edit inserts, or gives another type."""

from __future__ import annotations

import numpy as np
import shapely
from shapely import affinity

from ..annotations.nuclei import Nuclei
from ..layouts.outlines import AREAS, quantiles, shapes
from ..layouts.source import Proposals

ENOUGH = 5  # outlines of a type in the slide, from which others of this type are taken
DRAWN = 32  # outlines that are drawn where the slide has too few
USUAL = 0.25, 0.75  # shares of the nuclei of a type that are smaller than those of usual size
_APART = 1000.0  # micrometres between nuclei that are drawn, so that none cuts another


def usual_outlines(nuclei: Nuclei, number: int, rng: np.random.Generator) -> np.ndarray:
    """Return outlines of usual size for a nucleus type, in pixels of the nuclei, round the origin.

    They are those of nuclei of this type in the slide: the half of them whose areas are nearest to
    the median. Where the slide has fewer than five, they are drawn from the statistics of
    `layouts.outlines`.

    Returns:
        Polygons (n,) whose centroids lie at the origin and whose long axes point along x.
    """
    areas = nuclei.areas()
    alike = np.flatnonzero(nuclei.types == number)
    if len(alike) >= ENOUGH:
        low, high = np.quantile(areas[alike], USUAL)
        usual = alike[(areas[alike] >= low) & (areas[alike] <= high)]
        found = nuclei.take(usual).polygons()
    else:
        found = _drawn(number, rng).scaled(nuclei.mpp).polygons()
    return np.array([_level(polygon) for polygon in found], object)


def _drawn(number: int, rng: np.random.Generator) -> Nuclei:
    """Return nuclei of a type that are drawn from the statistics of real ones, at 1 mpp."""
    types = np.full(DRAWN, number, np.uint8)
    areas = quantiles(AREAS, types, rng.uniform(*USUAL, DRAWN))
    centres = np.column_stack([np.arange(DRAWN) * _APART, np.zeros(DRAWN)])
    seed = int(rng.integers(2**31))
    return shapes(Proposals(centres, types, areas, np.zeros(DRAWN)), seed=seed)[0]


def _level(polygon: shapely.Polygon) -> shapely.Polygon:
    """Return a polygon with its centroid at the origin and its long axis along x."""
    centre = polygon.centroid
    centred = affinity.translate(polygon, -centre.x, -centre.y)
    return affinity.rotate(centred, -axis(polygon), origin=(0, 0), use_radians=True)


def axis(polygon: shapely.Polygon) -> float:
    """Return the direction of a polygon's long axis, from x (right) to y (down), in radians."""
    x, y = np.array(polygon.exterior.coords[:-1]).T
    x, y = x - x.mean(), y - y.mean()
    return float(np.arctan2(2 * (x * y).mean(), (x * x).mean() - (y * y).mean()) / 2)


def placed(outline: shapely.Polygon, centre: shapely.Point, angle: float) -> shapely.Polygon:
    """Return an outline of `usual_outlines` at a centre, its long axis in a direction (radians)."""
    turned = affinity.rotate(outline, angle, origin=(0, 0), use_radians=True)
    return affinity.translate(turned, centre.x, centre.y)

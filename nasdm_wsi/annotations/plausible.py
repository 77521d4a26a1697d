"""Checks of the objects that were read from annotations.

`sort_out` separates nuclei from regions, and checks the nuclei and the order of the regions. Their
places on a slide are checked by `canvas`. `docs/checks.md` lists the checks and their limits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import shapely

from .columns import Columns
from .findings import Findings
from .regions import Regions, regions_among
from .types import LEFT_OUT, UNKNOWN

# An object is a region if it has this many times the median area, and more square micrometres than
# a nucleus has. Megakaryocytes have up to some 1000.
TIMES_MEDIAN, MOST_AREA = 20, 1000.0
# It is also one if it has this many times the median area and holds another object, which is more
# than a fragment of a nucleus and has at most a third of its own area.
HOLDER, FRAGMENT, SHARE = 3, 1 / 4, 1 / 3
MOST_COMPARED = 20_000  # regions that are compared with each other
CELLS = 1024  # a side of the grid that finds points near them
# Diameters of the median nucleus in micrometres, outside of which the pixel size is doubtful, and
# outside of which it is wrong. In colon it has 3.6 to 6.3 (22 pictures of CoNSeP and Lizard), and
# twice as much where 40x is taken for 20x.
LEAST_WIDTH, MOST_WIDTH = 3.0, 9.0
LEAST_POSSIBLE, MOST_POSSIBLE = 0.5, 200.0
MOST_OFF = 1.5  # times; a pixel size may differ that much from the one that the file states
# Nuclei of about one size whose centres lie in one cell of a grid, a quarter of the median width,
# lie on each other; few real ones do.
CELL, MOST_TWICE = 0.25, 0.01
# A nucleus lies apart if it is this many times as far from the median as 90 % of them spread.
APART, LEAST_SPREAD = 10, 1000  # pixels

Table = TypeVar("Table", bound=Columns)


def sort_out(
    columns: Table, classes: np.ndarray, names: Sequence[str], findings: Findings, mpp: float
) -> tuple[Table, Regions | None]:
    """Return the nuclei and the regions among the outlines of a file.

    All else is left out; warnings go to ``findings``.

    Args:
        columns: the outlines; their types are `types.UNKNOWN` if their class names no nuclei, and
            `types.LEFT_OUT` if its nuclei are left out.
        classes: int (n,), the index of each one's class in ``names``.
        mpp: micrometres per pixel of the coordinates.
    """
    findings.is_weighed = True
    boxes, areas = columns.boxes(), columns.areas()
    large = np.zeros(len(columns), bool)
    numbers = np.array([0, *map(findings.names.region, names)], np.uint8)[classes + 1]
    if findings.only_regions:
        is_region = numbers > 0
        if is_region.any():
            _weigh_region_size(findings, _lower_median(areas[is_region]), mpp)
    else:
        # No nucleus has a class that is known and means no nucleus.
        known = np.array([False, *(name not in findings.unknown for name in names)])[classes + 1]
        named = known & (numbers > 0) & (columns.types == UNKNOWN)
        others = np.flatnonzero(~named)
        pixel = _square_micrometres(findings, mpp)
        large[others] = _too_large(columns.take(others), boxes[others], areas[others], pixel)
        least = _least_region(areas[others], areas[others[numbers[others] == 0]], mpp)
        is_region = (numbers > 0) & (named | large | (areas > least))
    for kind, count in zip(*np.unique(classes[is_region], return_counts=True), strict=True):
        findings.read_as_regions(names[kind], int(count))
    left_out = large & ~is_region
    for kind in np.unique(classes[left_out]):
        _leave_out_regions(findings, names[kind], areas[left_out & (classes == kind)], mpp)
    is_nucleus = ~(is_region | left_out) & (columns.types < LEFT_OUT) & (not findings.only_regions)
    if is_nucleus.any():
        _weigh_size(findings, _lower_median(areas[is_nucleus]), mpp)
        _weigh_places(findings, boxes[is_nucleus])
        _weigh_copies(findings, boxes[is_nucleus])
    nuclei = columns if is_nucleus.all() else columns.take(np.flatnonzero(is_nucleus))
    if not is_region.any():
        return nuclei, None
    regions = regions_among(columns, numbers * is_region, mpp)
    _weigh_order(findings, regions)
    return nuclei, regions


def _least_region(areas: np.ndarray, of_nuclei: np.ndarray, mpp: float) -> float:
    """Return the area above which an outline is a region whose class may mean either.

    It is infinite if the median of all ``areas`` is that of a nucleus: then `_too_large` decides.
    ``of_nuclei`` are those whose class cannot mean a region.
    """
    most = MOST_AREA / mpp**2
    if not len(areas) or _lower_median(areas) <= most:
        return math.inf
    return max(most, TIMES_MEDIAN * _lower_median(of_nuclei)) if len(of_nuclei) else most


def weigh_scale(
    findings: Findings, mpp: float, stated: float | None, *, of_slide: bool = False
) -> None:
    """Warn about a pixel size, given or ``of_slide``, that contradicts what the file states."""
    if stated and not 1 / MOST_OFF <= mpp / stated <= MOST_OFF:
        which = (
            f"the slide has {mpp:g}, which is used: do the two belong together?"
            if of_slide
            else f"`mpp` is {mpp:g}: leave it out to take the file's"
        )
        findings.warn(f"the file states {stated:g} micrometres per pixel, but {which}")


def _square_micrometres(findings: Findings, mpp: float) -> float:
    """Return the area of a pixel in square micrometres; it is infinite if unknown."""
    return mpp**2 if findings.mpp_is_known else math.inf


def _too_large(columns: Columns, boxes: np.ndarray, areas: np.ndarray, pixel: float) -> np.ndarray:
    """Return bool (n,): which outlines are too large for nuclei, or enclose others."""
    if not len(columns):
        return np.zeros(0, bool)
    median = _lower_median(areas)
    is_region = (areas > TIMES_MEDIAN * median) & (areas * pixel > MOST_AREA)
    candidates = np.flatnonzero((areas >= HOLDER * median) & ~is_region)
    if len(candidates):
        whole = np.flatnonzero(areas >= FRAGMENT * median)
        is_region[candidates[_hold_others(columns, boxes, areas, candidates, whole)]] = True
    return is_region


def _hold_others(
    columns: Columns,
    boxes: np.ndarray,
    areas: np.ndarray,
    candidates: np.ndarray,
    others: np.ndarray,
) -> np.ndarray:
    """Return the indices, among the candidates, of those that enclose another one."""
    y, x = ((boxes[others, k] + boxes[others, k + 2]) / 2 for k in (0, 1))
    near = _in_cells_of(boxes[candidates], y, x)
    others, y, x = others[near], y[near], x[near]
    tree = shapely.STRtree(shapely.points(x, y))
    polygons = columns.take(candidates).polygons()
    holder, held = tree.query(polygons, predicate="contains")
    around, inner = candidates[holder], others[held]
    fits = (boxes[around, :2] <= boxes[inner, :2]).all(1)
    fits &= (boxes[around, 2:] >= boxes[inner, 2:]).all(1)
    return np.unique(holder[fits & (areas[inner] <= SHARE * areas[around])])


def _in_cells_of(boxes: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return bool (n,): points that may lie in one of the boxes, by cells of a coarse grid.

    Most nuclei are far from the few outlines that may be regions, and building a tree of all nuclei
    is slow.
    """
    y0, x0 = boxes[:, :2].min(0)
    side = max(float((boxes[:, 2:].max(0) - (y0, x0)).max()) / CELLS, 1e-9)
    first, last = ((boxes[:, k : k + 2] - (y0, x0)) // side for k in (0, 2))
    edges = np.zeros((CELLS + 2, CELLS + 2), np.int64)
    (top, left), (bottom, right) = first.astype(int).T, last.astype(int).T + 1
    for rows, columns, step in ((top, left, 1), (bottom, left, -1), (top, right, -1)):
        np.add.at(edges, (rows, columns), step)
    np.add.at(edges, (bottom, right), 1)
    covered = edges.cumsum(0).cumsum(1) > 0
    row, column = ((at - start) // side for at, start in ((y, y0), (x, x0)))
    inside = (row >= 0) & (row <= CELLS) & (column >= 0) & (column <= CELLS)
    inside[inside] = covered[row[inside].astype(int), column[inside].astype(int)]
    return inside


def _leave_out_regions(findings: Findings, name: str, areas: np.ndarray, mpp: float) -> None:
    n, largest, is_in_file = len(areas), areas.max(), name in findings.counts
    findings.leave_out(name, n, "unnamed regions")
    size = f"{largest:,.0f} square pixels"
    if findings.mpp_is_known:
        size = f"{largest * mpp**2:,.0f} square micrometres"
    remedy = f"name it with `class_map` {name}=REGION"
    if not is_in_file:  # but only the number of its pixels
        remedy = "if it is the background, set its pixels to 0"
    elif findings.counts[name]:  # which nuclei have as well
        remedy = "give regions a class of their own"
    findings.warn(
        f"{_objects(n)} of class {name!r} left out: larger than a nucleus or around other objects, "
        f"up to {size}, but the class names no region; {remedy}"
    )


def _weigh_order(findings: Findings, regions: Columns) -> None:
    """Warn about regions of which nothing is seen, because later ones of other names cover them.

    A region counts as covered if all its vertices and a point inside it are: an exact test would
    take minutes on regions of a million vertices.
    """
    if not 1 < len(regions) <= MOST_COMPARED:
        return
    polygons, types, boxes = regions.polygons(), regions.types, regions.boxes()
    cover, covered = shapely.STRtree(polygons).query(polygons)
    later = (covered < cover) & (types[covered] != types[cover])
    later &= (boxes[covered, :2] >= boxes[cover, :2]).all(1)
    later &= (boxes[covered, 2:] <= boxes[cover, 2:]).all(1)
    cover, covered = cover[later], covered[later]
    shapely.prepare(polygons)
    for points_of in (shapely.point_on_surface, shapely.extract_unique_points):
        few, index = np.unique(covered, return_inverse=True)
        under = shapely.covers(polygons[cover], points_of(polygons[few])[index])
        cover, covered = cover[under], covered[under]
    if n := len(np.unique(covered)):
        lie = "1 region lies" if n == 1 else f"{n:,} regions lie"
        findings.warn(
            f"{lie} wholly under a later one: a later region covers earlier ones, so move it "
            "after them in the file"
        )


def _weigh_size(findings: Findings, median_area: float, mpp: float) -> None:
    width = 2 * math.sqrt(median_area / math.pi) * mpp
    if not findings.mpp_is_known or LEAST_WIDTH <= width <= MOST_WIDTH:
        return
    text = (
        f"the median nucleus is {width:.3g} micrometres wide at {mpp:g} micrometres per pixel: "
        "check `mpp`, and that the file holds nuclei and not regions"
    )
    if LEAST_POSSIBLE <= width <= MOST_POSSIBLE:
        findings.warn(text)
    else:
        findings.problem = text


def _weigh_region_size(findings: Findings, median_area: float, mpp: float) -> None:
    width = 2 * math.sqrt(median_area / math.pi) * mpp
    if width < MOST_WIDTH:
        findings.warn(
            f"the median region is {width:.3g} micrometres wide, as a nucleus is: check `mpp`, and "
            "that the file holds regions and not nuclei"
        )


def _weigh_places(findings: Findings, boxes: np.ndarray) -> None:
    if (boxes[:, 2] < 0).all():
        findings.warn(
            "all nuclei lie at negative y, as where y counts upwards; here it counts down, so that "
            "they would be mirrored: change the sign of y"
        )
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, middle, high = np.quantile(centres, [0.05, 0.5, 0.95], axis=0, method="lower")
    spread = np.maximum(high - low, LEAST_SPREAD)
    apart = (np.abs(centres - middle) / spread).max(1)
    if n := int((apart > APART).sum()):
        y, x = centres[apart.argmax()]
        findings.warn(
            f"{_nuclei_lie(n)} far from all others, the farthest at x {x:.0f}, y {y:.0f} pixels: "
            "if it is a mistake, remove it"
        )


def _weigh_copies(findings: Findings, boxes: np.ndarray) -> None:
    """Warn about nuclei that lie on others, as if a file or a plane had been exported twice."""
    sides = boxes[:, 2:] - boxes[:, :2]
    cell = max(CELL * _lower_median(sides.ravel()), 1e-9)
    y, x = np.floor((boxes[:, :2] + sides / 2) / cell).astype(np.int64).T
    size = np.log2(sides.prod(axis=1) + 1).astype(np.int64)  # a fragment in a nucleus is no copy
    n = len(boxes) - len(np.unique((y << 38) + (x << 6) + size))
    if n > MOST_TWICE * len(boxes):
        findings.warn(
            f"{_nuclei_lie(n)} on another one: of each pair only the later one is seen; if the "
            "same nuclei were exported twice, remove the copies"
        )


def _lower_median(values: np.ndarray) -> float:
    """Return the lower median, which is the nucleus if there is one nucleus and one region."""
    return float(np.quantile(values, 0.5, method="lower"))


def _objects(n: int) -> str:
    return "1 object" if n == 1 else f"{n:,} objects"


def _nuclei_lie(n: int) -> str:
    return "1 nucleus lies" if n == 1 else f"{n:,} nuclei lie"

"""Contours traced by OpenCV: how to recognise them, and how to restore their area.

`cv2.findContours` returns the centres of the boundary pixels, counted from 0, and not the line
between pixels: taken literally, contours of nuclei lack a tenth of the area. They move by small
steps along rows, columns and diagonals. So do outlines between pixels that come from marching
squares, but their straight steps are always twice as long as the shortest diagonal ones.
"""

from __future__ import annotations

import numpy as np
import shapely

LEAST_STEPS = 100  # fewer steps do not tell
LEAST_PIXEL = 0.4  # finer steps come from rounded coordinates and not from pixels
LOOK_AT = 100_000  # vertices looked at together
SLACK = 0.05  # pixels; coordinates may have two decimals
MOST = 0.8  # share of the steps; tools repair some of their contours


def traced_pixel(steps: np.ndarray, *, known: bool = False) -> float:
    """Return the side of the traced image's pixels in pixels of the coordinates; 0 for no image.

    It is 1 unless a tool rescaled its contours afterwards.

    Args:
        steps: float (n, 2), from vertex to vertex, of as many outlines as there are.
        known: OpenCV is known to have traced them, perhaps with corners cut.
    """
    steps = np.abs(steps)
    pixel = _pixel(steps) if len(steps) >= LEAST_STEPS else 0.0
    if known:
        return pixel or 1.0
    if not pixel:
        return 0.0
    on_grid = _whole(steps / pixel).all(1)
    x, y = np.rint(steps / pixel).T
    straight, slanted = (x == 0) | (y == 0), (x == y) & (x > 0)
    odd = straight & ((x + y) % 2 == 1)
    chained = np.mean(on_grid & (straight | slanted)) >= MOST
    return pixel if chained and min(slanted.mean(), odd.mean()) > 0.1 else 0.0


def _pixel(steps: np.ndarray) -> float:
    """The shortest common step along an axis of which nearly all are multiples; 0 if none is."""
    lengths = steps[steps > SLACK]
    values, counts = np.unique(lengths.round(2), return_counts=True)
    for value in values[(values >= LEAST_PIXEL) & (counts > 0.02 * len(lengths))]:
        pixel = lengths[np.abs(lengths - value) < SLACK].mean()
        if _whole(lengths / pixel).mean() >= MOST:
            return float(pixel)
    return 0.0


def _whole(numbers: np.ndarray) -> np.ndarray:
    return np.abs(numbers - np.rint(numbers)) <= SLACK


def looks_traced(coords: np.ndarray, ring_offsets: np.ndarray) -> bool:
    """Return whether all coordinates are integers and some steps are slanted, as in OpenCV.

    coords: float (v, 2), x and y. ring_offsets: int (r + 1,) into them.
    """
    parts = np.array_split(coords, 1 + len(coords) // LOOK_AT)
    if not all((xy == np.rint(xy)).all() for xy in parts):  # most files stop at the first
        return False
    slanted = (np.diff(coords, axis=0) != 0).all(1)
    slanted[ring_offsets[1:-1] - 1] = False
    # The points of marching squares, doubled, are odd in one direction and even in the other.
    mixed = len(np.unique(coords.sum(1) % 2)) > 1
    return bool(mixed and slanted.any())


def between_pixels(polygons: np.ndarray, pixel: float) -> np.ndarray:
    """Return the outlines (n,) of all pixels of contours, from contours through their centres."""
    moved = shapely.transform(polygons, lambda xy: xy + pixel / 2)
    return shapely.buffer(moved, pixel / 2, join_style="mitre", cap_style="square")

"""Contours that OpenCV traced: how they are recognised, and made whole.

`cv2.findContours` returns the centres of the boundary pixels, counted from 0, and not the line
between pixels: read as they are, contours of nuclei lack a tenth of the area. They move by small
steps along rows, columns and diagonals. Outlines between pixels do too where they are marching
squares, but then straight steps are always twice as long as the shortest diagonal ones.
"""

from __future__ import annotations

import numpy as np
import shapely

LEAST_STEPS = 100  # fewer say nothing
LEAST_PIXEL = 0.4  # finer steps are rounded coordinates and not pixels
SLACK = 0.05  # pixels; coordinates may have two decimals
MOST = 0.8  # of the steps; tools mend some of their contours


def traced_pixel(steps: np.ndarray, *, known: bool = False) -> float:
    """The pixel of the image that OpenCV traced, in pixels of the coordinates; 0 if it did not.

    It is 1 unless a tool rescaled its contours afterwards.

    Args:
        steps: float (n, 2), from vertex to vertex, of as many outlines as are at hand.
        known: OpenCV traced them for certain, perhaps with corners cut.
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


def made_whole(polygons: np.ndarray, pixel: float) -> np.ndarray:
    """The outlines (n,) of the pixels whose centres the contours join."""
    moved = shapely.transform(polygons, lambda xy: xy + pixel / 2)
    return shapely.buffer(moved, pixel / 2, join_style="mitre", cap_style="square")

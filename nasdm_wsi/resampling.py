"""Pictures at another pixel size, for any box separately.

A pixel of the result is a weighted mean of the pixels around its centre, by a Lanczos kernel of
three lobes (Turkowski, Filters for Common Resampling Tasks, in Graphics Gems, 1990), which is
stretched if the picture is reduced. The weights depend only on the place of the pixel, so boxes
that are computed separately fit together exactly. Axis order is (y, x), a box is (y0, x0, y1, x1),
half open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy

from .geometry import Box, shape

KERNEL, LOBES = "Lanczos 3", 3


@dataclass(frozen=True)
class Resampling:
    """The relation between a source picture and the same picture at another pixel size.

    Attributes:
        source: (h, w) of the source in pixels.
        step: the width of a pixel of the result, in pixels of the source.
    """

    source: tuple[int, int]
    step: float

    @property
    def _reach(self) -> float:
        """How far from its centre a pixel of the result depends on the source, in its pixels."""
        return LOBES * max(self.step, 1.0)

    @property
    def _taps(self) -> int:
        """How many pixels of the source, along an axis, a pixel of the result may depend on."""
        return math.ceil(2 * self._reach) + 1

    def _centre(self, place: np.ndarray) -> np.ndarray:
        return (place + 0.5) * self.step

    def _first(self, place: np.ndarray) -> np.ndarray:
        """Return the first tap of each place, which may lie outside the source."""
        return np.floor(self._centre(place) - self._reach).astype(int)

    def reads(self, box: Box) -> Box:
        """Return the box of the source from which a box of the result is computed."""
        y0, x0, y1, x1 = box
        (top, bottom), (left, right) = (
            self._read(*ends, length)
            for ends, length in zip(((y0, y1), (x0, x1)), self.source, strict=True)
        )
        return top, left, bottom, right

    def _read(self, start: int, stop: int, length: int) -> tuple[int, int]:
        first, last = self._first(np.array([start, stop - 1])).tolist()
        return max(first, 0), min(last + self._taps, length)

    def pixels(self, source: np.ndarray, box: Box) -> np.ndarray:
        """Return the pixels of a box, uint8 (h, w, 3), from those of the source in ``reads(box)``.

        Beyond the edges of the source nothing counts.
        """
        (y0, x0, y1, x1), frame = box, self.reads(box)
        height, width = shape(box)
        rows = self._weights(np.arange(y0, y1), frame[0], frame[2])
        columns = self._weights(np.arange(x0, x1), frame[1], frame[3])
        tall = columns @ _columns_first(source.astype(np.float32))
        wide = rows @ _columns_first(tall.reshape(width, -1, 3))
        values = wide.reshape(height, width, 3)
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)

    def _weights(self, places: np.ndarray, start: int, stop: int) -> scipy.sparse.csr_array:
        """Return the weights (places, stop - start) of pixels of the source, whose rows sum to 1.

        Each row is computed by itself, with the same number of taps in the same order, so it has
        the same bits in whatever box it is.
        """
        taps = self._first(places)[:, None] + np.arange(self._taps)
        away = (taps + 0.5 - self._centre(places)[:, None]) / max(self.step, 1.0)
        weights = np.where(abs(away) < LOBES, np.sinc(away) * np.sinc(away / LOBES), 0.0)
        weights[(taps < start) | (taps >= stop)] = 0.0
        weights /= weights.sum(axis=1, keepdims=True)
        at = np.clip(taps - start, 0, stop - start - 1)
        ends = np.arange(len(places) + 1) * self._taps
        return scipy.sparse.csr_array(
            (weights.astype(np.float32).ravel(), at.ravel(), ends),
            shape=(len(places), stop - start),
        )


def _columns_first(pixels: np.ndarray) -> np.ndarray:
    """Return pixels (h, w, 3) as a matrix (w, h x 3)."""
    return np.ascontiguousarray(pixels.swapaxes(0, 1)).reshape(pixels.shape[1], -1)

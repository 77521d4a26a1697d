"""Nuclei placed one by one in an area, each at a minimum distance from those before it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .outlines import AREAS, ELONGATIONS, quantiles
from .source import NOTHING, Proposals

BORDER = 16  # micrometres around the area in which the distances are kept
TURNS = 24  # directions of the long axis that distances tell apart
TRIES = 12  # places tried for each nucleus that is wanted


class Darts:
    """The nuclei of one area, and how much room is left at every micrometre of it.

    corner: the area's upper left corner (y, x).
    size: its height and width.
    """

    def __init__(self, corner: tuple[int, int], size: tuple[int, int], rng: np.random.Generator):
        self._corner = np.array(corner)
        self._room = np.full((size[0] + 2 * BORDER, size[1] + 2 * BORDER), np.inf, np.float32)
        self._rng = rng
        self._parts: list[Proposals] = []

    def throw(
        self,
        kind: int,
        weights: np.ndarray,
        count: float,
        angles: np.ndarray,
        *,
        apart: float = 0.0,
    ) -> int:
        """Add nuclei of a type; returns how many found room, at most ``count``.

        weights: float (h, w), how likely a nucleus lies at a place; none lies where it is 0.
        angles: float (h, w), where their long axes point.
        apart: micrometres of room that each needs beyond its half width.
        """
        places = self._candidates(weights, count)
        areas = quantiles(AREAS, np.full(len(places), kind), self._rng.random(len(places)))
        long, short = half_axes(kind, areas)
        kept: list[int] = []
        for k, (y, x) in enumerate(places.tolist()):
            if len(kept) >= count:
                break
            if self._room[y + BORDER, x + BORDER] >= short[k] + apart:
                kept.append(k)
                self._take(y, x, long[k], short[k], angles[y, x])
        y, x = places[kept].T
        inside = self._rng.random((len(kept), 2))
        # Binary fractions, so that no sum of theirs depends on its order.
        centres = self._corner + places[kept] + np.floor(inside * 64) / 64
        types = np.full(len(kept), kind, np.uint8)
        self._parts.append(Proposals(centres, types, areas[kept], angles[y, x]))
        return len(kept)

    def place(self, nuclei: Proposals) -> None:
        """Add nuclei that exist already; they take their room."""
        for k, (y, x) in enumerate((nuclei.centres - self._corner).astype(int).tolist()):
            long, short = half_axes(int(nuclei.types[k]), nuclei.areas[k : k + 1])
            self._take(y, x, long[0], short[0], nuclei.angles[k])
        self._parts.append(nuclei)

    def _take(self, y: int, x: int, long: float, short: float, angle: float) -> None:
        kernel = _distances(round(2 * long), round(2 * short), round(angle * TURNS / np.pi) % TURNS)
        here = self._room[y : y + 2 * BORDER + 1, x : x + 2 * BORDER + 1]
        np.minimum(here, kernel, out=here)

    def nuclei(self) -> Proposals:
        """Return all nuclei that found room, in their order."""
        return Proposals.concatenate(self._parts or [NOTHING])

    def _candidates(self, weights: np.ndarray, count: float) -> np.ndarray:
        """Return places (n, 2) in a random order in which likely ones come early.

        Adding Gumbel noise to the logarithms draws without replacement.
        """
        flat = np.flatnonzero(weights > 0)
        order = np.log(weights.ravel()[flat]) + self._rng.gumbel(size=len(flat))
        most = int(min(len(flat), TRIES * count + 100))
        if most < len(flat):
            part = np.argpartition(-order, most)[:most]
            flat, order = flat[part], order[part]
        flat = flat[np.argsort(-order, kind="stable")]
        return np.stack(np.unravel_index(flat, weights.shape), axis=1)


def half_axes(kind: int, areas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the half axes of ellipses of the median elongation of a type."""
    radius = np.sqrt(areas / np.pi)
    stretch = np.sqrt(ELONGATIONS[kind - 1, 4])
    return radius * stretch, radius / stretch


@lru_cache(maxsize=8192)
def _distances(twice_long: int, twice_short: int, turn: int) -> np.ndarray:
    """Return the distances from an ellipse, along rays from its centre: float32 (33, 33)."""
    y, x = np.mgrid[-BORDER : BORDER + 1, -BORDER : BORDER + 1]
    cos, sin = np.cos(turn * np.pi / TURNS), np.sin(turn * np.pi / TURNS)
    along, across = x * cos + y * sin, y * cos - x * sin
    reach = np.hypot(along / (twice_long / 2), across / (twice_short / 2))
    distance = np.hypot(y, x)
    return (distance - distance / np.maximum(reach, 1e-6)).astype(np.float32)

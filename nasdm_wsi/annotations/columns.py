"""Polygons as columns: flat arrays of vertices, rings, polygons and types.

Coordinates are x, y in pixels whose corners are the integers (x to the right, y down), as in
QuPath: the centre of pixel i is i + 0.5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import shapely

AT_ONCE = 65536  # polygons whose areas are measured together


@dataclass(frozen=True, eq=False)
class Columns:
    """Polygons with a type each, as flat arrays.

    Attributes:
        coords: float64 (v, 2), x and y of the vertices of all rings, each ring closed.
        ring_offsets: int64 (r + 1,) into coords; the layout of `shapely.to_ragged_array`.
        polygon_offsets: int64 (n + 1,) into rings; a polygon's first ring is its outline, the
            others are holes.
        types: uint8 (n,), the type numbers.
        ids: a name for each polygon, "" where it has none; None if none has.
    """

    coords: np.ndarray
    ring_offsets: np.ndarray
    polygon_offsets: np.ndarray
    types: np.ndarray
    ids: tuple[str, ...] | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.types)

    def polygons(self) -> np.ndarray:
        """Shapely polygons (n,)."""
        offsets = (self.ring_offsets, self.polygon_offsets)
        return shapely.from_ragged_array(shapely.GeometryType.POLYGON, self.coords, offsets)

    def boxes(self) -> np.ndarray:
        """Return bounding boxes, float (n, 4) as (y0, x0, y1, x1)."""
        if not len(self):
            return np.empty((0, 4))
        yx, first = self.coords[:, ::-1], self.ring_offsets[self.polygon_offsets[:-1]]
        return np.hstack([np.minimum.reduceat(yx, first), np.maximum.reduceat(yx, first)])

    def areas(self) -> np.ndarray:
        """Return areas without holes in square pixels, float (n,)."""
        areas = np.empty(len(self))
        for first in range(0, len(self), AT_ONCE):
            part = slice(first, min(first + AT_ONCE, len(self)))
            areas[part] = self._areas(part)
        return areas

    def _areas(self, part: slice) -> np.ndarray:
        """Return the areas of some consecutive polygons, by the shoelace formula."""
        polygons = self.polygon_offsets[part.start : part.stop + 1]
        rings = self.ring_offsets[polygons[0] : polygons[-1] + 1]
        # Counted from a vertex of their own, large coordinates lose no digits.
        x, y = (self.coords[rings[0] : rings[-1]] - self.coords[rings[0]]).T
        twice = np.append(x[:-1] * y[1:] - x[1:] * y[:-1], 0.0)
        twice[rings[1:] - rings[0] - 1] = 0  # from a ring's end to the next one's beginning
        by_ring = np.abs(np.add.reduceat(twice, rings[:-1] - rings[0])) / 2
        outlines = polygons[:-1] - polygons[0]
        return 2 * by_ring[outlines] - np.add.reduceat(by_ring, outlines)

    def take(self, index: np.ndarray) -> Self:
        """Return the polygons of an integer index, in its order."""
        rings, counts = members(self.polygon_offsets, index)
        vertices, lengths = members(self.ring_offsets, rings)
        return replace(
            self,
            coords=self.coords[vertices],
            ring_offsets=offsets(lengths),
            polygon_offsets=offsets(counts),
            types=self.types[index],
            ids=None if self.ids is None else tuple(self.ids[k] for k in index),
        )


@dataclass(frozen=True, eq=False)
class PolygonTable(Columns):
    """Columns with the pixel size of their coordinates.

    Attributes:
        mpp: micrometres per pixel.
        image_size: height and width in micrometres of the label image that they were read from;
            None if they were read as outlines.
    """

    mpp: float
    image_size: tuple[float, float] | None = field(default=None, kw_only=True)

    def scaled(self, mpp: float) -> Self:
        """Return the polygons in pixels of ``mpp`` micrometres."""
        factor = self.mpp / mpp
        return self if factor == 1 else self._moved(lambda xy: xy * factor, mpp)

    def shifted(self, dy: float, dx: float) -> Self:
        """Return the polygons moved by these numbers of pixels."""
        return self._moved(lambda xy: xy + (dx, dy), self.mpp) if dx or dy else self

    def within(self, box: tuple[float, float, float, float]) -> Self:
        """Return the polygons that touch the box (y0, x0, y1, x1); nothing is cut."""
        y0, x0, y1, x1 = box
        a, b, c, d = self.boxes().T
        touch = (a <= y1) & (b <= x1) & (c >= y0) & (d >= x0)
        # Most lie wholly inside; only the others need their outlines looked at.
        cut = np.flatnonzero(touch & ~((a >= y0) & (b >= x0) & (c <= y1) & (d <= x1)))
        touch[cut] = shapely.intersects(self.take(cut).polygons(), shapely.box(x0, y0, x1, y1))
        return self if touch.all() else self.take(np.flatnonzero(touch))

    def arrays(self) -> dict[str, Any]:
        """Return everything except the ids, by the names of the attributes."""
        names = ("coords", "ring_offsets", "polygon_offsets", "types", "mpp")
        return {name: getattr(self, name) for name in names}

    def digest(self) -> Any:
        """Return a SHA-256 of the outlines and types."""
        digest = hashlib.sha256()
        for column in (self.coords, self.ring_offsets, self.polygon_offsets, self.types):
            digest.update(np.ascontiguousarray(column).reshape(-1).data)
        return digest

    def _moved(self, move: Callable[[np.ndarray], np.ndarray], mpp: float) -> Self:
        return replace(self, coords=move(self.coords), mpp=mpp)


def pack(polygons: Any, types: Any, ids: Sequence[str] | None = None) -> Columns:
    """Return columns of (n,) shapely polygons, with their type numbers and perhaps their ids.

    Each part of a MultiPolygon becomes a polygon of its own (the first keeps the id); empty
    polygons are left out.
    """
    parts, source = shapely.get_parts(np.asarray(polygons, object), return_index=True)
    full = ~shapely.is_empty(parts)
    parts, source = parts[full], source[full]
    if ids is not None:
        first = np.diff(source, prepend=-1) != 0
        ids = tuple(ids[k] if new else "" for k, new in zip(source, first, strict=True))
    if len(parts):
        _, coords, (rings, polygon_offsets) = shapely.to_ragged_array(parts, include_z=False)
    else:
        coords, rings, polygon_offsets = np.empty((0, 2)), np.zeros(1), np.zeros(1)
    return Columns(
        coords,
        rings.astype(np.int64),
        polygon_offsets.astype(np.int64),
        np.asarray(types, np.uint8)[source],
        ids=ids or None,
    )


class Packer:
    """A builder that joins columns; the caller may delete a part after adding it."""

    def __init__(self) -> None:
        self._coords, self._rings, self._polygons, self._types = (bytearray() for _ in range(4))
        self._ids: list[str] = []

    def add(self, part: Columns) -> None:
        """Append a part."""
        self._coords += part.coords.tobytes()
        self._rings += np.diff(part.ring_offsets).tobytes()
        self._polygons += np.diff(part.polygon_offsets).tobytes()
        self._types += part.types.tobytes()
        self._ids += part.ids or [""] * len(part)

    def columns(self) -> Columns:
        """Return all parts, one after another."""
        return Columns(
            np.frombuffer(self._coords).reshape(-1, 2),
            offsets(np.frombuffer(self._rings, np.int64)),
            offsets(np.frombuffer(self._polygons, np.int64)),
            np.frombuffer(self._types, np.uint8),
            ids=tuple(self._ids) if any(self._ids) else None,
        )


def offsets(lengths: Any) -> np.ndarray:
    """Return the starts of consecutive runs of these lengths, and the end: int64 (n + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def members(starts: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the members of the runs in ``index``, run after run, and the length of each run.

    starts: int (n + 1,), from `offsets`. Members are positions: int64.
    """
    lengths = starts[index + 1] - starts[index]
    return runs(starts[index], lengths), lengths


def runs(first: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return for each i the ``lengths[i]`` numbers first[i], first[i] + 1, ..., run after run."""
    before = offsets(lengths)
    return np.repeat(first - before[:-1], lengths) + np.arange(before[-1])

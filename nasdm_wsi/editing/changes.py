"""The differences between two sets of nuclei, and the area around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import shapely

from ..annotations.features import annotation_line, feature_lines
from ..annotations.nuclei import Nuclei
from ..annotations.types import TYPES

SAME, ADDED, CHANGED, PAINTED = "", "added", "changed", "painted anew"
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)


@dataclass(frozen=True)
class Changes:
    """Nuclei after an edit, and what has become of each.

    Attributes:
        nuclei: as they shall be.
        states: for each nucleus `SAME`, `ADDED`, `CHANGED` (another type or outline) or `PAINTED`
            (anew, from the same annotation).
        removed: nuclei that shall no longer be there.
        earlier: the former outlines of nuclei that have another one.
    """

    nuclei: Nuclei
    states: np.ndarray
    removed: Nuclei
    earlier: Nuclei

    def area(self, margin: float) -> shapely.Geometry:
        """Return all that changes and ``margin`` micrometres round it, in pixels of the nuclei."""
        now = self.nuclei.take(np.flatnonzero(self.states != SAME)).polygons()
        outlines = np.concatenate([now, self.removed.polygons(), self.earlier.polygons()])
        return shapely.union_all(shapely.buffer(outlines, margin / self.nuclei.mpp))

    def painted_in(self, area: shapely.Geometry) -> Changes:
        """Return the changes in which all nuclei that touch an area are at least painted anew."""
        shapely.prepare(area)
        touch = shapely.intersects(self.nuclei.polygons(), area)
        states = np.where(touch & (self.states == SAME), PAINTED, self.states)
        return replace(self, states=states)

    def scaled(self, mpp: float) -> Changes:
        """Return the changes in pixels of ``mpp`` micrometres."""
        tables = self.nuclei, self.removed, self.earlier
        nuclei, removed, earlier = (table.scaled(mpp) for table in tables)
        return Changes(nuclei, self.states, removed, earlier)

    def counts(self) -> dict[str, int]:
        """Return how many nuclei were added, changed, painted anew and removed."""
        counts = {state: int((self.states == state).sum()) for state in (ADDED, CHANGED, PAINTED)}
        return {**counts, "removed": len(self.removed)}

    def features(self, area: shapely.Geometry) -> Iterator[bytes]:
        """Yield the lines of a GeoJSON file: the nuclei, the removed ones, and the area.

        What has become of a nucleus is its name. Removed nuclei and the area are annotations of the
        classes ``Removed*`` and ``Synthetic*``, which are left out where nuclei are read.
        """
        nuclei, notes = self.nuclei, self.states.tolist()
        yield from feature_lines(nuclei, nuclei.regions, tissue=nuclei.tissue, notes=notes)
        for polygon, kind in zip(self.removed.polygons(), self.removed.types, strict=True):
            yield annotation_line(polygon, f"removed {TYPES[kind]}", "Removed*")
        for part in shapely.get_parts(area):
            yield annotation_line(part, "synthetic", "Synthetic*")


def unchanged(nuclei: Nuclei) -> Changes:
    """Return the changes of an edit that changes no annotation."""
    none = nuclei.take(np.empty(0, int))
    return Changes(nuclei, np.full(len(nuclei), SAME, "<U12"), none, none)


def changes(before: Nuclei, after: Nuclei) -> Changes:
    """Compare nuclei before and after an edit, both in pixels of any size.

    Two nuclei are the same if they have the same outline, to a hundredth of a pixel, or the same
    id.
    """
    before = before.scaled(after.mpp)
    old, new = _keys(before).tolist(), _keys(after).tolist()
    type_of = dict(zip(old, before.types.tolist(), strict=True))
    ids_before, ids_after = _ids(before), _ids(after)
    known, kept = {*ids_before} - {""}, {*ids_after} - {""}
    states = np.full(len(after), SAME, "<U12")
    for k, (key, kind) in enumerate(zip(new, after.types.tolist(), strict=True)):
        if key not in type_of:
            states[k] = CHANGED if ids_after[k] in known else ADDED
        elif type_of[key] != kind:
            states[k] = CHANGED
    outlines = {*new}
    gone = np.array([key not in outlines for key in old], bool)
    moved = gone & np.array([name in kept for name in ids_before], bool)
    removed, earlier = (before.take(np.flatnonzero(which)) for which in (gone & ~moved, moved))
    return Changes(after, states, removed, earlier)


def _ids(nuclei: Nuclei) -> tuple[str, ...]:
    return nuclei.ids or ("",) * len(nuclei)


def _keys(nuclei: Nuclei) -> np.ndarray:
    """Return a number for each outline, uint64 (n,), wherever its ring begins."""
    if not len(nuclei):
        return np.empty(0, np.uint64)
    x, y = np.rint(nuclei.coords * 100).astype(np.int64).view(np.uint64).T
    mixed = (x * _MIX[0]) ^ (y * _MIX[1])
    mixed = (mixed ^ (mixed >> np.uint64(29))) * _MIX[2]
    mixed ^= mixed >> np.uint64(32)
    mixed[nuclei.ring_offsets[1:] - 1] = 0  # a ring ends where it begins
    return np.add.reduceat(mixed, nuclei.ring_offsets[nuclei.polygon_offsets[:-1]])

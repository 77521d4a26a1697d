"""Edits of nuclei for augmentation: insert, remove, swap types, thin out.

Each function takes nuclei and returns those after the edit; `changes.changes` compares the two. All
use the random numbers of ``rng``, so the same seed gives the same edit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import shapely
from shapely import affinity

from ..annotations.columns import pack
from ..annotations.nuclei import Nuclei
from ..annotations.types import TYPES
from ..errors import PlanError

GAP = 1.0  # micrometres between an inserted nucleus and the others, at least
NEAR, FAR = 8.0, 30.0  # micrometres from the nucleus beside which one is inserted
TRIES = 200  # places that are tried for each nucleus
SWAPPED = 0.5  # how much an outline may be scaled to the size of another type, at most
# Next to which types one of a type usually lies; those of the same type come first.
_COMPANY = {
    "epithelial": ("epithelial",),
    "connective": ("connective",),
    **dict.fromkeys(
        ("neutrophil", "lymphocyte", "plasma", "eosinophil"),
        ("lymphocyte", "plasma", "eosinophil", "neutrophil", "connective"),
    ),
}

Fits = Callable[[shapely.Polygon], bool]


def insert(
    nuclei: Nuclei,
    kind: str,
    count: int,
    *,
    rng: np.random.Generator,
    fits: Fits = lambda outline: True,
) -> Nuclei:
    """Add nuclei of a type, near types that it usually occurs with, and touching no other nucleus.

    Outlines are those of nuclei of this type in the slide, rotated at random; if there are none,
    those of the types that it usually occurs with.

    Args:
        fits: whether an outline may lie where it is, for example on tissue.

    Raises:
        PlanError: there is no room for so many, or no such type.
    """
    number = type_number(kind)
    company = np.flatnonzero(np.isin(nuclei.types, [type_number(name) for name in _COMPANY[kind]]))
    alike = np.flatnonzero(nuclei.types == number)
    company = company if len(company) else np.arange(len(nuclei))
    if not len(company):
        raise PlanError("no nucleus is annotated, so it is unknown where another could lie")
    polygons = nuclei.polygons()
    models = polygons[alike if len(alike) else company]
    crowd = _Crowd(polygons, GAP / nuclei.mpp)
    added: list[shapely.Polygon] = []
    for _ in range(count):
        for _ in range(TRIES):
            anchor = polygons[rng.choice(company)].centroid
            outline = _turned(models[rng.integers(len(models))], rng)
            distance = rng.uniform(NEAR, FAR) / nuclei.mpp
            outline = _moved_to(outline, anchor, distance, rng.uniform(0, 2 * np.pi))
            if crowd.has_room(outline) and fits(outline):
                break
        else:
            raise PlanError(
                f"there is room for {len(added)} of {count} more {kind} nuclei: ask for fewer"
            )
        crowd.add(outline)
        added.append(outline)
    return _joined(nuclei, added, number)


def remove(
    nuclei: Nuclei, kind: str | None, amount: int | float, *, rng: np.random.Generator
) -> Nuclei:
    """Remove random nuclei of a type, or of all types if it is None.

    Args:
        amount: how many, as an int; or which share of them, as a float of at most 1.

    Raises:
        PlanError: there are fewer, the share is above 1, or there is no such type.
    """
    gone = _chosen(nuclei, kind, amount, rng)
    return nuclei.take(np.setdiff1d(np.arange(len(nuclei)), gone))


def thin(nuclei: Nuclei, share: float, *, rng: np.random.Generator) -> Nuclei:
    """Remove a share of all nuclei at random."""
    return remove(nuclei, None, float(share), rng=rng)


def swap(
    nuclei: Nuclei, old: str, new: str, *, rng: np.random.Generator, amount: int | float = 1.0
) -> Nuclei:
    """Give nuclei of a type another type, and about its size.

    Outlines are scaled to the median area of the new type in the slide, if it has some, by a factor
    of 0.5 to 2 in area.

    Args:
        amount: how many, as an int; or which share, as a float of at most 1. By default all.
    """
    chosen = _chosen(nuclei, old, amount, rng)
    types, number, areas = nuclei.types.copy(), type_number(new), nuclei.areas()
    types[chosen] = number
    polygons = nuclei.polygons()
    if (alike := nuclei.types == number).any():
        ratio = np.clip(np.median(areas[alike]) / areas[chosen], SWAPPED, 1 / SWAPPED) ** 0.5
        polygons[chosen] = [
            affinity.scale(polygon, by, by, origin="centroid")
            for polygon, by in zip(polygons[chosen], ratio, strict=True)
        ]
    return replace(nuclei, **vars(pack(polygons, types, nuclei.ids)))


def type_number(kind: str) -> int:
    """Return the number of a nucleus type.

    Raises:
        PlanError: there is no such type.
    """
    if kind not in TYPES[1:]:
        raise PlanError(f"{kind!r} is no nucleus type: choose one of {', '.join(TYPES[1:])}")
    return TYPES.index(kind)


def _chosen(
    nuclei: Nuclei, kind: str | None, amount: int | float, rng: np.random.Generator
) -> np.ndarray:
    """Return the indices of some nuclei of a type: of a number (int) or a share (float) of them."""
    found = np.arange(len(nuclei))
    if kind is not None:
        found = np.flatnonzero(nuclei.types == type_number(kind))
    if isinstance(amount, float):
        if not 0 <= amount <= 1:
            raise PlanError(f"{amount:g} is no share: give one of 0 to 1")
        amount = round(amount * len(found))
    if not 0 <= amount <= len(found):
        what = f"{kind} nuclei" if kind else "nuclei"
        raise PlanError(f"{amount} {what} are asked for, of {len(found)}: ask for fewer")
    return np.sort(rng.permutation(found)[:amount])


def _turned(outline: shapely.Polygon, rng: np.random.Generator) -> shapely.Polygon:
    """Return the outline in a random direction, mirrored half of the time."""
    mirrored = affinity.scale(outline, rng.choice([-1, 1]), 1)
    return affinity.rotate(mirrored, rng.uniform(0, 360), origin="centroid")


def _moved_to(
    outline: shapely.Polygon, anchor: shapely.Point, distance: float, angle: float
) -> shapely.Polygon:
    """Return the outline so that its centroid is at a distance from an anchor."""
    x, y = anchor.x + distance * np.cos(angle), anchor.y + distance * np.sin(angle)
    return affinity.translate(outline, x - outline.centroid.x, y - outline.centroid.y)


class _Crowd:
    """The nuclei that are there, and those that have been added."""

    def __init__(self, polygons: np.ndarray, gap: float):
        self._tree, self._polygons, self._gap = shapely.STRtree(polygons), polygons, gap
        self._added: list[shapely.Polygon] = []

    def has_room(self, outline: shapely.Polygon) -> bool:
        """Return whether no nucleus is nearer to an outline than the gap."""
        near = self._polygons[self._tree.query(outline.buffer(self._gap))]
        others = np.array([*near, *self._added], object)
        return not shapely.dwithin(others, outline, self._gap).any()

    def add(self, outline: shapely.Polygon) -> None:
        """Count an outline among the nuclei."""
        self._added.append(outline)


def _joined(nuclei: Nuclei, added: list[shapely.Polygon], number: int) -> Nuclei:
    """Return the nuclei, and after them the added ones, of one type."""
    polygons = np.array([*nuclei.polygons(), *added], object)
    types = np.append(nuclei.types, np.full(len(added), number))
    ids = None if nuclei.ids is None else (*nuclei.ids, *[""] * len(added))
    return replace(nuclei, **vars(pack(polygons, types, ids)))

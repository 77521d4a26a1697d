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
from .outlines import axis, placed, usual_outlines

GAP = 1.0  # micrometres between an inserted nucleus and the others, at least
NEAR, FAR = 8.0, 30.0  # micrometres from the nucleus beside which one is inserted
TRIES = 200  # places that are tried for each nucleus
OUTLINES_TRIED = 20  # of another type, for each nucleus that is swapped
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

    Their outlines are `usual_outlines` of the type, in random directions.

    Args:
        fits: whether an outline may lie where it is, for example on tissue.

    Raises:
        PlanError: there is no room for so many, or no such type.
    """
    number = type_number(kind)
    company = np.flatnonzero(np.isin(nuclei.types, [type_number(name) for name in _COMPANY[kind]]))
    company = company if len(company) else np.arange(len(nuclei))
    if not len(company):
        raise PlanError("no nucleus is annotated, so it is unknown where another could lie")
    polygons = nuclei.polygons()
    models = usual_outlines(nuclei, number, rng)
    crowd = _Crowd(polygons, GAP / nuclei.mpp)
    for _ in range(count):
        for _ in range(TRIES):
            anchor = polygons[rng.choice(company)].centroid
            distance = rng.uniform(NEAR, FAR) / nuclei.mpp
            centre = _beside(anchor, distance, rng.uniform(0, 2 * np.pi))
            model = models[rng.integers(len(models))]
            outline = placed(model, centre, rng.uniform(0, 2 * np.pi))
            if crowd.has_room(outline) and fits(outline):
                break
        else:
            raise PlanError(
                f"there is room for only {len(crowd.added)} of {count} more {kind} nuclei: "
                "ask for fewer"
            )
        crowd.added.append(outline)
    return _joined(nuclei, crowd.added, number)


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
    """Give nuclei of a type another type, as `retype` does.

    Args:
        amount: how many, as an int; or which share, as a float of at most 1. By default all.
    """
    return retype(nuclei, _chosen(nuclei, old, amount, rng), new, rng=rng)


def retype(nuclei: Nuclei, chosen: np.ndarray, new: str, *, rng: np.random.Generator) -> Nuclei:
    """Give nuclei another type, and outlines as the new type has them.

    A nucleus keeps its centre and the direction of its long axis, and gets one of the
    `usual_outlines` of the new type. If none of those that are tried has room among the other
    nuclei, it keeps its own outline, reduced to the median area of the new type if it is larger.

    Args:
        chosen: the indices of the nuclei.
    """
    types, number = nuclei.types.copy(), type_number(new)
    types[chosen] = number
    models, polygons = usual_outlines(nuclei, number, rng), nuclei.polygons()
    usual_area = np.median(shapely.area(models))
    crowd = _Crowd(polygons, 0)
    for k in chosen:
        own = polygons[k]
        centre, angle = own.centroid, axis(own)
        for model in models[rng.permutation(len(models))[:OUTLINES_TRIED]]:
            outline = placed(model, centre, angle)
            if crowd.has_room(outline, besides=k):
                break
        else:
            by = min(1, usual_area / own.area) ** 0.5
            outline = affinity.scale(own, by, by, origin="centroid")
        polygons[k] = outline
    return replace(nuclei, **vars(pack(polygons, types, nuclei.ids)))


def type_number(kind: str) -> int:
    """Return the number of a nucleus type.

    Raises:
        PlanError: there is no such type.
    """
    if kind not in TYPES[1:]:
        raise PlanError(f"{kind!r} is not a nucleus type: choose one of {', '.join(TYPES[1:])}")
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
            raise PlanError(f"{amount:g} is not a share: give a number from 0 to 1")
        amount = round(amount * len(found))
    if not 0 <= amount <= len(found):
        what = f"{kind} nuclei" if kind else "nuclei"
        raise PlanError(f"{amount} {what} are asked for, of {len(found)}: ask for fewer")
    return np.sort(rng.permutation(found)[:amount])


def _beside(anchor: shapely.Point, distance: float, angle: float) -> shapely.Point:
    """Return the point at a distance from an anchor, in a direction."""
    return shapely.Point(anchor.x + distance * np.cos(angle), anchor.y + distance * np.sin(angle))


class _Crowd:
    """The outlines of all nuclei, among which others need room.

    polygons: those that were there; their places in the array may get other outlines, which hardly
    reach farther. added: further ones. gap: pixels that have to lie between two.
    """

    def __init__(self, polygons: np.ndarray, gap: float):
        self.polygons, self._gap = polygons, gap
        self.added: list[shapely.Polygon] = []
        self._tree = shapely.STRtree(polygons)
        self._reach = gap + np.sqrt(shapely.area(polygons).max(initial=0))

    def has_room(self, outline: shapely.Polygon, *, besides: int = -1) -> bool:
        """Return whether no nucleus, ``besides`` one, lies nearer to an outline than the gap."""
        index = self._tree.query(outline.buffer(self._reach))
        near = self.polygons[index[index != besides]]
        others = np.array([*near, *self.added], object)
        return not shapely.dwithin(others, outline, self._gap).any()


def _joined(nuclei: Nuclei, added: list[shapely.Polygon], number: int) -> Nuclei:
    """Return the nuclei, and after them the added ones, of one type."""
    polygons = np.array([*nuclei.polygons(), *added], object)
    types = np.append(nuclei.types, np.full(len(added), number))
    ids = None if nuclei.ids is None else (*nuclei.ids, *[""] * len(added))
    return replace(nuclei, **vars(pack(polygons, types, ids)))

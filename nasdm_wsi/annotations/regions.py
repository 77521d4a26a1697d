"""Regions of tissue: their names, colours and aliases, the planes made from them, and their table.

A new region is a new row at the end of `_ROWS`. The number of a region is its place + 1; 0 means
that it is unknown what lies at a place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AnnotationError, disk_errors
from .columns import PolygonTable, pack
from .types import plain_name

# Name, colour, other names of the class in annotation files.
_ROWS = (
    ("lumen", (190, 220, 255), "lumina, gland lumen, glandular lumen, luminal, white space"),
    (
        "epithelium",
        (200, 0, 0),
        "epithelial, surface epithelium, glandular epithelium, normal epithelium, gland, "
        "glandular, normal gland, benign gland, malignant gland, crypt, norm, tumor, tumour, tum, "
        "tumor epithelium, tumour epithelium, neoplastic, neoplastic epithelium, neoplasm, "
        "cancer, malignant, carcinoma, adenocarcinoma, adenoma, dysplasia",
    ),
    (
        "stroma",
        (150, 200, 150),
        "stromal, str, tumor stroma, tumour stroma, tumor associated stroma, connective, "
        "lamina propria, submucosa, fibrous, fibrosis, collagen, desmoplasia",
    ),
    ("mucus", (90, 170, 210), "muc, mucin, mucinous, mucin lake, mucin pool, goblet"),
    ("blood", (220, 60, 60), "rbc, red blood, erythrocyte, hemorrhage, haemorrhage"),
    (
        "muscle",
        (190, 110, 160),
        "mus, smooth muscle, muscular, muscularis, muscularis propria, muscularis mucosae",
    ),
    ("fat", (250, 225, 120), "adi, adipose, adipocyte"),
    ("debris", (90, 90, 90), "deb, necrosis, necrotic, necrotic debris"),
    ("glass", (230, 230, 230), "back, background, slide background"),
)
REGIONS = tuple(name for name, _, _ in _ROWS)
PALETTE = np.array([(255, 255, 255), *(colour for _, colour, _ in _ROWS)], np.uint8)

GLASS = REGIONS.index("glass") + 1  # is cut out of the tissue
REGIONS_KNOWN = "regions known"  # 1 where it is told which region a pixel lies in
PLANES = (*REGIONS, REGIONS_KNOWN)

# Class names that end so name nothing but regions, as in "Tumor area".
_SUFFIXES = ("region", "area", "compartment")

_KNOWN = {
    plain_name(alias): number
    for number, (name, _, aliases) in enumerate(_ROWS, 1)
    for alias in (name, *aliases.split(", "))
}


def known_names() -> dict[str, list[str]]:
    """Return all known class names of each region."""
    return {name: [name, *aliases.split(", ")] for name, _, aliases in _ROWS}


def region_number(name: str) -> int:
    """Return the number of a region, by its name or an alias; 0 if the name is unknown.

    For a derived class ("Tumor: Positive"), the whole name is looked up first, then its parts from
    left to right.
    """
    for part in (name, *name.split(":")):
        number = _KNOWN.get(_without_suffix(plain_name(part)), 0)
        if number:
            return number
    return 0


def _without_suffix(plain: str) -> str:
    words = plain.split(" ")
    while len(words) > 1 and words[-1] in _SUFFIXES:
        words.pop()
    return plain_name(" ".join(words))


@dataclass(frozen=True, eq=False)
class Regions(PolygonTable):
    """A table of regions as columns; a later one lies over earlier ones.

    Attributes:
        coords, ring_offsets, polygon_offsets, ids: as in `columns.Columns`.
        types: uint8 (n,), the numbers of the regions.
        mpp: micrometres per pixel of the coordinates.
    """

    @classmethod
    def from_polygons(cls, polygons: Any, names: Iterable[str], *, mpp: float) -> Regions:
        """Return regions from (n,) shapely polygons and their names, as in `REGIONS`.

        Each part of a MultiPolygon becomes a region of its own; empty polygons are left out.

        Raises:
            AnnotationError: a name that is none of `REGIONS`.
        """
        return cls(**vars(pack(polygons, _numbers(names))), mpp=mpp)

    def counts(self) -> dict[str, int]:
        """Return the number of polygons of each region, without regions that have none."""
        counts = np.bincount(self.types, minlength=len(REGIONS) + 1)[1:]
        return {name: int(n) for name, n in zip(REGIONS, counts, strict=True) if n}

    def square_millimetres(self) -> dict[str, float]:
        """Return the area of each region as drawn, in square millimetres."""
        sums = np.bincount(self.types, self.areas(), len(REGIONS) + 1)[1:] * (self.mpp / 1000) ** 2
        return {name: float(sums[REGIONS.index(name)]) for name in self.counts()}

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when an outline or a region does."""
        return self.digest().hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write everything except the ids, for `load` in another process."""
        with disk_errors(path.parent), open(path, "wb") as file:
            np.savez(file, **self.arrays())

    @classmethod
    def load(cls, path: Path) -> Regions:
        """Read the regions that `save` wrote."""
        with np.load(path) as file:
            return cls(**{**file, "mpp": float(file["mpp"])})

    def __repr__(self) -> str:
        counts = ", ".join(f"{n:,} {name}" for name, n in self.counts().items())
        return f"<Regions: {len(self):,} at {self.mpp:g} mpp{counts and ': '}{counts}>"


def _numbers(names: Iterable[str]) -> list[int]:
    names = list(names)
    if odd := sorted(set(names) - {*REGIONS}):
        raise AnnotationError(f"{odd[0]!r} is no region: choose one of {', '.join(REGIONS)}")
    return [REGIONS.index(name) + 1 for name in names]


def unpainted(regions: Regions | None, planes: Collection[str]) -> list[str]:
    """Return a warning about regions that a painter of these ``planes`` does not paint."""
    painted = [name for name in REGIONS if name in planes or name == "glass"]
    names = [name for name in regions.counts() if name not in painted] if regions else []
    if not names:
        return []
    return [
        f"the weights do not paint regions of {', '.join(names)}, which count as unknown; "
        f"they paint {', '.join(painted)}"
    ]

"""Regions of tissue: their names, colours and aliases, the planes made from them, and their table.

A new region is a new row at the end of `_ROWS`. The number of a region is its place + 1; 0 means
that it is unknown what lies at a place.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AnnotationError, disk_errors
from .columns import Columns, Packer, PolygonTable, pack
from .types import plain_name

# Name, colour, other names of the class in annotation files.
_ROWS = (
    ("lumen", (190, 220, 255), "lumina, gland lumen, glandular lumen, luminal, white space"),
    (
        "epithelium",
        (125, 60, 150),
        "epithelial, surface epithelium, glandular epithelium, normal epithelium, gland, "
        "glandular, normal gland, benign gland, malignant gland, crypt, norm, tumor, tumour, tum, "
        "tumor epithelium, tumour epithelium, neoplastic, neoplastic epithelium, cancer, "
        "malignant, carcinoma, adenocarcinoma, adenoma",
    ),
    (
        "stroma",
        (150, 200, 150),
        "stromal, str, tumor stroma, tumour stroma, tumor associated stroma, connective, "
        "lamina propria, submucosa, fibrous, fibrosis, collagen, desmoplasia",
    ),
    ("mucus", (90, 170, 210), "muc, mucin, mucinous, mucin lake, mucin pool"),
    ("blood", (220, 60, 60), "rbc, red blood cell, erythrocyte, hemorrhage, haemorrhage"),
    (
        "muscle",
        (205, 125, 75),
        "mus, smooth muscle, muscular, muscularis, muscularis propria, muscularis mucosae",
    ),
    ("fat", (250, 225, 120), "adi, adipose"),
    ("debris", (90, 90, 90), "deb, necrosis, necrotic debris"),
    ("glass", (230, 230, 230), "back, background, slide background"),
)
REGIONS = tuple(name for name, _, _ in _ROWS)
PALETTE = np.array([(255, 255, 255), *(colour for _, colour, _ in _ROWS)], np.uint8)

GLASS = REGIONS.index("glass") + 1  # is cut out of the tissue
REGIONS_KNOWN = "regions known"  # 1 where it is told which region a pixel lies in
PLANES = (*REGIONS, REGIONS_KNOWN)

# What weights without a plane for a region are told instead: the label that it had in training.
_TOLD_AS = {"muscle": "stroma", "glass": "lumen"}

# Class names that end so name nothing but regions, as in "Tumor area", or nothing but nuclei.
_OF_REGIONS = (" region", " area", " compartment")
_OF_NUCLEI = re.compile(r"(?<!red blood.)\b(cells?|nucleus|nuclei)\s*$")

_KNOWN = {
    plain_name(alias): number
    for number, (name, _, aliases) in enumerate(_ROWS, 1)
    for alias in (name, *aliases.split(", "))
}
_OF_CELLS_TOO = {plain for plain, number in _KNOWN.items() if REGIONS[number - 1] == "debris"}


def known_names() -> dict[str, list[str]]:
    """Return all known class names of each region."""
    return {name: [name, *aliases.split(", ")] for name, _, aliases in _ROWS}


def class_name(region: str) -> str:
    """Return the class of a region in files that are written: it can mean nothing else."""
    return f"{region.capitalize()} region"


def may_name_cells(name: str) -> bool:
    """Return whether cells may have the class name of a region too, as in dead tissue."""
    return any(plain_name(part) in _OF_CELLS_TOO for part in (name, *name.split(":")))


def region_number(name: str) -> int:
    """Return the number of a region, by its name or an alias; 0 if the name is unknown.

    For a derived class ("Tumor: Positive"), the whole name is looked up first, then its parts from
    left to right.
    """
    for part in (name, *name.split(":")):
        plain = plain_name(part)
        while plain.endswith(_OF_REGIONS):
            plain = plain_name(plain.rpartition(" ")[0])
        number = _KNOWN.get(plain, 0)
        if number and not _OF_NUCLEI.search(part.casefold()):
            return number
    return 0


@dataclass(frozen=True, eq=False)
class Regions(PolygonTable):
    """A table of regions as columns; a later one lies over earlier ones.

    Attributes:
        coords, ring_offsets, polygon_offsets, ids: as in `columns.Columns`.
        types: uint8 (n,), the numbers of the regions.
        mpp: micrometres per pixel of the coordinates.
        generated: whether they were generated with a layout, and not drawn or measured.
    """

    generated: bool = field(default=False, kw_only=True)

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


def regions_among(columns: Columns, numbers: np.ndarray, mpp: float) -> Regions:
    """Return the polygons whose numbers, uint8 (n,), are those of regions and not 0."""
    chosen = columns.take(np.flatnonzero(numbers))
    kept = {field.name: getattr(chosen, field.name) for field in fields(Columns)}
    return Regions(**{**kept, "types": numbers[numbers > 0]}, mpp=mpp)


def joined(parts: Iterable[Regions | None]) -> Regions | None:
    """Return all regions of tables that share their mpp, in order; None if there are none."""
    packer = Packer()
    some = [part for part in parts if part]
    for part in some:
        packer.add(part)
    return replace(some[0], **vars(packer.columns())) if some else None


def _numbers(names: Iterable[str]) -> list[int]:
    names = list(names)
    if odd := sorted(set(names) - {*REGIONS}):
        raise AnnotationError(f"{odd[0]!r} is not a region: choose one of {', '.join(REGIONS)}")
    return [REGIONS.index(name) + 1 for name in names]


def told_as(planes: Collection[str]) -> np.ndarray:
    """Return uint8 (len(REGIONS) + 1,): as what a painter of these ``planes`` is told each number.

    It is the number itself, that of the region that had the same label in training, or 0.
    """
    told = [0]
    for number, name in enumerate(REGIONS, 1):
        other = _TOLD_AS.get(name)
        instead = REGIONS.index(other) + 1 if other in planes else 0
        told.append(number if name in planes else instead)
    return np.array(told, np.uint8)


def unpainted(regions: Regions, planes: Collection[str]) -> list[str]:
    """Return warnings about regions that a painter of these ``planes`` cannot tell from others.

    Nobody drew generated regions, so the warnings about these name only what is not painted at all.
    """
    told, names = told_as(planes), ["", *REGIONS]
    there = [number for number in np.unique(regions.types) if number != GLASS]
    unknown = [names[number] for number in there if not told[number]]
    warnings = [
        f"the weights cannot tell {names[number]} from {names[told[number]]}: it is painted as that"
        for number in there
        if told[number] not in (0, number) and not regions.generated
    ]
    if unknown:
        painted = [name for name in REGIONS if name in planes]
        warnings.append(
            f"the weights do not paint regions of {', '.join(unknown)}, which count as unknown; "
            f"they paint {', '.join(painted) or 'none'}"
        )
    return warnings

"""Nucleus types: their names, colours and aliases, and the planes made from them.

A new type is a new row of `_ROWS`. Numbers are Lizard's: a row's place is its number.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import numpy as np

from ..errors import AnnotationError

# Name, colour, other names of the class in annotation files.
_ROWS = (
    ("background", (255, 255, 255), ""),
    ("neutrophil", (255, 165, 0), "polymorph, pmn"),
    (
        "epithelial",
        (0, 200, 0),
        "epithelium, neoplastic, neopla, non neoplastic epithelial, no neo, tumor, tumour, "
        "tumor nonmitotic, tumor any, malignant, cancer, normal epithelial, ductal epithelium, "
        "myoepithelium, glandular, mitosis, mitotic figure, tumor mitotic",
    ),
    ("lymphocyte", (220, 20, 60), "lymph, til, stil, t cell, b cell, cd3, cd8, cd20"),
    ("plasma", (0, 190, 255), "plasmacyte"),
    ("eosinophil", (30, 60, 255), "eos"),
    (
        "connective",
        (255, 215, 0),
        "connec, stroma, stromal, nontil stromal, fibroblast, spindle, spindle shaped, "
        "endothelial, vascular endothelium, muscle",
    ),
)
TYPES = tuple(name for name, _, _ in _ROWS)
PALETTE = np.array([colour for _, colour, _ in _ROWS], np.uint8)

EDGE = "edge"  # pixels beside another nucleus or background
NUCLEI_KNOWN = "nuclei known"  # 1 where the types and edges are known
PLANES = (*TYPES[1:], EDGE, NUCLEI_KNOWN)

TISSUE = -1  # stands for the type number of tissue outlines
UNKNOWN = 255  # stands for the type number of classes about which nothing is known
TISSUE_CLASSES = ("Tissue", "Region*")
UNCLASSIFIED = "unclassified"  # the class of objects that have none
UNTYPED = "nuclei"  # the class of instances in files that know no classes

# Classes of several cell types, read as the commonest of these where nothing better is known.
_VAGUE = ("inflammatory", "inflam", "overall inflammatory", "immune")
_VAGUE_TYPE = TYPES.index("lymphocyte")
_LEFT_OUT = ("background", "ignore", "image")

log = logging.getLogger(__name__)


def plain_name(name: str) -> str:
    """Normalise a class name: case, hyphens, plural and a final "cells" make no difference."""
    words = re.sub(r"[\s_-]+", " ", name.casefold()).strip()
    # "T cells" keeps its noun: a lone letter could mean anything.
    words = re.sub(r"(?<=\w\w)( (cells?|nucleus|nuclei|tissue))+$", "", words)
    return words.removesuffix("s")


_KNOWN: dict[str, int | None] = {
    plain_name(alias): number
    for number, (name, _, aliases) in enumerate(_ROWS)
    for alias in (name, *aliases.split(", "))
    if number and alias
} | {plain_name(name): None for name in _LEFT_OUT}
_KNOWN_VAGUE = {plain_name(name): _VAGUE_TYPE for name in _VAGUE}


def known_names() -> dict[str, list[str]]:
    """Return all known class names, grouped by how they are read."""
    groups = {name: [name, *aliases.split(", ")] for name, _, aliases in _ROWS[1:]}
    groups[f"{TYPES[_VAGUE_TYPE]}, with a warning"] = list(_VAGUE)
    groups["nothing: left out"] = list(_LEFT_OUT)
    return groups


def meaning(number: int | None) -> str:
    """Return the meaning of a type number in words."""
    if number is None:
        return "left out"
    return "tissue outline" if number == TISSUE else TYPES[number]


class ClassNames:
    """The meanings of the class names of an annotation file.

    Args:
        class_map: class name to nucleus type; it has priority over the known names.
        ignore_classes: class names to leave out, with the same priority.
        tissue_classes: patterns of the classes that outline tissue.
        class_property: the property of an object that names its class, if it is not the usual one.

    Raises:
        AnnotationError: ``class_map`` names a type that does not exist.
    """

    def __init__(
        self,
        class_map: Mapping[str, str] | None = None,
        ignore_classes: Iterable[str] = (),
        tissue_classes: Iterable[str] = TISSUE_CLASSES,
        class_property: str | None = None,
    ):
        class_map, ignore_classes = class_map or {}, list(ignore_classes)
        self.class_property = class_property
        self._own: dict[str, int | None] = {}
        for name, kind in class_map.items():
            self._own[plain_name(name)] = _type_number(name, kind)
        self._own.update(dict.fromkeys(map(plain_name, ignore_classes)))
        self._given = {plain_name(name): name for name in (*class_map, *ignore_classes)}
        self._tissue = [pattern.casefold() for pattern in tissue_classes]

    def number(self, name: str) -> int | None:
        """Return the type number of a class, TISSUE, or None if its objects are left out.

        For a derived class ("Immune cells: Lymphocyte"), the whole name is looked up first, then
        its parts from left to right. The user's own names and tissue come first, then names that
        end in ``*`` (left out, as in QuPath), known names, and last those as vague as
        "inflammatory".

        Raises:
            KeyError: the name is unknown.
        """
        parts = (name, *name.split(":"))
        plain = [plain_name(part) for part in parts]
        for part in plain:
            self._given.pop(part, None)
        own = self._own
        if any(self._is_tissue(part) for part in parts):
            own = {plain[0]: TISSUE, **own}
        starred: dict[str, int | None] = {plain[0]: None} if name.endswith("*") else {}
        for table in (own, starred, _KNOWN):
            for part in plain:
                if part in table:
                    return table[part]
        for part in plain:
            if part in _KNOWN_VAGUE:
                kind = TYPES[_KNOWN_VAGUE[part]]
                log.warning("class %r is read as %s; `class_map` can change it", name, kind)
                return _KNOWN_VAGUE[part]
        raise KeyError(name)

    @property
    def unused(self) -> list[str]:
        """Return the names of ``class_map`` and ``ignore_classes`` that no class has had so far."""
        return list(self._given.values())

    def _is_tissue(self, part: str) -> bool:
        plain = part.strip().casefold()
        return any(fnmatchcase(plain, pattern) for pattern in self._tissue)


def _type_number(name: str, kind: str) -> int:
    if kind.casefold() not in TYPES[1:]:
        raise AnnotationError(
            f"class {name!r} is mapped to {kind!r}: choose one of {', '.join(TYPES[1:])}"
        )
    return TYPES.index(kind.casefold())

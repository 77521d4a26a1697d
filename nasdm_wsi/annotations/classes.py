"""Class names of annotation files: what the objects of a class are read as.

A class may name a nucleus type, a tissue region, or both: "Stroma" means connective nuclei where
its objects look like nuclei, and stroma where they look like regions (`plausible`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from ..errors import AnnotationError
from .regions import REGIONS, may_name_cells, region_number
from .types import ALIASES, TISSUE, TISSUE_CLASSES, TYPES, UNKNOWN, plain_name

# Classes of several cell types, read as the commonest of these where nothing better is known.
_VAGUE = ("inflammatory", "inflam", "overall inflammatory", "immune")
_VAGUE_TYPE = TYPES.index("lymphocyte")
_LEFT_OUT = ("background", "ignore", "image", "edit")

log = logging.getLogger(__name__)

_KNOWN: dict[str, int | None] = {
    plain_name(alias): TYPES.index(name) for name, aliases in ALIASES.items() for alias in aliases
} | {plain_name(name): None for name in _LEFT_OUT}
_KNOWN_VAGUE = {plain_name(name): _VAGUE_TYPE for name in _VAGUE}


def known_names() -> dict[str, list[str]]:
    """Return all known class names, grouped by how they are read."""
    groups = {name: list(aliases) for name, aliases in ALIASES.items()}
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
        class_map: class name to nucleus type or region; it has priority over the known names.
        ignore_classes: class names to leave out, with the same priority.
        tissue_classes: patterns of the classes that outline tissue.
        class_property: the property of an object that names its class, if it is not the usual one.

    Raises:
        AnnotationError: ``class_map`` names a type or region that does not exist.
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
        self._own_regions: dict[str, int] = {}
        self._given: dict[str, str] = {}
        for name, kind in class_map.items():
            self._map(name, kind)
        self._own.update(dict.fromkeys(map(plain_name, ignore_classes)))
        self._given.update((plain_name(name), name) for name in ignore_classes)
        self._tissue = [pattern.casefold() for pattern in tissue_classes]

    def _map(self, name: str, kind: str) -> None:
        """Let a class name stand for a nucleus type or region."""
        plain, wanted = plain_name(name), kind.casefold()
        if wanted in REGIONS:
            self._own[plain] = UNKNOWN
            self._own_regions[plain] = REGIONS.index(wanted) + 1
        elif wanted in TYPES[1:]:
            self._own[plain] = TYPES.index(wanted)
            self._given[plain] = name
        else:
            raise AnnotationError(
                f"class {name!r} is mapped to {kind!r}: choose one of {', '.join(TYPES[1:])}, "
                f"or a region: {', '.join(REGIONS)}"
            )

    @property
    def numbers_regions(self) -> bool:
        """Whether the user mapped a number to a region, as for a label image of regions."""
        return any(name.isdecimal() for name in self._own_regions)

    def maps(self, name: str) -> bool:
        """Return whether the user mapped a class or left it out."""
        return plain_name(name) in self._own

    def number(self, name: str) -> int | None:
        """Return the type number of a class, TISSUE, or None if its nuclei are left out.

        It is UNKNOWN for names that only regions have. For a derived class ("Immune cells:
        Lymphocyte"), the whole name is looked up first, then its parts from left to right. The
        user's own names and tissue come first, then names that end in ``*`` (left out, as in
        QuPath), known names, and last those as vague as "inflammatory".

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
        if self.region(name) and not may_name_cells(name):
            return UNKNOWN
        for part in plain:
            if part in _KNOWN_VAGUE:
                kind = TYPES[_KNOWN_VAGUE[part]]
                log.warning("class %r is read as %s; `class_map` can change it", name, kind)
                return _KNOWN_VAGUE[part]
        raise KeyError(name)

    def region(self, name: str) -> int:
        """Return the number of the region that a class names; 0 if it names none.

        The user's own names, tissue and names that end in ``*`` have priority here too.
        """
        parts = (name, *name.split(":"))
        for part in map(plain_name, parts):
            if part in self._own_regions:
                return self._own_regions[part]
            if self._own.get(part, TISSUE) is None:
                return 0
        if name.endswith("*") or any(self._is_tissue(part) for part in parts):
            return 0
        return region_number(name)

    @property
    def unused(self) -> list[str]:
        """The names of ``class_map`` and ``ignore_classes`` that no class has had so far.

        Names of regions do not count: an object whose class is not known is reported anyway.
        """
        return list(self._given.values())

    def _is_tissue(self, part: str) -> bool:
        plain = part.strip().casefold()
        return any(fnmatchcase(plain, pattern) for pattern in self._tissue)

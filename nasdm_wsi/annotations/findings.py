"""Findings about one annotation file: its classes, and what was left out or repaired."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from ..errors import AnnotationError
from .classes import ClassNames, meaning
from .regions import REGIONS
from .types import TYPES, UNCLASSIFIED, UNKNOWN

MOST_NAMED = 10  # classes in a message

log = logging.getLogger(__name__)


class Findings:
    """The classes of one file with their counts, and notes about everything else.

    source: names the file in errors.
    names: the meanings of the class names.
    notes: how many repaired outlines, tiles and so on there were.
    shapeless: how many points, ellipses and so on, which may mean nuclei but are no outlines.
    problem: why the file cannot be rendered, whatever its classes mean; "" if it can.
    mpp_is_known: whether the pixel size is more than an assumption.
    is_weighed: whether `plausible.sort_out` has checked the nuclei.
    properties: the properties of unclassified objects, one of which may name the class.
    only_regions: whether the file is read for its regions alone.
    regions: how many regions of each class there are.
    """

    def __init__(self, source: object, names: ClassNames, *, only_regions: bool = False):
        self.source = str(source)
        self.only_regions = only_regions
        self.counts: Counter[str] = Counter()
        self.regions: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.shapeless: Counter[str] = Counter()
        self.problem = ""
        self.mpp_is_known = True
        self.is_weighed = False
        self.properties: Counter[str] = Counter()
        self.names = names
        self._warnings: list[str] = []
        self._numbers: dict[str, int | None] = {}  # of the classes that are known

    def number(self, name: str, count: int = 1) -> int | None:
        """Count objects of a class.

        Returns its type number, `types.TISSUE`, `types.UNKNOWN`, or None if the class is to be left
        out.
        """
        if name not in self.counts:
            try:
                self._numbers[name] = self.names.number(name)
            except KeyError:
                pass
        self.counts[name] += count
        return self._numbers.get(name, UNKNOWN)

    @property
    def expects_region_labels(self) -> bool:
        """Whether the values of a label image are classes of regions, and not numbers of nuclei."""
        return self.only_regions or self.names.numbers_regions

    def leave_out(self, name: str, count: int, what: str) -> None:
        """Count objects of a class that are not nuclei but ``what``."""
        self.notes[what] += count
        self._take(name, count)

    def read_as_regions(self, name: str, count: int) -> None:
        """Count objects of a class that are no nuclei but regions."""
        self.regions[name] += count
        self._take(name, count)

    def _take(self, name: str, count: int) -> None:
        self.counts[name] -= min(count, self.counts[name])
        if not self.counts[name]:
            del self.counts[name]

    def warn(self, text: str) -> None:
        """Keep a warning; `check` logs them all, and `info` shows them."""
        self._warnings.append(text)

    @property
    def warnings(self) -> list[str]:
        """Return all warnings, a line each."""
        lines = list(self._warnings)
        if self.shapeless:
            lines.append(f"left out, because they are not outlines: {_told(self.shapeless)}")
        if (unused := self.names.unused) and not self.only_regions:
            classes = (self.counts + self.regions).most_common()
            lines.append(
                f"no object has the class {_listed(unused)} that `class_map` or `ignore_classes` "
                f"names: the classes are {_listed(name for name, _ in classes)}"
            )
        return lines

    @property
    def unknown(self) -> Counter[str]:
        """The unknown classes, with their counts."""
        return Counter({name: n for name, n in self.counts.items() if name not in self._numbers})

    def rows(self) -> list[tuple[str, str, int]]:
        """Return class name, meaning and count of each class, the most frequent first."""
        rows = [(name, self._meaning(name), n) for name, n in self.counts.most_common()]
        for name, n in self.regions.most_common():
            rows.append((name, f"region: {REGIONS[self.names.region(name) - 1]}", n))
        return rows

    def summary(self) -> str:
        """Return the notes in words, with the number of objects whose class is left out."""
        left_out = sum(n for name, n in self.counts.items() if self._numbers.get(name, 0) is None)
        return _told(self.notes + self.shapeless + Counter({"of ignored classes": left_out}))

    def check(self, found: int, regions: int = 0, *, may_be_empty: bool = False) -> None:
        """Refuse a file that cannot be rendered, and log the warnings about one that can.

        ``found`` is the number of its nuclei, ``regions`` that of its regions.

        Raises:
            AnnotationError: there are unknown classes, neither nuclei nor regions (unless it
                ``may_be_empty``), or nuclei of impossible size.
        """
        for warning in self.warnings:
            log.warning("%s: %s", self.source, warning)
        if self.unknown and not self.only_regions:
            raise AnnotationError(f"{self.source}: {self._remedy()}")
        if self.problem:
            raise AnnotationError(f"{self.source}: {self.problem}")
        if self.only_regions and not regions:
            raise AnnotationError(f"{self.source}: {self._no_regions()}")
        if not found and not regions:
            text = f"{self.source}: no nuclei found ({self.summary() or 'nothing at all'})"
            if not may_be_empty:
                raise AnnotationError(
                    f"{text}: export polygons of annotations, detections or cells with nuclei"
                )
            log.warning("%s", text)
        elif not found and not self.only_regions:
            log.warning("%s: regions but no nuclei, so no nucleus is painted", self.source)
        also = f", {regions} regions" if regions else ""
        notes = self.summary() or "nothing to note"
        log.info("%s: %d nuclei%s; %s", self.source, found, also, notes)

    def _no_regions(self) -> str:
        """Return the message about a file without regions, which names its classes."""
        classes = _listed(name for name, _ in self.counts.most_common())
        return (
            f"no regions found: its classes are {classes}: name regions with `class_map` "
            f"NAME=REGION, which is one of {', '.join(REGIONS)}"
        )

    def _meaning(self, name: str) -> str:
        if name not in self._numbers:
            return "needs `class_map` or `ignore_classes`"
        return meaning(self._numbers[name])

    def _remedy(self) -> str:
        """Return the message about unknown classes, which names the ten most frequent."""
        unknown = self.unknown
        worst = unknown.most_common(MOST_NAMED)
        names = ", ".join(f"{name!r} ({n} object{'s' * (n > 1)})" for name, n in worst)
        if len(unknown) > len(worst):
            names += f" and {len(unknown) - len(worst)} more"
        text = (
            f"no nucleus type is known for class {names}: choose {', '.join(TYPES[1:-1])} or "
            f"{TYPES[-1]} with `class_map` NAME=TYPE, or leave it out with `ignore_classes` NAME"
        )
        if UNCLASSIFIED in unknown and self.properties:
            found = _listed(name for name, _ in self.properties.most_common())
            text += f", or say with `class_property` which property names the class: {found}"
        return text


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))


def _listed(names: Iterable[str]) -> str:
    """Return names in quotes, at most the first ten."""
    names = list(names)
    some = ", ".join(f"{name!r}" for name in names[:MOST_NAMED]) or "none"
    return some if len(names) <= MOST_NAMED else f"{some} and {len(names) - MOST_NAMED} more"

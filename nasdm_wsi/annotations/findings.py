"""What reading one annotation file finds out: its classes, and what was left out or repaired."""

from __future__ import annotations

import logging
from collections import Counter

from ..errors import AnnotationError
from .types import TYPES, ClassNames, meaning

log = logging.getLogger(__name__)


class Findings:
    """The classes of one file with their counts, and notes about all else.

    source: names the file in errors.
    names: what the class names mean.
    notes: how many points, repaired outlines and so on there were.
    """

    def __init__(self, source: object, names: ClassNames):
        self.source = str(source)
        self.counts: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self._names = names
        self._numbers: dict[str, int | None] = {}  # of the classes that are known

    def number(self, name: str, count: int = 1) -> int | None:
        """Count objects of a class.

        Returns its type number, `types.TISSUE`, or None if nothing is to be drawn: the class is to
        be left out, or nothing is known about it.
        """
        if name not in self.counts:
            try:
                self._numbers[name] = self._names.number(name)
            except KeyError:
                pass
        self.counts[name] += count
        return self._numbers.get(name)

    @property
    def unknown(self) -> Counter[str]:
        """The classes about which nothing is known, with their counts."""
        return Counter({name: n for name, n in self.counts.items() if name not in self._numbers})

    def rows(self) -> list[tuple[str, str, int]]:
        """Class name, what it is read as, and count; the commonest class first."""
        return [(name, self._meaning(name), n) for name, n in self.counts.most_common()]

    def summary(self) -> str:
        """The notes in words, with the number of objects whose class is left out."""
        left_out = sum(n for name, n in self.counts.items() if self._numbers.get(name, 0) is None)
        notes = self.notes + Counter({"of ignored classes": left_out})
        return ", ".join(f"{n} {what}" for what, n in sorted(notes.items()))

    def check(self, found: int) -> None:
        """Refuse a file that cannot be rendered; ``found`` is the number of its nuclei.

        Raises:
            AnnotationError: there are classes about which nothing is known, or no nuclei.
        """
        if self.unknown:
            raise AnnotationError(f"{self.source}: {_remedy(self.unknown)}")
        if not found:
            raise AnnotationError(
                f"{self.source}: no nuclei found ({self.summary() or 'nothing at all'}): "
                "export polygons of annotations, detections or cells with nuclei"
            )
        log.info("%s: %d nuclei; %s", self.source, found, self.summary() or "nothing to note")

    def _meaning(self, name: str) -> str:
        if name not in self._numbers:
            return "needs `class_map` or `ignore_classes`"
        return meaning(self._numbers[name])


def _remedy(unknown: Counter[str]) -> str:
    """The message about classes that are not known, the ten commonest by name."""
    worst = unknown.most_common(10)
    names = ", ".join(f"{name!r} ({n} nuclei)" for name, n in worst)
    if len(unknown) > len(worst):
        names += f" and {len(unknown) - len(worst)} more"
    return (
        f"no nucleus type is known for class {names}: choose {', '.join(TYPES[1:-1])} or "
        f"{TYPES[-1]} with `class_map` NAME=TYPE, or leave it out with `ignore_classes` NAME"
    )

"""What an annotation file holds, class by class, before anything is refused.

Every reader asks a `ClassTable` what a class name means and hands its findings over as `Contents`.
`Contents.checked` refuses what cannot be rendered; `nasdm-wsi info` shows the table instead.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from ..errors import AnnotationError
from .nuclei import TYPES, Nuclei, own_classes, plain_name, resolve_class

TISSUE = -1  # stands for the type number of tissue outlines
TISSUE_CLASSES = ("Tissue", "Region*")
UNTYPED = "nuclei"  # the class of instances in files that know no classes

log = logging.getLogger(__name__)


class ClassTable:
    """The class names of one file: what each means and how often it occurs.

    ``class_map`` (class name to nucleus type) and ``ignore_classes`` go before the known names;
    classes that match a pattern of ``tissue_classes`` outline tissue.

    Raises:
        AnnotationError: ``class_map`` names a type that is none of the six.
    """

    def __init__(
        self,
        class_map: Mapping[str, str] | None = None,
        ignore_classes: Iterable[str] = (),
        tissue_classes: Iterable[str] = TISSUE_CLASSES,
    ):
        self.counts: Counter[str] = Counter()
        self._own = own_classes(class_map or {}, ignore_classes)
        self._patterns = tuple(pattern.casefold() for pattern in tissue_classes)
        self._known: dict[str, int | None] = {}  # without those that say nothing

    def number(self, name: str, count: int = 1) -> int | None:
        """Count a class; its type number, TISSUE, or None where nothing is to be drawn."""
        if name not in self.counts:
            try:
                self._known[name] = self._resolve(name)
            except KeyError:
                pass
        self.counts[name] += count
        return self._known.get(name)

    @property
    def unknown(self) -> Counter[str]:
        """The classes that say nothing, with their counts."""
        return Counter({name: n for name, n in self.counts.items() if name not in self._known})

    @property
    def left_out(self) -> int:
        """How many are of classes to be ignored."""
        return sum(n for name, n in self.counts.items() if self._known.get(name, 0) is None)

    def rows(self) -> list[tuple[str, str, int]]:
        """Class name, what it is read as, and count; the commonest first."""
        return [(name, self._meaning(name), n) for name, n in self.counts.most_common()]

    def _resolve(self, name: str) -> int | None:
        names = [part.strip().casefold() for part in (name, *name.split(":"))]
        own = self._own
        if any(fnmatchcase(n, pattern) for n in names for pattern in self._patterns):
            own = {plain_name(name): TISSUE, **own}
        return resolve_class(name, own)

    def _meaning(self, name: str) -> str:
        if name not in self._known:
            return "needs `class_map` or `ignore_classes`"
        number = self._known[name]
        if number is None:
            return "left out"
        return "tissue outline" if number == TISSUE else TYPES[number]


@dataclass(frozen=True)
class Contents:
    """What was found in an annotation file.

    kind: the format, in words.
    nuclei: those whose class is a nucleus type, and the tissue.
    classes: all classes.
    notes: how much of what else there was, such as points.
    whole: coordinates count from the corner of the whole slide even where only a part of it was
        scanned, and not from the scanned part's corner as in QuPath.
    """

    source: str
    kind: str
    nuclei: Nuclei
    classes: ClassTable
    notes: Mapping[str, int] = field(default_factory=dict)
    whole: bool = False

    def told(self) -> str:
        """The notes in words."""
        notes = Counter(self.notes) + Counter({"of ignored classes": self.classes.left_out})
        return ", ".join(f"{n} {what}" for what, n in sorted(notes.items()))

    def checked(self) -> Nuclei:
        """The nuclei, if they can be rendered.

        Raises:
            AnnotationError: there are none, or there are classes that say nothing.
        """
        if self.classes.unknown:
            raise AnnotationError(f"{self.source}: {_remedy(self.classes.unknown)}")
        if not len(self.nuclei):
            raise AnnotationError(
                f"{self.source}: no nuclei found ({self.told() or 'nothing at all'}): "
                "export polygons of annotations, detections or cells with nuclei"
            )
        log.info(
            "%s: %d nuclei; %s", self.source, len(self.nuclei), self.told() or "nothing to note"
        )
        return self.nuclei


def _remedy(unknown: Counter[str]) -> str:
    worst = unknown.most_common(10)
    names = ", ".join(f"{name!r} ({n} nuclei)" for name, n in worst)
    if len(unknown) > len(worst):
        names += f" and {len(unknown) - len(worst)} more"
    return (
        f"no nucleus type is known for class {names}: choose {', '.join(TYPES[1:-1])} or "
        f"{TYPES[-1]} with `class_map` NAME=TYPE, or leave it out with `ignore_classes` NAME"
    )

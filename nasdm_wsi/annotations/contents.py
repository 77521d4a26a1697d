"""What a format is, and what reading a file of it gives.

A format is one `Format` record, which stands in the file of its reader. `formats` lists them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .findings import Findings
from .jsonstream import head
from .nuclei import Nuclei
from .outlines import Outlines


@dataclass(frozen=True)
class Contents:
    """What was found in an annotation file, whether or not it can be rendered.

    kind: the format, in words.
    nuclei: those whose class is a nucleus type, and the tissue.
    findings: all classes, and notes about what else there was.
    whole: whether coordinates count from the corner of the whole slide even if only a part of it
        was scanned, and not from the corner of the scanned part as in QuPath.
    """

    kind: str
    nuclei: Nuclei
    findings: Findings
    whole: bool = False

    def checked(self) -> Nuclei:
        """The nuclei, if they can be rendered.

        Raises:
            AnnotationError: there are none, or classes about which nothing is known.
        """
        self.findings.check(len(self.nuclei))
        return self.nuclei


class Source:
    """A file whose format is to be found out: its first bytes, and its head if it is JSON."""

    def __init__(self, path: Path, members: Iterable[str] = ()):
        self.path = path
        self._members = tuple(members)

    @cached_property
    def magic(self) -> bytes:
        """The first 32 bytes."""
        with open(self.path, "rb") as file:
            return file.read(32)

    @property
    def member(self) -> str:
        """The member of a JSON file that holds its objects, "" if it has none known."""
        return self._head[0]

    @property
    def values(self) -> dict[str, Any]:
        """The plain values of a JSON file before that member, by their paths."""
        return self._head[1]

    @cached_property
    def _head(self) -> tuple[str, dict[str, Any]]:
        return head(self.path, self._members)


@dataclass(frozen=True)
class Reading:
    """How a file is to be read: pixel size of its coordinates, class names and kind of contours."""

    mpp: float
    findings: Findings
    contours: str = "auto"


def _of_the_slide(_source: Source, slide_mpp: float | None) -> float | None:
    return slide_mpp


@dataclass(frozen=True)
class Format:
    """A format of annotation files.

    name: for users.
    sniff: whether a file is of this format.
    read: reads one. May raise `AnnotationError`.
    member: of JSON formats, the top-level member that holds the objects.
    whole: as in `Contents`.
    pixel_size: micrometres per pixel that a file states by itself, given those of the slide on
        which it was made (None if no slide is given); None if it states none.
    """

    name: str
    sniff: Callable[[Source], bool]
    read: Callable[[Source, Reading], Contents]
    member: str | None = None
    whole: bool = False
    pixel_size: Callable[[Source, float | None], float | None] = _of_the_slide


def packed(outlines: Outlines, kind: str, reading: Reading) -> Contents:
    """The contents of a file from all its outlines."""
    nuclei = Nuclei.from_outlines(outlines, mpp=reading.mpp)
    kind += ", contours of OpenCV" if outlines.traced else ""
    return Contents(kind, nuclei, outlines.findings)

"""The description of an annotation format, and the result of reading a file.

A format is one `Format` record in the module of its reader. `formats` lists them all.
"""

from __future__ import annotations

import sqlite3
import zipfile
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .findings import Findings
from .jsonstream import head, texts
from .nuclei import Nuclei
from .outlines import Outlines
from .parsers import MAX_PIXELS, read_only


@dataclass(frozen=True)
class Contents:
    """The contents of an annotation file, whether or not it can be rendered.

    kind: the format, in words.
    nuclei: those whose class is a nucleus type, with the tissue and the regions.
    findings: all classes, and notes about everything else in the file.
    whole: whether coordinates count from the corner of the whole slide even if only a part of it
        was scanned, and not from the corner of the scanned part as in QuPath.
    """

    kind: str
    nuclei: Nuclei
    findings: Findings
    whole: bool = False

    def checked(self, *, may_be_empty: bool = False) -> Nuclei:
        """Return the nuclei with their regions, if they can be rendered.

        Raises:
            AnnotationError: there are neither and not ``may_be_empty``, or there are unknown
                classes.
        """
        regions = len(self.nuclei.regions or ())
        self.findings.check(len(self.nuclei), regions, may_be_empty=may_be_empty)
        return self.nuclei


_TABLES = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
START = 4096  # bytes of a text that tell its format


class Source:
    """A file or folder, with the properties by which its format is recognised.

    max_pixels: the most of a label image; other limits on what a file may hold follow from it.
    """

    def __init__(self, path: Path, members: Iterable[str] = (), *, max_pixels: int = MAX_PIXELS):
        self.path = path
        self.max_pixels = max_pixels
        self._members = tuple(members)

    @cached_property
    def magic(self) -> bytes:
        """The first 128 bytes of a file; b"" for a folder."""
        if self.path.is_dir():
            return b""
        with open(self.path, "rb") as file:
            return file.read(128)

    @cached_property
    def entries(self) -> list[str]:
        """The names of the files in a zip; empty if it is no zip."""
        if not self.magic.startswith(b"PK\x03\x04"):
            return []
        with zipfile.ZipFile(self.path) as archive:
            return [name for name in archive.namelist() if not name.endswith("/")]

    @cached_property
    def tables(self) -> set[str]:
        """The names of the tables of an SQLite file; empty if it is damaged or of another kind."""
        if not self.magic.startswith(b"SQLite format 3\0"):
            return set()
        try:
            with closing(sqlite3.connect(read_only(self.path), uri=True)) as store:
                return {name for (name,) in store.execute(_TABLES)}
        except sqlite3.Error:
            return set()

    @cached_property
    def start(self) -> bytes:
        """The start of the text, unpacked, without byte order mark and leading space.

        For a zip, it is that of the first file.
        """
        if not self.magic:
            return b""
        text = next((text.read(START) for _, text in texts(self.path, self.max_pixels)), b"")
        return text.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")

    @property
    def is_json(self) -> bool:
        """Whether the file begins like JSON, packed or not."""
        return self.start.startswith((b"{", b"["))

    def ends(self, *suffixes: str) -> bool:
        """Return whether the file is a zip that contains files with one of these suffixes."""
        return any(name.lower().endswith(suffixes) for name in self.entries)

    @property
    def member(self) -> str:
        """The member of a JSON file that holds its objects, "" if no member is known."""
        return self._head[0]

    @property
    def values(self) -> dict[str, Any]:
        """The plain values of a JSON file before that member, by their paths."""
        return self._head[1]

    @cached_property
    def _head(self) -> tuple[str, dict[str, Any]]:
        return head(self.path, self._members, self.max_pixels)


@dataclass(frozen=True)
class Reading:
    """The options of reading: pixel size of the coordinates, class names and kind of contours."""

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
    states_scale: whether a file states the pixel size of its coordinates.
    pixel_size: micrometres per pixel that a file states by itself, given those of the slide on
        which it was made (None if no slide is given); None if it states none.
    """

    name: str
    sniff: Callable[[Source], bool]
    read: Callable[[Source, Reading], Contents]
    member: str | None = None
    whole: bool = False
    states_scale: bool = False
    pixel_size: Callable[[Source, float | None], float | None] = _of_the_slide


def packed(outlines: Outlines, kind: str, reading: Reading) -> Contents:
    """Return the contents of a file from all its outlines."""
    nuclei = Nuclei.from_outlines(outlines, mpp=reading.mpp)
    kind += ", contours of OpenCV" if outlines.traced else ""
    return Contents(kind, nuclei, outlines.findings)

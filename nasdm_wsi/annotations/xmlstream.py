"""XML, element by element. Entities, by which small texts become huge ones, are refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from ..errors import AnnotationError
from .contents import Source
from .jsonstream import unpacked

CHUNK = 1 << 18  # bytes read at a time
_ROOT = re.compile(rb"<([A-Za-z_][\w.:-]*)")


def root(source: Source) -> str:
    """Return the name of the first element of an XML file; "" if it is none."""
    text = source.start.replace(b"\0", b"")  # UTF-16 has one in each letter of a name
    found = _ROOT.search(text) if text.startswith(b"<") else None
    return found[1].decode() if found else ""


def elements(path: Path) -> Iterator[tuple[str, dict[str, str] | None]]:
    """Yield each element's name with its attributes at its start, and with None at its end.

    The file may be packed by gzip or zip.

    Raises:
        AnnotationError: it is not XML, is truncated, or declares entities.
    """
    for _, text in unpacked(path):
        yield from _elements(text, path)


def _elements(text: Any, path: Path) -> Iterator[tuple[str, dict[str, str] | None]]:
    """Yield the elements of one text."""
    found: list[tuple[str, dict[str, str] | None]] = []

    def refuse(*_declaration: object) -> None:
        raise AnnotationError(f"{path}: declares entities: save it without them")

    parser = expat.ParserCreate()
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = lambda name, attributes: found.append((name, attributes))
    parser.EndElementHandler = lambda name: found.append((name, None))
    try:
        while chunk := text.read(CHUNK):
            parser.Parse(chunk)
            yield from found
            found.clear()
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise AnnotationError(f"{path}: not XML, or cut short ({error}): export it again") from None


def point(attributes: dict[str, str], where: str) -> tuple[float, float]:
    """Return the point in the attributes X and Y of an element.

    Raises:
        AnnotationError: it has none, or they are not numbers; the message begins with ``where``.
    """
    try:
        return float(attributes["X"]), float(attributes["Y"])
    except (KeyError, ValueError) as error:
        raise AnnotationError(f"{where} has a point without coordinates: correct it") from error

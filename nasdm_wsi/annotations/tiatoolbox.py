"""TIAToolbox annotation stores: SQLite tables of well-known binary with JSON properties."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import AnnotationError
from ..isolated import IsolatedError
from .contents import Contents, Format, Reading, Source, packed
from .features import class_of
from .outlines import Outlines, kind_of
from .parsers import read_store

_MAGIC = b"SQLite format 3\0"


def _read(source: Source, reading: Reading) -> Contents:
    outlines = Outlines(reading.findings, reading.contours)
    class_property = reading.findings.names.class_property
    for geometries, names, others in _batches(source.path, class_property):
        outlines.add_geometries(geometries, names)
        for kind in others:
            outlines.findings.shapeless[kind_of(kind)] += 1
    return packed(outlines, FORMAT.name, reading)


def _batches(
    path: Path, class_property: str | None
) -> Iterator[tuple[np.ndarray, list[str], list[str]]]:
    """Geometries (n,), names of their classes, and types of the objects without geometry."""
    try:
        for geometries, properties, others in read_store(path):
            names = [class_of(json.loads(text), class_property) for text in properties]
            yield geometries, names, others
    except (IsolatedError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise AnnotationError(
            f"{path}: not a complete TIAToolbox store ({' '.join(str(error).split())}): "
            "save it again"
        ) from error


FORMAT = Format(
    "TIAToolbox store",
    lambda source: source.magic.startswith(_MAGIC),
    _read,
    whole=True,
)

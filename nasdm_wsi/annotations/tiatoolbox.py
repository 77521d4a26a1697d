"""TIAToolbox annotation stores: SQLite tables of well-known binary with JSON properties."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import shapely

from ..errors import AnnotationError
from .contents import Contents, Format, Reading, Source, packed, read_only
from .features import class_of
from .outlines import BATCH, Outlines, kind_of

_MAGIC = b"SQLite format 3\0"
_QUERY = "SELECT objtype, geometry, properties FROM annotations ORDER BY id"
_DAMAGED = (
    sqlite3.Error,
    shapely.errors.ShapelyError,
    zlib.error,
    *(AttributeError, LookupError, TypeError, ValueError),  # columns of another kind
)


def _read(source: Source, reading: Reading) -> Contents:
    outlines = Outlines(reading.findings, reading.contours)
    class_property = reading.findings.names.class_property
    for geometries, names, others in _batches(source.path, class_property):
        outlines.add_geometries(geometries, names)
        for kind in others:
            outlines.findings.notes[kind_of(kind)] += 1
    return packed(outlines, FORMAT.name, reading)


def _batches(
    path: Path, class_property: str | None
) -> Iterator[tuple[np.ndarray, list[str], list[str]]]:
    """Geometries (n,), names of their classes, and types of the objects without geometry.

    The store is opened to be read and never changed.
    """
    try:
        with closing(sqlite3.connect(read_only(path), uri=True)) as store:
            compression = dict(store.execute("SELECT key, value FROM metadata"))["compression"]
            cursor = store.execute(_QUERY)
            while rows := cursor.fetchmany(BATCH):
                yield _unpacked(rows, class_property, compressed=bool(json.loads(compression)))
    except _DAMAGED as error:
        raise AnnotationError(
            f"{path}: not a whole TIAToolbox store ({error}): save it again"
        ) from error


def _unpacked(
    rows: list[tuple], class_property: str | None, *, compressed: bool
) -> tuple[np.ndarray, list[str], list[str]]:
    blobs, names, others = [], [], []
    for kind, blob, properties in rows:
        if not blob:  # points lie in other columns
            others.append(kind)
            continue
        blobs.append(zlib.decompress(blob) if compressed else blob)
        names.append(class_of(json.loads(properties), class_property))
    return shapely.from_wkb(np.array(blobs, object)), names, others


FORMAT = Format(
    "TIAToolbox store",
    lambda source: source.magic.startswith(_MAGIC),
    _read,
    whole=True,
)

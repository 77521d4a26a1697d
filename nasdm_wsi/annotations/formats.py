"""Every format of annotations that can be read, told apart by content.

What comes as outlines is turned into GeoJSON features and read as QuPath's are; what comes as
pixels is read by `arrays`.
"""

from __future__ import annotations

import gzip
import json
import math
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import ijson
import shapely

from ..errors import AnnotationError
from .arrays import is_label_image, read_labels
from .classes import TISSUE_CLASSES, ClassTable, Contents
from .geojson import collect, geojson_features, readable

SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".zip", ".mat")
_SQLITE, _NUMPY, _MATLAB = b"SQLite format 3\0", b"\x93NUMPY", b"MATLAB"
_IMAGES = (b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_annotation(path: Path) -> bool:
    """Whether `read_contents` is the one to read a file; slides and pictures are not for it."""
    with readable(path):
        magic = _magic(path)
    if magic.startswith(_IMAGES):
        return is_label_image(path)
    return magic.startswith((_SQLITE, _NUMPY, _MATLAB)) or path.name.lower().endswith(SUFFIXES)


def read_contents(
    path: str | Path,
    *,
    mpp: float | None = None,
    slide_mpp: float | None = None,
    class_map: Mapping[str, str] | None = None,
    ignore_classes: Iterable[str] = (),
    tissue_classes: Iterable[str] = TISSUE_CLASSES,
    contours: str = "auto",
) -> Contents:
    """What an annotation file holds, whether or not it can be rendered.

    Read are GeoJSON of QuPath, CellViT, InstanSeg, HoVerNeXt and TIAToolbox, JSON of HoVer-Net and
    CellViT, TIAToolbox annotation stores, label images and arrays of Lizard, CoNIC and PanNuke.

    Args:
        path: the file; GeoJSON and JSON may be packed by gzip, GeoJSON by zip as well.
        mpp: of the coordinates; may be left out where the format tells.
        slide_mpp: in its place, that of the slide on which the annotations were made.
        class_map: class name to nucleus type; goes before the known names.
        ignore_classes: classes to leave out, likewise.
        tissue_classes: patterns of the classes that outline tissue.
        contours: "auto", "corner" or "cv2" as in `qupath.read_geojson`; "auto" is "cv2" for
            HoVer-Net and HoVerNeXt.

    Raises:
        AnnotationError: a file that is damaged or holds no annotations; ``mpp`` missing or absurd.
    """
    path = Path(path)
    classes = ClassTable(class_map, ignore_classes, tissue_classes)
    with readable(path):
        magic = _magic(path)
        if magic.startswith((_NUMPY, _MATLAB, *_IMAGES)) or path.suffix.lower() == ".mat":
            return read_labels(path, mpp=mpp or slide_mpp, classes=classes)
        kind, head = ("TIAToolbox store", {}) if magic == _SQLITE else _head(path)
    if kind == "HoVer-Net JSON":
        mpp = mpp or _magnified(head.get("mag"), slide_mpp)
        contours = "cv2" if contours == "auto" else contours
    features = _READERS[kind](path, head)
    mpp = mpp or slide_mpp
    contents = collect(path, kind, features, mpp=mpp, classes=classes, contours=contours)
    return replace(contents, whole=kind != "GeoJSON")


def _magic(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(16)


# JSON

Head = dict[str, Any]
Features = Iterator[tuple[str, dict]]


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path) if _magic(path).startswith(b"\x1f\x8b") else open(path, "rb")


def _head(path: Path) -> tuple[str, Head]:
    """The kind of a JSON file, and the plain values that stand before its nuclei.

    What is neither HoVer-Net's nor CellViT's is left to the reader of GeoJSON.
    """
    head: Head = {}
    with _open(path) as file, suppress(ijson.JSONError, OSError, EOFError, zlib.error):
        for prefix, event, value in ijson.parse(file, use_float=True):
            if (prefix, event) == ("nuc", "start_map"):
                return "HoVer-Net JSON", head
            if (prefix, event) == ("cells", "start_array"):
                return "CellViT JSON", head
            if prefix == "type" or (event == "start_array" and prefix in ("", "features")):
                break
            if event in ("string", "number"):
                head[prefix] = value
    return "GeoJSON", head


def _geojson(path: Path, _: Head) -> Features:
    return geojson_features(path)


def _hovernet(path: Path, _: Head) -> Features:
    """Types are numbers whose meaning depends on the weights, and serve as class names."""
    with _open(path) as file:
        for key, nucleus in ijson.kvitems(file, "nuc", use_float=True):
            yield f"{path}: nucleus {key}", _feature(nucleus, {})


def _cellvit(path: Path, head: Head) -> Features:
    """A type map says what the numbers mean, in either direction."""
    start = "type_map."
    pairs = [(key.removeprefix(start), v) for key, v in head.items() if key.startswith(start)]
    names = {f"{b}": a for a, b in pairs if not isinstance(b, str)}
    names |= {a: b for a, b in pairs if isinstance(b, str)}
    with _open(path) as file:
        for number, cell in enumerate(ijson.items(file, "cells.item", use_float=True)):
            yield f"{path}: cell {number}", _feature(cell, names)


def _feature(nucleus: Any, names: Mapping[str, str]) -> dict:
    """A nucleus with ``contour`` and ``type`` as a GeoJSON feature."""
    nucleus = nucleus if isinstance(nucleus, dict) else {}
    kind = nucleus.get("type")
    label = None if kind is None else names.get(f"{kind}", f"{kind}")
    contour = nucleus.get("contour")
    geometry = {"type": "Polygon", "coordinates": [contour]} if contour else None
    properties = {"objectType": "detection", "classification": label}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _magnified(mag: Any, slide_mpp: float | None) -> float | None:
    """The mpp of HoVer-Net's coordinates: 40x is 0.25, or what is nearest to it in the slide."""
    if not isinstance(mag, int | float) or mag <= 0:
        return slide_mpp
    nominal = 10 / mag
    if slide_mpp is None:
        return nominal
    # A slide scanned at 0.2527 is 40x to HoVer-Net, and 20x has 0.5054.
    return slide_mpp * 2.0 ** round(math.log2(nominal / slide_mpp))


# TIAToolbox

_NONSENSE = (AttributeError, LookupError, TypeError, ValueError)  # columns of another kind


def _store(path: Path, _: Head) -> Features:
    """The annotations of a store, which is opened to be read and never changed."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as store:
            packed = dict(store.execute("SELECT key, value FROM metadata"))["compression"]
            query = "SELECT key, objtype, geometry, properties FROM annotations ORDER BY id"
            for key, kind, blob, properties in store.execute(query):
                if blob and json.loads(packed):
                    blob = zlib.decompress(blob)
                yield f"{path}: annotation {key}", _stored(kind, blob, json.loads(properties))
    except (sqlite3.Error, shapely.errors.ShapelyError, zlib.error, *_NONSENSE) as error:
        raise AnnotationError(
            f"{path}: not a whole TIAToolbox store ({error}): save it again"
        ) from error


def _stored(kind: str, blob: bytes | None, properties: dict) -> dict:
    """One row as a GeoJSON feature; points have no geometry of their own in the table."""
    label = properties.get("classification", properties.get("type"))
    if not isinstance(label, str | dict | None):
        label = f"{label}"
    geometry = shapely.geometry.mapping(shapely.from_wkb(blob)) if blob else {"type": kind}
    properties = {"objectType": "detection", "classification": label}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


_READERS = {
    "GeoJSON": _geojson,
    "HoVer-Net JSON": _hovernet,
    "CellViT JSON": _cellvit,
    "TIAToolbox store": _store,
}

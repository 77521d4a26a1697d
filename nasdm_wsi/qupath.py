"""QuPath's GeoJSON, in and out.

Reading streams: a byte filter makes strict JSON of what QuPath 0.4 and other tools write, ijson
hands over one feature at a time, and outlines are checked, repaired and packed into flat arrays by
the batch. Whatever carries no nucleus is counted, and told in one line of the log.
"""

from __future__ import annotations

import gzip
import itertools
import logging
import os
import re
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import geojson
import ijson
import numpy as np
import shapely

from .classes import TISSUE, TISSUE_CLASSES, ClassTable, Contents
from .contours import made_whole, traced_pixel
from .errors import AnnotationError, OutputError
from .nuclei import PALETTE, TYPES, Nuclei, check_mpp

CHUNK = 1 << 16  # bytes read at a time
BATCH = 4096  # outlines packed at a time

log = logging.getLogger(__name__)


def read_geojson(
    path: str | Path,
    *,
    mpp: float | None,
    class_map: Mapping[str, str] | None = None,
    ignore_classes: Iterable[str] = (),
    tissue_classes: Iterable[str] = TISSUE_CLASSES,
    contours: str = "auto",
) -> Nuclei:
    """Nuclei from GeoJSON, plain, gzip or zip (all entries), in its own pixels of ``mpp``.

    Nuclei are the polygons of annotations, detections and cells (of a cell its nucleus); each part
    of a MultiPolygon is one. ``class_map`` (class name to nucleus type) and ``ignore_classes`` go
    before the known class names; objects without class are called "unclassified". Classes that
    match a pattern of ``tissue_classes`` outline tissue. ``contours`` is "cv2" where vertices are
    centres of boundary pixels, counted from 0, "corner" where they are points between pixels, or
    "auto" to look which.

    Raises:
        AnnotationError: no GeoJSON or a damaged one, a class that says nothing, coordinates that
            are not finite, no nuclei, ``mpp`` missing or absurd.
    """
    classes = ClassTable(class_map, ignore_classes, tissue_classes)
    features = geojson_features(Path(path))
    return collect(path, "GeoJSON", features, mpp=mpp, classes=classes, contours=contours).checked()


def collect(
    path: str | Path,
    kind: str,
    features: Iterable[tuple[str, dict]],
    *,
    mpp: float | None,
    classes: ClassTable,
    contours: str,
) -> Contents:
    """The contents of a file of some ``kind`` whose nuclei come as GeoJSON features.

    Each feature comes with the words that name it in errors. The rest is as in `read_geojson`.

    Raises:
        AnnotationError: a damaged file, coordinates that are not finite, an absurd ``mpp``.
    """
    if contours not in ("auto", "corner", "cv2"):
        raise ValueError(f"contours must be auto, corner or cv2, not {contours!r}")
    table = _Table(str(path), check_mpp(mpp, path), classes, contours)
    with readable(path):
        for where, feature in features:
            table.add(feature, where)
    return table.finish(kind)


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Turn what reading a file raises into one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such file: check the path") from error
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: not JSON, or cut short: export it again") from error
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise AnnotationError(f"{path}: cannot be read ({error}): export it again") from error


def write_geojson(path: str | Path, nuclei: Nuclei) -> None:
    """Write nuclei in their pixels, as detections that QuPath opens; one feature a line.

    Coordinates have two decimals. Ids that are UUIDs are kept, others are made from place and
    number, so that the same nuclei give the same bytes. Tissue is not written.

    Raises:
        OutputError: the file cannot be written.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "w", encoding="utf-8", newline="\n") as file:
            file.write('{"type": "FeatureCollection", "features": [')
            for k in range(len(nuclei)):
                file.write(",\n" if k else "\n")
                file.write(geojson.dumps(_feature(nuclei, k)))
            file.write("\n]}\n")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"{path}: {error.strerror}: make room or choose another place") from error


def _feature(nuclei: Nuclei, k: int) -> geojson.Feature:
    first, last = nuclei.polygon_offsets[k : k + 2]
    spans = itertools.pairwise(nuclei.ring_offsets[first : last + 1])
    rings = [nuclei.coords[a:b].round(2).tolist() for a, b in spans]
    kind = nuclei.types[k]
    name = _uuid(nuclei.ids[k]) if nuclei.ids else ""
    return geojson.Feature(
        id=name or str(uuid.uuid5(uuid.NAMESPACE_OID, f"{k} {rings}")),
        geometry=geojson.Polygon(rings, precision=2),
        properties={
            "objectType": "detection",
            "classification": {"name": TYPES[kind].capitalize(), "color": PALETTE[kind].tolist()},
        },
    )


def _uuid(name: Any) -> str:
    """The name if it is a UUID, else nothing."""
    try:
        return str(uuid.UUID(name))
    except (ValueError, AttributeError, TypeError):
        return ""


# Bytes -> strict JSON -> features

# A string, the begin of one, a number that JSON lacks, or a comma before a closing bracket.
_FLAW = re.compile(
    rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")|(".*)|-?\b(?:NaN|Infinity)\b|,(?=\s*[\]}])', re.DOTALL
)
_HINT = re.compile(rb"NaN|Infinity|\\|,\s*[\]}]")  # far quicker: many chunks have no flaw
_SPLITTABLE = b" \t\r\n,-NaInfity"  # a chunk that ends so may end within a flaw


def _strict(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """JSON without byte order mark, bare NaN or Infinity (now null) and trailing commas."""
    held, start = b"", True
    for chunk in itertools.chain(chunks, [None]):
        text = held + (chunk or b"")
        if start:
            text, start = text.removeprefix(b"\xef\xbb\xbf"), False
        body = text if chunk is None else text.rstrip(_SPLITTABLE)
        rest = [text[len(body) :]]

        def mend(match: re.Match[bytes], rest: list[bytes] = rest) -> bytes:
            string, begun = match.groups()
            if begun:
                rest.insert(0, begun)
            return string or (b"" if begun or match[0] == b"," else b"null")

        if body.count(b'"') % 2 or _HINT.search(body):
            body = _FLAW.sub(mend, body)
        if body:
            yield body
        held = b"".join(rest)
    if held:
        yield held


class _Reader:
    """A file object over chunks, as far as ijson needs one."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks = chunks

    def read(self, size: int) -> bytes:
        return next(self._chunks, b"") if size else b""


def geojson_features(path: Path) -> Iterator[tuple[str, dict]]:
    """All features of a file, each with the words that name it in errors."""
    for name, opener in _texts(path):
        for number, item in enumerate(_items(opener, name)):
            for feature in _features(item, name):
                yield f"{name}: feature {number}", feature


def _texts(path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and opener of each JSON text in a file."""
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir() and not entry.filename.startswith("__MACOSX"):
                    yield f"{path}/{entry.filename}", partial(archive.open, entry)
    elif magic.startswith(b"\x1f\x8b"):
        yield str(path), partial(gzip.open, path)
    else:
        yield str(path), partial(open, path, "rb")


def _items(opener: Callable[[], Any], name: str) -> Iterator[Any]:
    """The members of a FeatureCollection or array, or a single Feature."""
    with opener() as raw:
        prefix = _prefix(_json(raw), name)
    with opener() as raw:
        yield from ijson.items(_json(raw), prefix, use_float=True)


def _json(raw: Any) -> _Reader:
    return _Reader(_strict(iter(lambda: raw.read(CHUNK), b"")))


def _prefix(file: _Reader, name: str) -> str:
    """Where ijson finds the features."""
    for prefix, event, value in ijson.parse(file):
        if (prefix, event) == ("", "start_array"):
            return "item"
        if (prefix, event) == ("features", "start_array"):
            return "features.item"
        if prefix == "type" and value in ("Feature", *_GEOMETRIES):
            return ""
    raise _no_geojson(name)


def _no_geojson(name: str) -> AnnotationError:
    return AnnotationError(f"{name}: JSON, but no GeoJSON features: export it as GeoJSON")


def _features(item: Any, name: str) -> Iterator[dict]:
    """All features in one, itself and its children."""
    kind = _dict(item).get("type")
    if kind == "FeatureCollection":
        children = item.get("features")
    elif kind == "Feature":
        yield item
        properties = _dict(item.get("properties"))
        children = properties.get("childObjects") or properties.get("children")
    elif kind in _GEOMETRIES:
        children = [{"type": "Feature", "geometry": item}]
    else:
        raise _no_geojson(name)
    for child in children or ():
        yield from _features(child, name)


# What a feature says

_GEOMETRIES = {
    "Polygon": "polygons",
    "MultiPolygon": "polygons",
    "Point": "points",
    "MultiPoint": "points",
    "LineString": "lines",
    "MultiLineString": "lines",
    "GeometryCollection": "geometry collections",
}
_NO_NUCLEI = {"tile": "tiles", "tmacore": "TMA cores", "root": "root objects"}


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _object_type(feature: dict) -> str:
    """annotation, detection, cell, tile, tmacore or root, wherever a version of QuPath says it."""
    properties = _dict(feature.get("properties"))
    places = [properties.get(key) for key in ("objectType", "object_type", "type")]
    for place in (*places, feature.get("id"), feature.get("objectType")):
        kind = str(place).casefold().replace("_", "")
        kind = kind.removeprefix("path").removesuffix("object")
        if kind in ("annotation", "detection", "cell", *_NO_NUCLEI):
            return kind
    return "annotation"


def _of_hovernext(feature: dict) -> bool:
    """Whether a tile is a nucleus: HoVerNeXt writes its class as text, QuPath never does."""
    named = isinstance(_dict(feature.get("properties")).get("classification"), str)
    return named and _object_type(feature) == "tile"


def _class_name(feature: dict) -> str:
    """The class as one name, its parts separated by colons."""
    value = _dict(feature.get("properties")).get("classification")
    parts = [value] if isinstance(value, str) else []
    while isinstance(value, dict):
        parts = [*(value.get("names") or [value.get("name")]), *parts]
        value = value.get("parentClass")
    return ": ".join(str(part) for part in parts if part) or "unclassified"


def _outlines(feature: dict) -> tuple[str, Sequence]:
    """What a feature shows, and the rings of its polygons if it shows some."""
    kind, nucleus = _object_type(feature), feature.get("nucleusGeometry")
    if kind in _NO_NUCLEI and not _of_hovernext(feature):
        return _NO_NUCLEI[kind], []
    if kind == "cell" and not nucleus:
        return "cells without nucleus", []
    geometry = _dict(nucleus or feature.get("geometry"))
    what, coordinates = _GEOMETRIES.get(geometry.get("type", "")), geometry.get("coordinates")
    if what == "polygons" and isinstance(coordinates, list | tuple):
        return what, [coordinates] if geometry["type"] == "Polygon" else coordinates
    return what or "objects without shape", []


def _rings(rings: list) -> list[np.ndarray]:
    """The closed rings (v, 2) of a polygon; none if it has no area.

    Raises:
        ValueError: coordinates that are no finite numbers.
    """
    closed = []
    for points in rings:
        ring = np.array(points, np.float64).reshape(len(points), -1)[:, :2]
        if not np.isfinite(ring).all() or (len(ring) and ring.shape[1] != 2):
            raise ValueError("not finite")
        if len(ring) and (ring[0] != ring[-1]).any():
            ring = np.vstack([ring, ring[:1]])
        if len(ring) >= 4:
            closed.append(ring)
        elif not closed:
            return []
    return closed


# Features -> nuclei


@dataclass
class _Table:
    """Collects features in flat arrays, but for the last batch of (rings, type number, id)."""

    source: str
    mpp: float
    classes: ClassTable
    contours: str
    notes: Counter[str] = field(default_factory=Counter)
    batch: list[tuple[list[np.ndarray], int, str]] = field(default_factory=list)
    parts: list[Nuclei] = field(default_factory=list)
    tissue: list[shapely.Geometry] = field(default_factory=list)
    pixel: float | None = None  # as `contours.traced_pixel`; None until there are nuclei

    def add(self, feature: dict, where: str) -> None:
        """Take one feature in; ``where`` names it in errors."""
        what, polygons = _outlines(feature)
        if not polygons:
            self.notes["objects without shape" if what == "polygons" else what] += 1
            return
        if self.contours == "auto" and _of_hovernext(feature):
            self.contours = "cv2"
        number = self.classes.number(_class_name(feature), len(polygons))
        if number is None:
            return
        identities = itertools.chain([_uuid(feature.get("id"))], itertools.repeat(""))
        try:
            for rings, identity in zip(polygons, identities, strict=False):
                self.batch.append((_rings(rings), number, identity))
        except (ValueError, TypeError) as error:
            raise AnnotationError(
                f"{where} has coordinates that are not finite numbers: correct or remove it"
            ) from error
        if len(self.batch) >= BATCH:
            self._flush()

    def finish(self, kind: str) -> Contents:
        """All there is."""
        self._flush()
        nuclei = Nuclei.concatenate(self.parts)
        if self.contours == "auto" and not self.pixel and _looks_traced(nuclei):
            log.warning(
                "%s: all coordinates are integers: if OpenCV traced them, give --contours cv2",
                self.source,
            )
        nuclei = replace(nuclei, tissue=shapely.union_all(self.tissue) if self.tissue else None)
        kind += ", contours of OpenCV" if self.pixel else ""
        return Contents(self.source, kind, nuclei, self.classes, self.notes)

    def _flush(self) -> None:
        """Turn the batch into nuclei and tissue."""
        whole = [row for row in self.batch if row[0]]
        numbers = np.array([number for _, number, _ in whole], int)
        polygons = np.array([shapely.Polygon(r[0], r[1:]) for r, _, _ in whole], object)
        bad = ~shapely.is_valid(polygons)
        polygons[bad] = shapely.make_valid(polygons[bad])
        is_tissue = numbers == TISSUE
        if self.pixel is None and not is_tissue.all():
            self.pixel = self._pixel(
                [ring for rings, n, _ in whole if n != TISSUE for ring in rings]
            )
        if self.pixel:
            polygons = made_whole(polygons, self.pixel)
        else:
            polygons[bad] = [_polygonal(geometry) for geometry in polygons[bad]]
        self.notes["repaired"] += int(bad.sum())
        self.notes["without area"] += len(self.batch) - int((~shapely.is_empty(polygons)).sum())
        self.tissue += list(polygons[is_tissue])
        self.parts.append(
            Nuclei.from_polygons(
                polygons[~is_tissue],
                numbers[~is_tissue],
                mpp=self.mpp,
                ids=[name for _, number, name in whole if number != TISSUE],
            )
        )
        self.batch = []

    def _pixel(self, rings: list[np.ndarray]) -> float:
        if self.contours == "corner":
            return 0.0
        steps = np.concatenate([np.diff(np.reshape(ring, (-1, 2)), axis=0) for ring in rings])
        return traced_pixel(steps, known=self.contours == "cv2")


def _polygonal(geometry: shapely.Geometry) -> shapely.MultiPolygon:
    """What of a repaired polygon has an area."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.MultiPolygon([part for part in parts if part.geom_type == "Polygon"])


def _looks_traced(nuclei: Nuclei) -> bool:
    """Whether all coordinates are integers and some steps are slanted, as OpenCV's contours."""
    slanted = (np.diff(nuclei.coords, axis=0) != 0).all(1)
    slanted[nuclei.ring_offsets[1:-1] - 1] = False
    # The points of marching squares, doubled, are odd in one direction and even in the other.
    mixed = len(np.unique(nuclei.coords.sum(1) % 2)) > 1
    return bool(mixed and slanted.any() and (nuclei.coords == np.rint(nuclei.coords)).all())

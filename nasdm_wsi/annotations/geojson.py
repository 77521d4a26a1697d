"""QuPath's GeoJSON, in and out.

Reading streams: the text is cut into features at their brackets, each is parsed alone, and outlines
are checked, repaired and packed into flat arrays by the batch. Whatever carries no nucleus is
counted, and told in one line of the log.
"""

from __future__ import annotations

import gzip
import json
import logging
import math
import re
import uuid
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import Any

import ijson
import numpy as np
import orjson
import shapely

from ..errors import AnnotationError
from ..output import whole_or_nothing
from .classes import TISSUE, TISSUE_CLASSES, ClassTable, Contents
from .nuclei import PALETTE, TYPES, Nuclei, check_mpp, offsets
from .outlines import made_whole, traced_pixel

CHUNK = 1 << 18  # bytes read at a time
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
        nuclei = Nuclei.concatenate(_batches(features, table))
    return table.finish(nuclei, kind)


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Turn what reading a file raises into one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such file: check the path") from error
    except (json.JSONDecodeError, ijson.JSONError, UnicodeDecodeError, RecursionError) as error:
        raise AnnotationError(f"{path}: not JSON, or cut short: export it again") from error
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise AnnotationError(f"{path}: cannot be read ({error}): export it again") from error


def _batches(features: Iterable[tuple[str, dict]], table: _Table) -> Iterator[Nuclei]:
    for where, feature in features:
        table.add(feature, where)
        if len(table.batch) >= BATCH:
            yield table.flush()
    yield table.flush()


def write_geojson(path: str | Path, nuclei: Nuclei) -> None:
    """Write nuclei in their pixels, as detections that QuPath opens; one feature a line.

    Coordinates have two decimals. Ids that are UUIDs are kept, others are made from place and
    number, so that the same nuclei give the same bytes. Tissue is not written.

    Raises:
        OutputError: the file cannot be written.
    """
    with whole_or_nothing(Path(path)) as part, open(part, "wb") as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        for k, line in enumerate(_lines(nuclei)):
            file.write(b",\n" if k else b"\n")
            file.write(line)
        file.write(b"\n]}\n")


def _lines(nuclei: Nuclei) -> Iterator[bytes]:
    """The features, as text."""
    classes = [
        {"name": name.capitalize(), "color": color.tolist()}
        for name, color in zip(TYPES, PALETTE, strict=True)
    ]
    for k, kind in enumerate(nuclei.types):
        first, last = nuclei.polygon_offsets[k : k + 2]
        spans = pairwise(nuclei.ring_offsets[first : last + 1])
        polygon = {
            "type": "Polygon",
            "coordinates": [nuclei.coords[a:b].round(2) for a, b in spans],
        }
        geometry = orjson.dumps(polygon, option=orjson.OPT_SERIALIZE_NUMPY)
        name = _uuid(nuclei.ids[k]) if nuclei.ids else ""
        feature = {
            "type": "Feature",
            "id": name or str(uuid.uuid5(uuid.NAMESPACE_OID, f"{k} {geometry.decode()}")),
            "geometry": orjson.Fragment(geometry),
            "properties": {"objectType": "detection", "classification": classes[kind]},
        }
        yield orjson.dumps(feature)


_CANONICAL = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _uuid(name: Any) -> str:
    """The name if it is a UUID, else nothing."""
    try:
        return name if _CANONICAL.fullmatch(name) else str(uuid.UUID(name))
    except (ValueError, AttributeError, TypeError):
        return ""


# Bytes -> features

_BOM = b"\xef\xbb\xbf"
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_STRING = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+"?)', re.DOTALL)
_NO_NUMBERS = (b"-NaN", b"NaN", b"-Infinity", b"Infinity")
_NO_MEMBER = re.compile(rb",(?=\s*[\]}])")
_FEATURES = re.compile(rb'"features"\s*:\s*\Z')


def geojson_features(path: Path) -> Iterator[tuple[str, dict]]:
    """All features of a file, each with the words that name it in errors."""
    for name, text in _texts(path):
        for number, item in enumerate(_items(text, name)):
            for feature in _features(item, name):
                yield f"{name}: feature {number}", feature


def _texts(path: Path) -> Iterator[tuple[str, Any]]:
    """Name and open file of each JSON text in a file."""
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir() and not entry.filename.startswith("__MACOSX"):
                    with archive.open(entry) as text:
                        yield f"{path}/{entry.filename}", text
    else:
        with gzip.open(path) if magic.startswith(b"\x1f\x8b") else open(path, "rb") as text:
            yield str(path), text


def _items(raw: Any, name: str) -> Iterator[Any]:
    """The members of a FeatureCollection or array, or a single Feature.

    They are cut out of the text and parsed one by one. The rest of it, with a 0 for each, is
    parsed in the end: the text is JSON if all of these are.
    """
    rest, item = bytearray(), bytearray()
    level = count = 0
    listed = begun = False
    for chunk, brackets in _brackets(raw):
        done = 0
        for at, depth in brackets:
            level = level or (1 if chunk[at] == ord("[") else 2)
            if depth == level:
                listed = chunk[at] == ord("[") and (
                    level == 1 or bool(_FEATURES.search(rest + chunk[done:at]))
                )
            elif depth == level + 1 and begun:
                yield _parsed(item + chunk[done : at + 1])
                rest += b"0"
                count += 1
                item, begun, done = bytearray(), False, at + 1
            elif depth == level + 1 and listed and chunk[at] == ord("{"):
                rest += chunk[done:at]
                begun, done = True, at
        (item if begun else rest).extend(chunk[done:])
    frame = _parsed(rest)
    members = frame.get("features") if isinstance(frame, dict) else frame
    if members == [0] * count:
        return
    if _dict(frame).get("type") not in ("Feature", *_GEOMETRIES):
        raise _no_geojson(name)
    yield frame


def _brackets(raw: Any) -> Iterator[tuple[bytes, Iterable[tuple[int, int]]]]:
    """Chunks, each with place and depth (of what is inside) of its outer brackets."""
    depth = quotes = 0
    for chunk in _chunks(raw):
        codes = np.frombuffer(_ESCAPE.sub(b"__", chunk) if b"\\" in chunk else chunk, np.uint8)
        kinds = codes | 0x20  # the two kinds of brackets differ in this bit
        at = np.flatnonzero((codes == ord('"')) | (kinds == ord("{")) | (kinds == ord("}")))
        kinds = kinds[at]
        before = np.cumsum(kinds == ord('"')) + quotes
        quotes = before[-1] if len(at) else quotes
        real = (before % 2 == 0) & (kinds != ord('"'))
        steps = np.where(kinds[real] == ord("{"), 1, -1)
        after = np.cumsum(steps) + depth
        depth = after[-1] if len(steps) else depth
        inner = np.maximum(after, after - steps)
        outer = inner <= 3
        yield chunk, zip(at[real][outer].tolist(), inner[outer].tolist(), strict=True)


def _chunks(raw: Any) -> Iterator[bytes]:
    """The text without byte order mark, cut nowhere within an escape."""
    held = raw.read(len(_BOM)).removeprefix(_BOM)
    while chunk := raw.read(CHUNK):
        text = held + chunk
        chunk = text.rstrip(b"\\")
        held = text[len(chunk) :]
        yield chunk
    yield held


def _parsed(text: bytes | bytearray) -> Any:
    """JSON; bare NaN and Infinity, and numbers beyond float64, become None."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        strict = _mended(text)
    try:
        return orjson.loads(strict)
    except orjson.JSONDecodeError:  # half a surrogate pair, or a number beyond float64
        return json.loads(strict, parse_float=_finite, parse_int=_finite)


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _mended(text: bytes | bytearray) -> bytes:
    """Without bare NaN and Infinity (now null) and commas before a closing bracket."""
    parts = _STRING.split(text)
    between = _NO_MEMBER.sub(b"", b'"'.join(parts[::2]))
    for bare in _NO_NUMBERS:
        between = between.replace(bare, b"null")
    parts[::2] = between.split(b'"')
    return b"".join(parts)


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


def _rings(rings: list) -> list[array]:
    """The closed rings of a polygon, each as x, y, x, y, ...; none if it has no area.

    Raises:
        ValueError, TypeError: coordinates that are no finite numbers.
    """
    closed = []
    for points in rings:
        if set(map(len, points)) != {2}:
            points = [(x, y) for x, y, *_ in points]  # heights are left out
        if points and points[0] != points[-1]:
            points = [*points, points[0]]
        ring = array("d", chain.from_iterable(points))
        if len(points) >= 4:
            closed.append(ring)
        elif not closed:
            return []
    return closed


# Features -> nuclei


@dataclass
class _Table:
    """Takes features in and gives nuclei out, by the batch of (rings, type number, id)."""

    source: str
    mpp: float
    classes: ClassTable
    contours: str
    notes: Counter[str] = field(default_factory=Counter)
    batch: list[tuple[list[array], int, str]] = field(default_factory=list)
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
        identities = chain([_uuid(feature.get("id"))], repeat(""))
        try:
            for rings, identity in zip(polygons, identities, strict=False):
                self.batch.append((_rings(rings), number, identity))
        except (ValueError, TypeError) as error:
            raise AnnotationError(
                f"{where} has coordinates that are not finite numbers: correct or remove it"
            ) from error

    def finish(self, nuclei: Nuclei, kind: str) -> Contents:
        """The nuclei of all batches, with their tissue and all else there is."""
        if self.contours == "auto" and not self.pixel and _looks_traced(nuclei):
            log.warning(
                "%s: all coordinates are integers: if OpenCV traced them, give `contours` cv2",
                self.source,
            )
        nuclei = replace(nuclei, tissue=shapely.union_all(self.tissue) if self.tissue else None)
        kind += ", contours of OpenCV" if self.pixel else ""
        return Contents(self.source, kind, nuclei, self.classes, self.notes)

    def flush(self) -> Nuclei:
        """Turn the batch into nuclei and tissue."""
        whole = [row for row in self.batch if row[0]]
        numbers = np.array([number for _, number, _ in whole], int)
        polygons = _polygons([rings for rings, _, _ in whole])
        # JSON has none; other sources may.
        if not np.isfinite(shapely.get_coordinates(polygons)).all():
            raise AnnotationError(
                f"{self.source}: coordinates that are not finite numbers: correct or remove them"
            )
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
        self.batch = []
        return Nuclei.from_polygons(
            polygons[~is_tissue],
            numbers[~is_tissue],
            mpp=self.mpp,
            ids=[name for _, number, name in whole if number != TISSUE],
        )

    def _pixel(self, rings: list[array]) -> float:
        if self.contours == "corner":
            return 0.0
        steps = np.concatenate([np.diff(np.reshape(ring, (-1, 2)), axis=0) for ring in rings])
        return traced_pixel(steps, known=self.contours == "cv2")


def _polygons(outlines: list[list[array]]) -> np.ndarray:
    """Shapely polygons (n,) of closed rings, valid or not."""
    if not outlines:
        return np.empty(0, object)
    rings = list(chain.from_iterable(outlines))
    return shapely.from_ragged_array(
        shapely.GeometryType.POLYGON,
        np.frombuffer(b"".join(rings)).reshape(-1, 2),
        (offsets([len(ring) // 2 for ring in rings]), offsets([len(rings) for rings in outlines])),
    )


def _polygonal(geometry: shapely.Geometry) -> shapely.MultiPolygon:
    """What of a repaired polygon has an area."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.MultiPolygon([part for part in parts if part.geom_type == "Polygon"])


def _looks_traced(nuclei: Nuclei) -> bool:
    """Whether all coordinates are integers and some steps are slanted, as OpenCV's contours."""
    parts = np.array_split(nuclei.coords, 1 + len(nuclei) // BATCH)
    if not all((xy == np.rint(xy)).all() for xy in parts):  # most files stop at the first
        return False
    slanted = (np.diff(nuclei.coords, axis=0) != 0).all(1)
    slanted[nuclei.ring_offsets[1:-1] - 1] = False
    # The points of marching squares, doubled, are odd in one direction and even in the other.
    mixed = len(np.unique(nuclei.coords.sum(1) % 2)) > 1
    return bool(mixed and slanted.any())

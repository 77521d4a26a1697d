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
import os
import re
import uuid
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely

from .errors import AnnotationError, OutputError
from .nuclei import (
    PALETTE,
    TYPES,
    Nuclei,
    check_mpp,
    offsets,
    own_classes,
    plain_name,
    resolve_class,
)

CHUNK = 1 << 18  # bytes read at a time
BATCH = 4096  # outlines packed at a time
TISSUE = -1  # stands for the type number of tissue outlines

log = logging.getLogger(__name__)


def read_geojson(
    path: str | Path,
    *,
    mpp: float | None,
    class_map: Mapping[str, str] | None = None,
    ignore_classes: Iterable[str] = (),
    tissue_classes: Iterable[str] = ("Tissue", "Region*"),
    contours: str = "corner",
) -> Nuclei:
    """Nuclei from GeoJSON, plain, gzip or zip (all entries), in its own pixels of ``mpp``.

    Nuclei are the polygons of annotations, detections and cells (of a cell its nucleus); each part
    of a MultiPolygon is one. ``class_map`` (class name to nucleus type) and ``ignore_classes`` go
    before the known class names; objects without class are called "unclassified". Classes that
    match a pattern of ``tissue_classes`` outline tissue. ``contours`` is "cv2" where vertices are
    centres of boundary pixels, counted from 0, instead of points between pixel corners.

    Raises:
        AnnotationError: no GeoJSON or a damaged one, a class that says nothing, coordinates that
            are not finite, no nuclei, ``mpp`` missing or absurd.
    """
    if contours not in ("corner", "cv2"):
        raise ValueError(f"contours must be corner or cv2, not {contours!r}")
    table = _Table(
        source=str(path),
        mpp=check_mpp(mpp, path),
        own=own_classes(class_map or {}, ignore_classes),
        tissue_patterns=tuple(pattern.casefold() for pattern in tissue_classes),
        cv2=contours == "cv2",
    )
    try:
        nuclei = Nuclei.concatenate(_batches(Path(path), table))
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such file: check the path") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AnnotationError(f"{path}: not JSON, or cut short: export it again") from error
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise AnnotationError(f"{path}: cannot be read ({error}): export it again") from error
    return table.finish(nuclei)


def _batches(path: Path, table: _Table) -> Iterator[Nuclei]:
    for name, text in _texts(path):
        for number, item in enumerate(_items(text, name)):
            for feature in _features(item, name):
                table.add(feature, f"{name}: feature {number}")
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
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(b'{"type":"FeatureCollection","features":[')
            for k, line in enumerate(_lines(nuclei)):
                file.write(b",\n" if k else b"\n")
                file.write(line)
            file.write(b"\n]}\n")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"{path}: {error.strerror}: make room or choose another place") from error


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


def _class_name(feature: dict) -> str:
    """The class as one name, its parts separated by colons."""
    value = _dict(feature.get("properties")).get("classification")
    parts = [value] if isinstance(value, str) else []
    while isinstance(value, dict):
        parts = [*(value.get("names") or [value.get("name")]), *parts]
        value = value.get("parentClass")
    return ": ".join(str(part) for part in parts if part) or "unclassified"


def _outlines(feature: dict) -> tuple[str, list]:
    """What a feature shows, and the rings of its polygons if it shows some."""
    kind, nucleus = _object_type(feature), feature.get("nucleusGeometry")
    if kind in _NO_NUCLEI:
        return _NO_NUCLEI[kind], []
    if kind == "cell" and not nucleus:
        return "cells without nucleus", []
    geometry = _dict(nucleus or feature.get("geometry"))
    what, coordinates = _GEOMETRIES.get(geometry.get("type", "")), geometry.get("coordinates")
    if what == "polygons" and isinstance(coordinates, list):
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
    own: dict[str, int | None]
    tissue_patterns: tuple[str, ...]
    cv2: bool
    notes: Counter[str] = field(default_factory=Counter)
    unmapped: Counter[str] = field(default_factory=Counter)
    known: dict[str, int | None] = field(default_factory=dict)
    batch: list[tuple[list[array], int, str]] = field(default_factory=list)
    tissue: list[shapely.Geometry] = field(default_factory=list)

    def add(self, feature: dict, where: str) -> None:
        """Take one feature in; ``where`` names it in errors."""
        what, polygons = _outlines(feature)
        if not polygons:
            self.notes["objects without shape" if what == "polygons" else what] += 1
            return
        name = _class_name(feature)
        try:
            number = self._number(name)
        except KeyError:
            self.unmapped[name] += len(polygons)
            return
        if number is None:
            self.notes["of ignored classes"] += len(polygons)
            return
        identities = chain([_uuid(feature.get("id"))], repeat(""))
        try:
            for rings, identity in zip(polygons, identities, strict=False):
                self.batch.append((_rings(rings), number, identity))
        except (ValueError, TypeError) as error:
            raise AnnotationError(
                f"{where} has coordinates that are not finite numbers: correct or remove it"
            ) from error

    def finish(self, nuclei: Nuclei) -> Nuclei:
        """The nuclei of all batches, with their tissue.

        Raises:
            AnnotationError: there are none, or classes that say nothing.
        """
        if self.unmapped:
            raise AnnotationError(f"{self.source}: {_remedy(self.unmapped)}")
        notes = ", ".join(f"{n} {what}" for what, n in sorted(self.notes.items()) if n)
        if not len(nuclei):
            raise AnnotationError(
                f"{self.source}: no nuclei found ({notes or 'nothing at all'}): "
                "export polygons of annotations, detections or cells with nuclei"
            )
        log.info("%s: %d nuclei; %s", self.source, len(nuclei), notes or "nothing to note")
        if not self.cv2 and _looks_traced(nuclei):
            log.warning(
                "%s: all coordinates are integers: if OpenCV traced them, give --contours cv2",
                self.source,
            )
        return replace(nuclei, tissue=shapely.union_all(self.tissue) if self.tissue else None)

    def _number(self, name: str) -> int | None:
        """As `resolve_class`, or TISSUE; each name is looked up once."""
        if name not in self.known:
            names = [part.strip().casefold() for part in (name, *name.split(":"))]
            own = self.own
            if any(fnmatchcase(n, pattern) for n in names for pattern in self.tissue_patterns):
                own = {plain_name(name): TISSUE, **own}
            self.known[name] = resolve_class(name, own)
        return self.known[name]

    def flush(self) -> Nuclei:
        """Turn the batch into nuclei and tissue."""
        whole = [row for row in self.batch if row[0]]
        numbers = np.array([number for _, number, _ in whole], int)
        polygons = _polygons([rings for rings, _, _ in whole])
        bad = ~shapely.is_valid(polygons)
        polygons[bad] = shapely.make_valid(polygons[bad])
        if self.cv2:
            moved = shapely.transform(polygons, lambda xy: xy + 0.5)
            polygons = shapely.buffer(moved, 0.5, join_style="mitre", cap_style="square")
        else:
            polygons[bad] = [_polygonal(geometry) for geometry in polygons[bad]]
        self.notes["repaired"] += int(bad.sum())
        self.notes["without area"] += len(self.batch) - int((~shapely.is_empty(polygons)).sum())
        is_tissue = numbers == TISSUE
        self.tissue += list(polygons[is_tissue])
        self.batch = []
        return Nuclei.from_polygons(
            polygons[~is_tissue],
            numbers[~is_tissue],
            mpp=self.mpp,
            ids=[name for _, number, name in whole if number != TISSUE],
        )


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


def _remedy(unmapped: Counter[str]) -> str:
    worst = unmapped.most_common(10)
    names = ", ".join(f"{name!r} ({n} nuclei)" for name, n in worst)
    if len(unmapped) > len(worst):
        names += f" and {len(unmapped) - len(worst)} more"
    return (
        f"no nucleus type is known for class {names}: choose {', '.join(TYPES[1:-1])} or "
        f"{TYPES[-1]} with --class-map NAME=TYPE, or leave it out with --ignore-class NAME"
    )


def _looks_traced(nuclei: Nuclei) -> bool:
    """Whether all coordinates are integers and some steps are slanted, as OpenCV's contours."""
    parts = np.array_split(nuclei.coords, 1 + len(nuclei) // BATCH)
    if not all((xy == np.rint(xy)).all() for xy in parts):  # most files stop at the first
        return False
    slanted = (np.diff(nuclei.coords, axis=0) != 0).all(1)
    slanted[nuclei.ring_offsets[1:-1] - 1] = False
    return bool(slanted.any())

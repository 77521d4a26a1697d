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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import geojson
import ijson
import numpy as np
import shapely

from .errors import AnnotationError, OutputError
from .nuclei import PALETTE, TYPES, Nuclei, check_mpp, own_classes, plain_name, resolve_class

CHUNK = 1 << 16  # bytes read at a time
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
        for name, opener in _texts(Path(path)):
            for number, item in enumerate(_items(opener, name)):
                for feature in _features(item, name):
                    table.add(feature, f"{name}: feature {number}")
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such file: check the path") from error
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: not JSON, or cut short: export it again") from error
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise AnnotationError(f"{path}: cannot be read ({error}): export it again") from error
    return table.finish()


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
    own: dict[str, int | None]
    tissue_patterns: tuple[str, ...]
    cv2: bool
    notes: Counter[str] = field(default_factory=Counter)
    unmapped: Counter[str] = field(default_factory=Counter)
    known: dict[str, int | None] = field(default_factory=dict)
    batch: list[tuple[list[np.ndarray], int, str]] = field(default_factory=list)
    parts: list[Nuclei] = field(default_factory=list)
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

    def finish(self) -> Nuclei:
        """All nuclei.

        Raises:
            AnnotationError: there are none, or classes that say nothing.
        """
        self._flush()
        if self.unmapped:
            raise AnnotationError(f"{self.source}: {_remedy(self.unmapped)}")
        notes = ", ".join(f"{n} {what}" for what, n in sorted(self.notes.items()) if n)
        nuclei = Nuclei.concatenate(self.parts)
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

    def _flush(self) -> None:
        """Turn the batch into nuclei and tissue."""
        whole = [row for row in self.batch if row[0]]
        numbers = np.array([number for _, number, _ in whole], int)
        polygons = np.array([shapely.Polygon(r[0], r[1:]) for r, _, _ in whole], object)
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
        self.parts.append(
            Nuclei.from_polygons(
                polygons[~is_tissue],
                numbers[~is_tissue],
                mpp=self.mpp,
                ids=[name for _, number, name in whole if number != TISSUE],
            )
        )
        self.batch = []


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
    slanted = (np.diff(nuclei.coords, axis=0) != 0).all(1)
    slanted[nuclei.ring_offsets[1:-1] - 1] = False
    return bool(slanted.any() and (nuclei.coords == np.rint(nuclei.coords)).all())

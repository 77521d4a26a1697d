"""Reading and writing of GeoJSON features as QuPath and other tools write them.

Specification: RFC 7946, with QuPath's own members: ``objectType``, ``classification`` and
``nucleusGeometry``.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import shapely

from ..errors import AnnotationError
from .columns import Columns
from .outlines import Outlines, kind_of
from .regions import PALETTE as REGION_PALETTE
from .regions import REGIONS
from .regions import class_name as region_class
from .types import PALETTE, TYPES, UNCLASSIFIED

GEOMETRIES = (
    "Polygon",
    "MultiPolygon",
    "Point",
    "MultiPoint",
    "LineString",
    "MultiLineString",
    "GeometryCollection",
)
# Properties that tell no class.
_OF_QUPATH = {"objectType", "object_type", "isLocked", "measurements", "name", "color"}
_NUCLEI = ("annotation", "detection", "cell")
_NO_NUCLEI = {"tile": "tiles", "tmacore": "TMA cores", "root": "root objects"}
_TISSUE_COLOUR = [150, 120, 160]
_CANONICAL = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


# Reading


def features_in(item: Any, source: object) -> Iterator[dict]:
    """Return all features in a FeatureCollection, Feature or geometry.

    Raises:
        AnnotationError: it is none of these; the message names ``source``.
    """
    kind, children = _dict(item).get("type"), None
    if kind == "FeatureCollection" and isinstance(item.get("features"), list):
        children = item["features"]
    elif kind == "Feature":
        yield item
        properties = _dict(item.get("properties"))
        children = properties.get("childObjects") or properties.get("children")
        children = children if isinstance(children, list | tuple) else None
    elif kind in GEOMETRIES:
        children = [{"type": "Feature", "geometry": item}]
    else:
        raise AnnotationError(f"{source}: JSON, but no GeoJSON features: export it as GeoJSON")
    for child in children or ():
        yield from features_in(child, source)


def add_feature(outlines: Outlines, feature: dict, where: str) -> None:
    """Pass the polygons of a feature to ``outlines``; ``where`` names the feature in errors.

    Raises:
        AnnotationError: coordinates that are not finite numbers.
    """
    kind = _object_type(feature)
    what, polygons = _polygons(feature, kind)
    if not polygons:
        found = outlines.findings
        (found.notes if kind in _NO_NUCLEI else found.shapeless)[what] += 1
        return
    if outlines.contours == "auto" and _of_hovernext(feature):
        outlines.contours = "cv2"
    has_nucleus = bool(feature.get("nucleusGeometry"))
    outlines.nuclei_of_cells += has_nucleus
    properties = _dict(feature.get("properties"))
    name = class_of(properties, outlines.findings.names.class_property)
    if name == UNCLASSIFIED:
        outlines.findings.properties.update(properties.keys() - _OF_QUPATH)
    outlines.add(
        name,
        polygons,
        where,
        canonical_uuid(feature.get("id")),
        bare_cell=kind == "cell" and not has_nucleus,
    )


def class_of(properties: dict, class_property: str | None = None) -> str:
    """Return the class that the properties of an object give.

    It is that of ``class_property``, or without it QuPath's ``classification``, or else the
    ``type`` that TIAToolbox writes.
    """
    if class_property is not None:
        return class_name(properties.get(class_property))
    name = class_name(properties.get("classification"))
    if name == UNCLASSIFIED and not _object_kind(properties.get("type")):
        name = class_name(properties.get("type"))
    return name


def class_name(classification: Any) -> str:
    """Return the class as one name, its parts separated by colons.

    Classifications are names or numbers, or QuPath's objects with ``name`` or ``names`` and perhaps
    a ``parentClass``; after a round trip through GeoPandas these objects are JSON in a text.
    """
    if isinstance(classification, str) and classification.lstrip().startswith("{"):
        with suppress(orjson.JSONDecodeError):
            classification = orjson.loads(classification)
    parts: list[Any] = []
    while isinstance(classification, dict):
        names = classification.get("names")
        names = names if names and isinstance(names, list) else [classification.get("name")]
        parts = [*names, *parts]
        classification = classification.get("parentClass")
    if isinstance(classification, float) and classification.is_integer():
        classification = int(classification)  # tables store numbers as float if one is missing
    if isinstance(classification, str | int | float) and classification == classification:  # no NaN
        parts = [f"{classification}", *parts]
    return ": ".join(str(part) for part in parts if part) or UNCLASSIFIED


def canonical_uuid(name: Any) -> str:
    """Return the canonical form of a name that is a UUID, and nothing for other names."""
    try:
        return name if _CANONICAL.fullmatch(name) else str(uuid.UUID(name))
    except (ValueError, AttributeError, TypeError):
        return ""


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _object_type(feature: dict) -> str:
    """Return the QuPath object type (annotation, cell, ...), as any version stores it."""
    properties = _dict(feature.get("properties"))
    places = [properties.get(key) for key in ("objectType", "object_type", "type")]
    for place in (*places, feature.get("id"), feature.get("objectType")):
        if kind := _object_kind(place):
            return kind
    return "annotation"


def _object_kind(text: Any) -> str:
    """Return a type of QuPath's objects as one word, "" if the text is no such type."""
    if not isinstance(text, str):
        return ""
    kind = text.casefold().replace("_", "").removeprefix("path").removesuffix("object")
    return kind if kind in _NUCLEI or kind in _NO_NUCLEI else ""


def _of_hovernext(feature: dict) -> bool:
    """Return whether a tile is a nucleus: only HoVerNeXt writes the class of a tile as text."""
    named = isinstance(_dict(feature.get("properties")).get("classification"), str)
    return named and _object_type(feature) == "tile"


def _polygons(feature: dict, kind: str) -> tuple[str, Sequence]:
    """Return the polygons of a feature as lists of rings, or the kind of a feature without any."""
    nucleus = feature.get("nucleusGeometry")
    if kind in _NO_NUCLEI and not _of_hovernext(feature):
        return _NO_NUCLEI[kind], []
    geometry = _dict(nucleus or feature.get("geometry"))
    return kind_of(geometry.get("type")), _polygons_in(geometry)


def _polygons_in(geometry: dict) -> Sequence:
    """Return the polygons of a geometry or a collection of geometries as lists of rings."""
    shape, coordinates = geometry.get("type"), geometry.get("coordinates")
    if shape == "GeometryCollection" and isinstance(geometry.get("geometries"), list | tuple):
        return [polygon for part in geometry["geometries"] for polygon in _polygons_in(_dict(part))]
    if shape in ("Polygon", "MultiPolygon") and isinstance(coordinates, list | tuple):
        return [coordinates] if shape == "Polygon" else coordinates
    return []


# Writing


def feature_lines(
    nuclei: Columns,
    regions: Columns | None = None,
    *,
    tissue: shapely.Geometry | None = None,
    notes: Sequence[str] = (),
) -> Iterator[bytes]:
    """Yield the tissue, each region and then each nucleus as features that QuPath opens.

    The outline of the tissue is one annotation of class "Tissue", which is not cut. Regions are
    annotations of classes like "Stroma region", which name nothing but regions, and nuclei are
    detections. Coordinates have two decimals. Ids that are UUIDs are kept; other ids are derived
    from place and number, so that the same outlines give the same text. ``notes`` are the names of
    the nuclei, which QuPath shows; "" is none.
    """
    if tissue is not None and not tissue.is_empty:
        rounded = shapely.transform(tissue, lambda points: np.round(points, 2))
        yield _annotation(shapely.normalize(rounded), {"name": "Tissue", "color": _TISSUE_COLOUR})
    if regions is not None:
        names = ["", *map(region_class, REGIONS)]
        yield from _features(regions, "annotation", _classes(names, REGION_PALETTE))
    names = [name.capitalize() for name in TYPES]
    yield from _features(nuclei, "detection", _classes(names, PALETTE), notes)


def annotation_line(geometry: shapely.Geometry, name: str, kind: str) -> bytes:
    """Return an annotation of a class ``kind`` as the text of a feature.

    If the class ends in ``*``, the annotation is left out where nuclei or regions are read.
    """
    rounded = shapely.set_precision(geometry, 0.01)
    identity = f"{kind} {name} {geometry.wkt}"
    return _annotation(rounded, {"name": kind, "color": [128, 128, 128]}, identity, name=name)


def _annotation(
    geometry: shapely.Geometry, kind: dict[str, Any], identity: str = "", **properties: str
) -> bytes:
    """Return an annotation as the text of a feature; its id is derived from ``identity``."""
    text = shapely.to_geojson(geometry)
    feature = {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, identity or f"{kind['name']} {text}")),
        "geometry": orjson.Fragment(text),
        "properties": {"objectType": "annotation", "classification": kind, **properties},
    }
    return orjson.dumps(feature)


def _classes(names: Sequence[str], palette: np.ndarray) -> list[dict[str, Any]]:
    """Return QuPath's classifications of these names and colours, uint8 (n, 3)."""
    pairs = zip(names, palette.tolist(), strict=True)
    return [{"name": name, "color": colour} for name, colour in pairs]


def _features(
    table: Columns, kind: str, classes: Sequence[dict], notes: Sequence[str] = ()
) -> Iterator[bytes]:
    """Yield each polygon as a feature of an object type, with the classification of its type."""
    for k, number in enumerate(table.types):
        geometry = _geometry(table, k)
        name = canonical_uuid(table.ids[k]) if table.ids else ""
        feature: dict[str, Any] = {
            "type": "Feature",
            "id": name or str(uuid.uuid5(uuid.NAMESPACE_OID, f"{k} {geometry.decode()}")),
            "geometry": orjson.Fragment(geometry),
            "properties": {"objectType": kind, "classification": classes[number]},
        }
        if notes and notes[k]:
            feature["properties"]["name"] = notes[k]
        yield orjson.dumps(feature)


def _geometry(table: Columns, k: int) -> bytes:
    """Polygon k as the text of a GeoJSON polygon."""
    first, last = table.polygon_offsets[k : k + 2]
    spans = pairwise(table.ring_offsets[first : last + 1])
    rings = [np.round(table.coords[a:b], 2) for a, b in spans]
    polygon = {"type": "Polygon", "coordinates": rings}
    return orjson.dumps(polygon, option=orjson.OPT_SERIALIZE_NUMPY)

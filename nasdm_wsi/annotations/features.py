"""GeoJSON features as QuPath and others write them: what each says, and how nuclei become some.

Specification: RFC 7946, with QuPath's own members: ``objectType``, ``classification`` and
``nucleusGeometry``.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import orjson

from ..errors import AnnotationError
from .columns import Columns
from .outlines import Outlines, kind_of
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
_NUCLEI = ("annotation", "detection", "cell")
_NO_NUCLEI = {"tile": "tiles", "tmacore": "TMA cores", "root": "root objects"}
_CANONICAL = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


# Reading


def features_in(item: Any, source: object) -> Iterator[dict]:
    """All features in a FeatureCollection, Feature or geometry: itself and its children.

    Raises:
        AnnotationError: it is none of these; the message names ``source``.
    """
    kind = _dict(item).get("type")
    if kind == "FeatureCollection" and isinstance(item.get("features"), list):
        children = item["features"]
    elif kind == "Feature":
        yield item
        properties = _dict(item.get("properties"))
        children = properties.get("childObjects") or properties.get("children")
    elif kind in GEOMETRIES:
        children = [{"type": "Feature", "geometry": item}]
    else:
        raise AnnotationError(f"{source}: JSON, but no GeoJSON features: export it as GeoJSON")
    for child in children or ():
        yield from features_in(child, source)


def add_feature(outlines: Outlines, feature: dict, where: str) -> None:
    """Hand the polygons of a feature over to ``outlines``; ``where`` names it in errors.

    Raises:
        AnnotationError: coordinates that are not finite numbers.
    """
    what, polygons = _polygons(feature)
    if not polygons:
        outlines.findings.notes[what] += 1
        return
    if outlines.contours == "auto" and _of_hovernext(feature):
        outlines.contours = "cv2"
    name = class_name(_dict(feature.get("properties")).get("classification"))
    outlines.add(name, polygons, where, canonical_uuid(feature.get("id")))


def class_name(classification: Any) -> str:
    """The class as one name, its parts separated by colons.

    Classifications are names, or QuPath's objects with ``name`` or ``names`` and perhaps a
    ``parentClass``.
    """
    parts = [classification] if isinstance(classification, str) else []
    while isinstance(classification, dict):
        parts = [*(classification.get("names") or [classification.get("name")]), *parts]
        classification = classification.get("parentClass")
    return ": ".join(str(part) for part in parts if part) or UNCLASSIFIED


def canonical_uuid(name: Any) -> str:
    """The name in canonical form if it is a UUID, else nothing."""
    try:
        return name if _CANONICAL.fullmatch(name) else str(uuid.UUID(name))
    except (ValueError, AttributeError, TypeError):
        return ""


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _object_type(feature: dict) -> str:
    """annotation, detection, cell, tile, tmacore or root, wherever a version of QuPath says it."""
    properties = _dict(feature.get("properties"))
    places = [properties.get(key) for key in ("objectType", "object_type", "type")]
    for place in (*places, feature.get("id"), feature.get("objectType")):
        kind = str(place).casefold().replace("_", "")
        kind = kind.removeprefix("path").removesuffix("object")
        if kind in _NUCLEI or kind in _NO_NUCLEI:
            return kind
    return "annotation"


def _of_hovernext(feature: dict) -> bool:
    """Whether a tile is a nucleus: HoVerNeXt writes its class as text, QuPath never does."""
    named = isinstance(_dict(feature.get("properties")).get("classification"), str)
    return named and _object_type(feature) == "tile"


def _polygons(feature: dict) -> tuple[str, Sequence]:
    """The polygons of a feature, as lists of rings; if it has none, what it is instead."""
    kind, nucleus = _object_type(feature), feature.get("nucleusGeometry")
    if kind in _NO_NUCLEI and not _of_hovernext(feature):
        return _NO_NUCLEI[kind], []
    if kind == "cell" and not nucleus:
        return "cells without nucleus", []
    geometry = _dict(nucleus or feature.get("geometry"))
    shape, coordinates = geometry.get("type"), geometry.get("coordinates")
    if shape in ("Polygon", "MultiPolygon") and isinstance(coordinates, list | tuple):
        return "objects without shape", [coordinates] if shape == "Polygon" else coordinates
    return kind_of(shape), []


# Writing


def feature_lines(nuclei: Columns) -> Iterator[bytes]:
    """Each nucleus as the text of a feature: a detection that QuPath opens.

    Coordinates have two decimals. Ids that are UUIDs are kept; others are made from place and
    number, so that the same nuclei give the same text.
    """
    classes = [
        {"name": name.capitalize(), "color": colour.tolist()}
        for name, colour in zip(TYPES, PALETTE, strict=True)
    ]
    for k, kind in enumerate(nuclei.types):
        geometry = _geometry(nuclei, k)
        name = canonical_uuid(nuclei.ids[k]) if nuclei.ids else ""
        feature = {
            "type": "Feature",
            "id": name or str(uuid.uuid5(uuid.NAMESPACE_OID, f"{k} {geometry.decode()}")),
            "geometry": orjson.Fragment(geometry),
            "properties": {"objectType": "detection", "classification": classes[kind]},
        }
        yield orjson.dumps(feature)


def _geometry(nuclei: Columns, k: int) -> bytes:
    """Nucleus k as the text of a GeoJSON polygon."""
    first, last = nuclei.polygon_offsets[k : k + 2]
    spans = pairwise(nuclei.ring_offsets[first : last + 1])
    rings = [np.round(nuclei.coords[a:b], 2) for a, b in spans]
    polygon = {"type": "Polygon", "coordinates": rings}
    return orjson.dumps(polygon, option=orjson.OPT_SERIALIZE_NUMPY)

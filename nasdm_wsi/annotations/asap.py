"""XML of ASAP: each annotation is an outline, and its group is its class."""

from __future__ import annotations

from .contents import Contents, Format, Reading, Source, packed
from .outlines import Outlines
from .types import UNCLASSIFIED
from .xmlstream import elements, point, root

_POLYGONS = ("Polygon", "Spline", "Rectangle")


def _read(source: Source, reading: Reading) -> Contents:
    outlines = Outlines(reading.findings, reading.contours)
    annotation: dict[str, str] = {}
    points: list[tuple[float, float]] = []
    for tag, attributes in elements(source.path):
        where = f"{source.path}: {annotation.get('Name', 'an annotation')}"
        if tag == "Annotation" and attributes is not None:
            annotation, points = attributes, []
        elif tag == "Annotation":
            _add(outlines, annotation, points, where)
        elif tag == "Coordinate" and attributes is not None:
            points.append(point(attributes, where))
    return packed(outlines, FORMAT.name, reading)


def _add(
    outlines: Outlines, annotation: dict[str, str], points: list[tuple[float, float]], where: str
) -> None:
    if annotation.get("Type") not in _POLYGONS:
        outlines.findings.shapeless["points and measurements"] += 1
        return
    group = annotation.get("PartOfGroup", "None")
    outlines.add(UNCLASSIFIED if group in ("None", "") else group, [[points]], where)


FORMAT = Format("ASAP XML", lambda source: root(source) == "ASAP_Annotations", _read, whole=True)

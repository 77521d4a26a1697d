"""JSON of the Digital Slide Archive (HistomicsTK), of which closed polylines are read."""

from __future__ import annotations

from typing import Any

import ijson

from .contents import Contents, Format, Reading, Source, packed
from .jsonstream import Shallow, texts
from .outlines import Outlines
from .types import UNCLASSIFIED

_NAME = "Digital Slide Archive JSON"


def _read(source: Source, reading: Reading) -> Contents:
    outlines = Outlines(reading.findings, reading.contours)
    for name, text in texts(source.path, source.max_pixels):
        elements = ijson.items(Shallow(text), f"{source.member}.item", use_float=True)
        for number, element in enumerate(elements):
            _add(outlines, element if isinstance(element, dict) else {}, f"{name}: {number}")
    return packed(outlines, _NAME, reading)


def _add(outlines: Outlines, element: dict[str, Any], where: str) -> None:
    points, holes = element.get("points"), element.get("holes")
    if element.get("type") != "polyline" or not element.get("closed") or not points:
        outlines.findings.shapeless["points, lines, boxes and ellipses"] += 1
        return
    label = element.get("label")
    name = label.get("value") if isinstance(label, dict) else None
    name = name or element.get("group") or UNCLASSIFIED
    outlines.add(f"{name}", [[points, *(holes or ())]], where)


DOCUMENT = Format(
    _NAME,
    lambda source: source.member == "annotation.elements",
    _read,
    member="annotation.elements",
    whole=True,
)
ANNOTATION = Format(
    _NAME, lambda source: source.member == "elements", _read, member="elements", whole=True
)

"""XML of Aperio's ImageScope, also of MoNuSeg and MoNuSAC, and of HALO.

An Annotation is a layer of one class and contains Regions, which are outlines. Its name is its
attribute ``Name``; MoNuSAC has it in an element Attribute instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .contents import Contents, Format, Reading, Source, packed
from .outlines import Outlines
from .types import UNCLASSIFIED
from .xmlstream import elements, point, root

_MPP = re.compile(rb"MicronsPerPixel=[\"'](\d*\.?\d+(?:[eE][+-]?\d+)?)[\"']")
# The types of regions, by number (ImageScope) or name (HALO); others are rulers, arrows and pins.
_POLYGONS = ("0", "1", "Polygon", "Rectangle")
_OTHERS = {"2": "ellipses", "Ellipse": "ellipses"}


@dataclass
class _Region:
    """A region while it is read: its attributes and its points so far."""

    attributes: dict[str, str]
    points: list[tuple[float, float]] = field(default_factory=list)

    def what(self) -> str:
        """Return the kind of a region that outlines no nucleus, in words; "" if it outlines one."""
        if self.attributes.get("NegativeROA", "0") not in ("0", ""):
            return "excluded regions"
        kind = self.attributes.get("Type", "0")
        return "" if kind in _POLYGONS else _OTHERS.get(kind, "rulers, arrows and pins")

    def outline(self) -> list[tuple[float, float]]:
        """The points, or the four corners of a rectangle of which HALO gives two."""
        if len(self.points) != 2 or self.attributes.get("Type") not in ("1", "Rectangle"):
            return self.points
        (x0, y0), (x1, y1) = self.points
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _read(source: Source, reading: Reading) -> Contents:
    outlines = Outlines(reading.findings, reading.contours)
    name, region, number = "", None, 0
    for tag, attributes in elements(source.path):
        if tag == "Region" and attributes is None and region:
            number += 1
            _add(outlines, region, name, f"{source.path}: region {number}")
            region = None
        elif attributes is None:
            continue
        elif tag == "Annotation":
            name = attributes.get("Name", "")
        elif tag == "Attribute" and not region:
            name = name or _label(attributes)
        elif tag == "Region":
            region = _Region(attributes)
        elif tag in ("Vertex", "V") and region:
            region.points.append(point(attributes, f"{source.path}: region {number + 1}"))
    return packed(outlines, FORMAT.name, reading)


def _label(attributes: dict[str, str]) -> str:
    """Return the class in an element Attribute: MoNuSAC's name, or the description."""
    name = attributes.get("Name", "")
    return attributes.get("Value", "") if name == "Description" else name


def _add(outlines: Outlines, region: _Region, name: str, where: str) -> None:
    if what := region.what():
        outlines.findings.shapeless[what] += 1
    else:
        outlines.add(name.strip() or UNCLASSIFIED, [[region.outline()]], where)


def _pixel_size(source: Source, slide_mpp: float | None) -> float | None:
    stated = _MPP.search(source.start)
    return slide_mpp or (float(stated[1]) or None if stated else None)


FORMAT = Format(
    "ImageScope XML",
    lambda source: root(source) == "Annotations",
    _read,
    whole=True,
    pixel_size=_pixel_size,
    states_scale=True,
)

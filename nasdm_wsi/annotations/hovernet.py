"""JSON of HoVer-Net and CellViT: contours of nuclei with numbers for their types."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import ijson

from .contents import Contents, Format, Reading, Source, packed
from .jsonstream import Shallow, texts
from .outlines import Outlines
from .types import UNCLASSIFIED


def _nuclei(source: Source, reading: Reading) -> Contents:
    """Read HoVer-Net's nuclei; their type numbers, which the weights define, are class names."""
    contours = "cv2" if reading.contours == "auto" else reading.contours
    outlines = Outlines(reading.findings, contours)
    for _, text in texts(source.path, source.max_pixels):
        for key, nucleus in ijson.kvitems(Shallow(text), "nuc", use_float=True):
            _add(outlines, nucleus, {}, f"{source.path}: nucleus {key}")
    return packed(outlines, HOVERNET.name, reading)


def _cells(source: Source, reading: Reading) -> Contents:
    """Read CellViT's cells; a type map gives the meaning of the type numbers."""
    names = dict(_type_names(source.values))
    outlines = Outlines(reading.findings, reading.contours)
    for _, text in texts(source.path, source.max_pixels):
        for number, cell in enumerate(ijson.items(Shallow(text), "cells.item", use_float=True)):
            _add(outlines, cell, names, f"{source.path}: cell {number}")
    return packed(outlines, CELLVIT.name, reading)


def _type_names(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Number, as text, and name of each entry of the type map, which has them in either order."""
    for place, value in values.items():
        if place.startswith("type_map."):
            key = place.removeprefix("type_map.")
            yield (key, value) if isinstance(value, str) else (f"{value}", key)


def _add(outlines: Outlines, nucleus: Any, names: dict[str, str], where: str) -> None:
    nucleus = nucleus if isinstance(nucleus, dict) else {}
    kind, contour = nucleus.get("type"), nucleus.get("contour")
    if not contour:
        outlines.findings.shapeless["objects without shape"] += 1
        return
    name = UNCLASSIFIED if kind is None else names.get(f"{kind}", f"{kind}")
    outlines.add(name, [[contour]], where)


def _magnified(source: Source, slide_mpp: float | None) -> float | None:
    """Return the pixel size of HoVer-Net's coordinates: 0.25 at 40x, or the slide's nearest."""
    magnification = source.values.get("mag")
    if not isinstance(magnification, int | float) or magnification <= 0:
        return slide_mpp
    nominal = 10 / magnification
    if slide_mpp is None:
        return nominal
    # A slide scanned at 0.2527 is 40x to HoVer-Net, and 20x has 0.5054.
    return slide_mpp * 2.0 ** round(math.log2(nominal / slide_mpp))


HOVERNET = Format(
    "HoVer-Net JSON",
    lambda source: source.member == "nuc",
    _nuclei,
    member="nuc",
    whole=True,
    states_scale=True,
    pixel_size=_magnified,
)
CELLVIT = Format(
    "CellViT JSON",
    lambda source: source.member == "cells",
    _cells,
    member="cells",
    whole=True,
)

"""COCO instances: polygons, and masks as run lengths, plain or packed into text.

The pictures of a file are tiles. Those whose names end in their corner, as in slide_x512_y0.png of
`export`, are placed there; others are laid out in rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ijson
import numpy as np

from ..errors import AnnotationError
from .contents import Contents, Format, Reading, Source, packed
from .jsonstream import Shallow, texts
from .labels import pieces
from .outlines import Outlines

MOST_PIXELS = 1 << 26  # of one mask
_CORNER = re.compile(r"_x(\d+)_y(\d+)\.\w+$")
_FLAWS = (AttributeError, LookupError, OverflowError, TypeError, ValueError)


@dataclass(frozen=True)
class _Tables:
    """names: of the categories, by id. corners: (x, y) of the pictures, by id."""

    names: dict[Any, str]
    corners: dict[Any, tuple[int, int]]


def _read(source: Source, reading: Reading) -> Contents:
    outlines = Outlines(reading.findings, reading.contours)
    tables = _tables(source)
    for number, annotation in enumerate(_items(source, "annotations")):
        try:
            _add(outlines, annotation, tables, f"{source.path}: annotation {number}")
        except _FLAWS as error:
            raise AnnotationError(
                f"{source.path}: annotation {number} is damaged ({error!r}): correct or remove it"
            ) from error
    return packed(outlines, FORMAT.name, reading)


def _items(source: Source, name: str) -> Iterator[Any]:
    for _, text in texts(source.path, source.max_pixels):
        yield from ijson.items(Shallow(text), f"{name}.item", use_float=True)


def _tables(source: Source) -> _Tables:
    try:
        names = {row["id"]: f"{row['name']}" for row in _items(source, "categories")}
        return _Tables(names, _corners(list(_items(source, "images"))))
    except _FLAWS as error:
        raise AnnotationError(
            f"{source.path}: its images or categories are damaged ({error!r}): export it again"
        ) from error


def _corners(images: list[dict]) -> dict[Any, tuple[int, int]]:
    named = [_CORNER.search(f"{image.get('file_name')}") for image in images]
    slides = {name and name.string[: name.start()] for name in named}
    if len(slides) <= 1 and all(named):  # tiles of several slides have the same corners
        corners = [(int(name[1]), int(name[2])) for name in named if name]
    else:
        columns = math.ceil(math.sqrt(len(images)))
        width, height = (max(image[side] for image in images) for side in ("width", "height"))
        corners = [(k % columns * width, k // columns * height) for k in range(len(images))]
    return {image["id"]: corner for image, corner in zip(images, corners, strict=True)}


def _add(outlines: Outlines, annotation: Any, tables: _Tables, where: str) -> None:
    segmentation = annotation.get("segmentation")
    if not segmentation:
        outlines.findings.shapeless["boxes without outline"] += 1
        return
    x, y = tables.corners[annotation["image_id"]]
    polygons = _of_runs(segmentation) if isinstance(segmentation, dict) else _flat(segmentation)
    moved = [[[(px + x, py + y) for px, py in ring] for ring in rings] for rings in polygons]
    category = annotation["category_id"]
    outlines.add(tables.names.get(category, f"{category}"), moved, where)


def _flat(segmentation: list) -> list:
    """Return polygons as rings of points, from lists of x, y, x, y, ..."""
    return [[list(zip(flat[::2], flat[1::2], strict=True))] for flat in segmentation]


def _of_runs(segmentation: dict) -> list:
    """Return the outlines of a mask in run lengths, as rings of points."""
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    runs = np.array(_unpacked(counts) if isinstance(counts, str) else counts, np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError("run lengths that do not fit the size of the picture")
    lengths = runs[1::2]
    if lengths.sum() > MOST_PIXELS:
        raise ValueError("a mask of more than 67 million pixels")
    begin = np.cumsum(runs)[::2][: len(lengths)]
    ahead = begin - np.concatenate([[0], np.cumsum(lengths)[:-1]])
    x, y = np.divmod(np.repeat(ahead, lengths) + np.arange(lengths.sum()), height)
    if not len(x):
        return []
    mask = np.zeros((np.ptp(y) + 1, np.ptp(x) + 1), bool)
    mask[y - y.min(), x - x.min()] = True
    outlines = pieces(mask, int(y.min()), int(x.min()))
    return [[ring.coords for ring in (p.exterior, *p.interiors)] for p in outlines]


def _unpacked(text: str) -> list[int]:
    """Decode run lengths from COCO's text: five bits a letter, differences to the last but one.

    Source: maskApi.c of pycocotools, `rleFrString`.
    """
    runs: list[int] = []
    value = bits = 0
    for letter in text.encode():
        code = letter - 48
        value |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue
        value -= (1 << bits) if code & 16 else 0
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = bits = 0
    return runs


FORMAT = Format(
    "COCO instances", lambda source: source.member == "annotations", _read, member="annotations"
)

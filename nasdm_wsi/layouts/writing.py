"""Layouts written block by block, as GeoJSON that QuPath opens and that can be rendered."""

from __future__ import annotations

import shutil
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import repeat
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, NamedTuple

import numpy as np
import orjson
import shapely
from shapely import Polygon
from shapely.geometry import mapping

from ..annotations.features import feature_lines
from ..annotations.nuclei import Nuclei
from ..annotations.regions import PALETTE, REGIONS, Regions
from ..annotations.types import TYPES
from ..geometry import Box, grow
from ..output import whole_or_nothing
from .outlines import REACH, shapes
from .source import Source

BLOCK = 1024  # micrometres a side of what is laid out at a time
AHEAD = 2  # blocks that each worker may be ahead of the file
# Regions are written in these layers, whatever block they are from: later ones lie over earlier.
_LAYERS = (("stroma", "muscle", "fat", "debris", "glass"), ("epithelium",))
_TISSUE_COLOUR = (150, 120, 160)

Canvas = tuple[float, float]
"""Height and width in micrometres."""

_source: Source  # of a worker process


class Part(NamedTuple):
    """What one block adds to a file.

    Attributes:
        layers: the text of its features: nuclei, tissue, and three layers of regions.
        counts: how many nuclei there are of each type.
    """

    layers: tuple[bytes, ...]
    counts: np.ndarray


def layout_box(source: Source, box: Box, *, seed: int = 0) -> Nuclei:
    """Return the nuclei of a source whose centres lie in a box, and its regions.

    Coordinates are in micrometres (mpp 1), and nothing is cut at the box.
    """
    around = source.nuclei(grow(box, REACH))
    nuclei, index = shapes(around, seed=seed)
    y, x = around.centres[index].T
    inside = (y >= box[0]) & (x >= box[1]) & (y < box[2]) & (x < box[3])
    return replace(nuclei.take(np.flatnonzero(inside)), regions=source.regions(box))


def write_layout(
    out: Path,
    source: Source,
    size: tuple[int, int],
    *,
    mpp: float = 0.5,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[..., None] | None = None,
) -> dict[str, int]:
    """Write the layout of a canvas of ``size`` (h, w) pixels; returns the numbers of nuclei.

    Memory does not grow with the canvas, and the bytes do not depend on ``workers``.

    Raises:
        OutputError: the file cannot be written.
    """
    counts = np.zeros(len(TYPES), int)
    canvas = tuple(side * mpp for side in size)
    height, width = map(ceil, canvas)
    boxes = [
        (y, x, min(y + BLOCK, height), min(x + BLOCK, width))
        for y in range(0, height, BLOCK)
        for x in range(0, width, BLOCK)
    ]
    with ExitStack() as stack:
        part = stack.enter_context(whole_or_nothing(out))
        file = stack.enter_context(open(part, "wb"))
        later = [stack.enter_context(TemporaryFile(dir=out.parent)) for _ in range(4)]
        file.write(b'{"type":"FeatureCollection","features":[')
        parts = _parts(source, boxes, (canvas, mpp, seed), min(workers, len(boxes)))
        for done, made in enumerate(parts, 1):
            for target, text in zip((file, *later), made.layers, strict=True):
                # Every feature begins with a comma, which the first of the file must not have.
                target.write(text[1:] if target is file and not counts.any() else text)
            counts += made.counts
            if progress:
                progress("layout", done, len(boxes))
        _append(file, later, first=not counts.any())
        file.write(b"\n]}\n")
    return dict(zip(TYPES[1:], counts[1:].tolist(), strict=True))


def _append(file: BinaryIO, later: list, *, first: bool) -> None:
    """Append files of features; ``first`` says that the file has none yet."""
    for layer in later:
        if not layer.tell():
            continue
        layer.seek(1 if first else 0)
        shutil.copyfileobj(layer, file)
        first = False


def _parts(source: Source, boxes: list[Box], facts: tuple, workers: int) -> Iterator[Part]:
    """Yield the parts of boxes in their order."""
    if workers <= 1:
        yield from (_part(source, box, *facts) for box in boxes)
        return
    waiting: deque[Future[Part]] = deque()
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _take_source, (source,))
    with pool:
        for box in boxes:
            waiting.append(pool.submit(_part_of_worker, box, *facts))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _take_source(source: Source) -> None:
    global _source
    _source = source


def _part_of_worker(box: Box, *facts: object) -> Part:
    return _part(_source, box, *facts)  # type: ignore[arg-type]


def _part(source: Source, box: Box, canvas: Canvas, mpp: float, seed: int) -> Part:
    """Return the features of a block."""
    frame = shapely.box(0, 0, canvas[1], canvas[0])
    tissue = source.tissue(box)
    nuclei = _in_frame(layout_box(source, box, seed=seed), frame).scaled(mpp)
    layers = [b"".join(b",\n" + line for line in feature_lines(nuclei))]
    layers.append(b"" if tissue is None else _line("Tissue", tissue.intersection(frame), mpp))
    for names, polygons in _by_layer(source.regions(box), box, frame):
        layers.append(b"".join(map(_line, names, polygons, repeat(mpp))))
    return Part(tuple(layers), np.bincount(nuclei.types, minlength=len(TYPES)))


def _in_frame(nuclei: Nuclei, frame: Polygon) -> Nuclei:
    """Return nuclei cut at the border of the canvas; what is left of each counts."""
    x0, y0, x1, y1 = frame.bounds
    a, b, c, d = nuclei.boxes().T
    out = np.flatnonzero((a < y0) | (b < x0) | (c > y1) | (d > x1))
    polygons = nuclei.polygons()
    polygons[out] = shapely.intersection(polygons[out], frame)
    flat = shapely.area(polygons) < 1
    return Nuclei.from_polygons(polygons[~flat], nuclei.types[~flat], mpp=nuclei.mpp)


def _by_layer(regions: Regions, box: Box, frame: Polygon) -> Iterator[tuple]:
    """Yield for each layer the names and the polygons that belong to a block, in their order.

    A region belongs to the block in which its topmost point on the canvas lies.
    """
    polygons, names = regions.polygons(), np.array(REGIONS)[regions.types - 1]
    cut = ~shapely.contains_properly(frame, polygons)
    polygons[cut] = shapely.intersection(polygons[cut], frame)
    y, x = _topmost(polygons)
    mine = (y >= box[0]) & (x >= box[1]) & (y < box[2]) & (x < box[3])
    layers = np.full(len(names), len(_LAYERS))
    for number, few in enumerate(_LAYERS):
        layers[np.isin(names, few)] = number
    for number in range(len(_LAYERS) + 1):
        here = mine & (layers == number)
        yield names[here], polygons[here]


def _topmost(polygons: np.ndarray) -> np.ndarray:
    """Return y and x (2, n) of the first of the topmost vertices; nan for empty polygons."""
    out = np.full((2, len(polygons)), np.nan)
    for k, polygon in enumerate(polygons):
        if not polygon.is_empty and polygon.area > 0:
            x, y = shapely.get_coordinates(polygon).T
            first = np.lexsort((x, y))[0]
            out[:, k] = y[first], x[first]
    return out


def _line(name: str, shape: shapely.Geometry, mpp: float) -> bytes:
    """Return the text of an annotation, which begins with a comma; nothing without area."""
    parts = [part for part in shapely.get_parts(shape).tolist() if part.geom_type == "Polygon"]
    if not parts:
        return b""
    colour = PALETTE[REGIONS.index(name) + 1].tolist() if name in REGIONS else _TISSUE_COLOUR
    scaled = shapely.transform(parts, lambda xy: np.round(xy / mpp, 2))
    geometry = mapping(scaled[0] if len(scaled) == 1 else shapely.MultiPolygon(list(scaled)))
    feature = {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {geometry}")),
        "geometry": geometry,
        "properties": {
            "objectType": "annotation",
            "classification": {"name": name.capitalize(), "color": colour},
        },
    }
    return b",\n" + orjson.dumps(feature)

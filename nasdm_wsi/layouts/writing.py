"""Layouts written block by block, as GeoJSON that QuPath opens and that can be rendered."""

from __future__ import annotations

import shutil
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
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
from ..annotations.regions import REGIONS, Regions
from ..annotations.types import TYPES
from ..geometry import Box, grow
from ..output import whole_or_nothing
from .outlines import REACH, shapes
from .source import Source

BLOCK = 1024  # micrometres a side of what is laid out at a time
AHEAD = 2  # blocks that each worker may be ahead of the file
# Regions are written in these layers, whatever block they are from: later ones lie over earlier.
_LAYERS = (("stroma", "muscle", "fat", "debris", "glass"), ("epithelium",))
_TISSUE = {"name": "Tissue", "color": [150, 120, 160]}

Canvas = tuple[float, float]
"""Height and width in micrometres."""

_source: Source  # of a worker process


class Facts(NamedTuple):
    """What every block is told.

    Attributes:
        mpp: pixel size of the file.
        seed: of the outlines.
        regions: whether the regions of the source are written.
    """

    mpp: float
    seed: int
    regions: bool


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
    regions: Regions | None = None,
    workers: int = 1,
    progress: Callable[..., None] | None = None,
) -> dict[str, int]:
    """Write the layout of a canvas of ``size`` (h, w) pixels; returns the numbers of nuclei.

    Memory does not grow with the canvas, and the bytes do not depend on ``workers``. If ``regions``
    are given, they are written in their order instead of those of the source.

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
        facts = Facts(mpp, seed, regions is None)
        if regions is not None:
            later[0].write(_region_lines(regions, mpp))
        parts = _parts(source, boxes, (canvas, facts), min(workers, len(boxes)))
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


def _part(source: Source, box: Box, canvas: Canvas, facts: Facts) -> Part:
    """Return the features of a block."""
    frame = shapely.box(0, 0, canvas[1], canvas[0])
    made = _in_frame(layout_box(source, box, seed=facts.seed), frame).scaled(facts.mpp)
    layers = [_joined(feature_lines(made)), b"", b"", b"", b""]
    if facts.regions:
        tissue = source.tissue(box)
        layers[1] = _tissue_lines(tissue and tissue.intersection(frame), facts.mpp)
        for number, regions in enumerate(_by_layer(source.regions(box), box, frame), 2):
            layers[number] = _region_lines(regions, facts.mpp)
    return Part(tuple(layers), np.bincount(made.types, minlength=len(TYPES)))


def _in_frame(nuclei: Nuclei, frame: Polygon) -> Nuclei:
    """Return nuclei cut at the border of the canvas; what is left of each counts."""
    x0, y0, x1, y1 = frame.bounds
    a, b, c, d = nuclei.boxes().T
    out = np.flatnonzero((a < y0) | (b < x0) | (c > y1) | (d > x1))
    polygons = nuclei.polygons()
    polygons[out] = shapely.intersection(polygons[out], frame)
    flat = shapely.area(polygons) < 1
    return Nuclei.from_polygons(polygons[~flat], nuclei.types[~flat], mpp=nuclei.mpp)


def _by_layer(regions: Regions, box: Box, frame: Polygon) -> Iterator[Regions]:
    """Yield for each layer the regions that belong to a block, cut at the canvas.

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
        yield Regions.from_polygons(polygons[here], names[here], mpp=1.0)


def _topmost(polygons: np.ndarray) -> np.ndarray:
    """Return y and x (2, n) of the first of the topmost vertices; nan for empty polygons."""
    out = np.full((2, len(polygons)), np.nan)
    for k, polygon in enumerate(polygons):
        if not polygon.is_empty and polygon.area > 0:
            x, y = shapely.get_coordinates(polygon).T
            first = np.lexsort((x, y))[0]
            out[:, k] = y[first], x[first]
    return out


def _tissue_lines(shape: shapely.Geometry | None, mpp: float) -> bytes:
    """Return the outlines of tissue as features that each begin with a comma."""
    parts = shapely.get_parts(shape).tolist() if shape else []
    lines = []
    for part in parts:
        if part.geom_type == "Polygon":
            geometry = mapping(shapely.transform(part, lambda xy: np.round(xy / mpp, 2)))
            feature = {
                "type": "Feature",
                "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"tissue {geometry}")),
                "geometry": geometry,
                "properties": {"objectType": "annotation", "classification": _TISSUE},
            }
            lines.append(orjson.dumps(feature))
    return _joined(lines)


def _region_lines(regions: Regions, mpp: float) -> bytes:
    nothing = Nuclei.from_polygons([], [], mpp=mpp)
    return _joined(feature_lines(nothing, regions.scaled(mpp)))


def _joined(lines: Iterable[bytes]) -> bytes:
    return b"".join(b",\n" + line for line in lines)

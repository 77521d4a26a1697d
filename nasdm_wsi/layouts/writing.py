"""Layouts written block by block, as GeoJSON that QuPath opens and that can be rendered."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryFile
from threading import local
from typing import BinaryIO, NamedTuple

import numpy as np
import orjson
import shapely
from shapely import Polygon
from shapely.geometry import mapping

from ..annotations.features import feature_lines
from ..annotations.geojson import begin, foreign_members
from ..annotations.nuclei import Nuclei
from ..annotations.raster import Drawing
from ..annotations.regions import REGIONS, Regions
from ..annotations.types import TYPES
from ..geometry import Block, Box, cells_in, grow, intersect, square_box, squares_of
from ..output import whole_or_nothing
from ..processes import deaf_to_ctrl_c, end_with_parent
from .densities import Densities
from .outlines import REACH, shapes
from .source import Proposals, Source

log = logging.getLogger(__name__)

BLOCK = 1024  # micrometres a side of what is laid out at a time
AHEAD = 2  # rows of blocks whose proposals are made before a row is written
# Regions are written in these layers, whatever block they are from: later ones lie over earlier.
_LAYERS = (("stroma", "muscle", "fat", "debris", "glass"), ("epithelium",))
_TISSUE = {"name": "Tissue", "color": [150, 120, 160]}

_worker = local()  # its source is that of a worker


class Facts(NamedTuple):
    """What every block is told.

    Attributes:
        canvas: height and width in micrometres.
        mpp: pixel size of the file.
        seed: of the outlines.
        regions: whether the regions of the source are written.
        measured: whether areas and nuclei are counted by region.
    """

    canvas: tuple[float, float]
    mpp: float
    seed: int
    regions: bool
    measured: bool


class Part(NamedTuple):
    """What one block adds to a file.

    Attributes:
        layers: the text of its features: nuclei, tissue, and three layers of regions.
        counts: how many nuclei there are of each type.
        areas: square millimetres of each region, by its number; None if they are not measured.
        by_region: how many nuclei of each type have their centre in each region, likewise.
    """

    layers: tuple[bytes, ...]
    counts: np.ndarray
    areas: np.ndarray | None = None
    by_region: np.ndarray | None = None


def layout_box(source: Source, box: Box, *, seed: int = 0) -> Nuclei:
    """Return the nuclei of a source whose centres lie in a box, and its regions.

    Coordinates are in micrometres (mpp 1), and nothing is cut at the box.
    """
    nuclei = _outlined(source.nuclei(grow(box, REACH)), box, seed)
    return replace(nuclei, regions=source.regions(box))


def _outlined(around: Proposals, box: Box, seed: int) -> Nuclei:
    """Return the nuclei whose centres lie in a box, from proposals in and around it."""
    around = around.take(np.lexsort(around.centres.T))
    nuclei, index = shapes(around, seed=seed)
    y, x = around.centres[index].T
    inside = (y >= box[0]) & (x >= box[1]) & (y < box[2]) & (x < box[3])
    return nuclei.take(np.flatnonzero(inside))


def write_layout(
    out: Path,
    source: Source,
    size: tuple[int, int],
    *,
    states_size: bool = True,
    mpp: float = 0.5,
    seed: int = 0,
    regions: Regions | None = None,
    densities: Densities | None = None,
    workers: int = 1,
    progress: Callable[..., None] | None = None,
) -> dict[str, int]:
    """Write the layout of a canvas of ``size`` (h, w) pixels; returns the numbers of nuclei.

    Memory does not grow with the canvas, and the bytes do not depend on ``workers``. If ``regions``
    are given, they are written in their order instead of those of the source. Without
    ``states_size``, the file states only its pixel size. A warning names the ``densities`` that are
    not met.

    Raises:
        OutputError: the file cannot be written.
    """
    counts = np.zeros(len(TYPES), int)
    areas, by_region = np.zeros(len(REGIONS) + 1), np.zeros((len(REGIONS) + 1, len(TYPES)), int)
    measured = densities is not None and bool(densities.wanted)
    canvas = (size[0] * mpp, size[1] * mpp)
    facts = Facts(canvas, mpp, seed, regions=regions is None, measured=measured)
    blocks = Blocks(ceil(canvas[0]), ceil(canvas[1]))
    total = len(blocks.rows) * len(blocks.columns)
    with ExitStack() as stack:
        part = stack.enter_context(whole_or_nothing(out))
        file = stack.enter_context(open(part, "wb"))
        later = [stack.enter_context(TemporaryFile(dir=out.parent)) for _ in range(4)]
        stated = foreign_members(canvas, mpp=mpp, generated=regions is None)
        file.write(begin(stated if states_size else {"canvas": {"mpp": mpp}}))
        if regions is not None:
            later[0].write(_region_lines(regions, mpp))
        parts = _parts(source, blocks, facts, min(workers, total))
        for done, made in enumerate(parts, 1):
            for target, text in zip((file, *later), made.layers, strict=True):
                # Every feature begins with a comma, which the first of the file must not have.
                target.write(text[1:] if target is file and not counts.any() else text)
            counts += made.counts
            if made.areas is not None:
                areas, by_region = areas + made.areas, by_region + made.by_region
            if progress:
                progress("layout", done, total)
        _append(file, later, first=not counts.any())
        file.write(b"\n]}\n")
    if densities is not None and (unmet := densities.unmet(areas, by_region)):
        log.warning("%s: nuclei per mm2 of %s", out, "; ".join(unmet))
    return dict(zip(TYPES[1:], counts[1:].tolist(), strict=True))


def _append(file: BinaryIO, later: list, *, first: bool) -> None:
    """Append files of features; ``first`` says that the file has none yet."""
    for layer in later:
        if not layer.tell():
            continue
        layer.seek(1 if first else 0)
        shutil.copyfileobj(layer, file)
        first = False


class Blocks:
    """The blocks of a canvas of whole micrometres, by row and column."""

    def __init__(self, height: int, width: int):
        _, _, rows, columns = squares_of((0, 0, height, width), BLOCK)
        self.rows, self.columns = range(rows), range(columns)
        self._canvas = (0, 0, height, width)

    def box(self, row: int, column: int) -> Box:
        """Return the part of the canvas that a block writes."""
        return intersect(square_box((row, column), BLOCK), self._canvas)

    def around(self, row: int, column: int) -> list[Block]:
        """Return a block and those beside it."""
        near = cells_in((row - 1, column - 1, row + 2, column + 2))
        return [(i, j) for i, j in near if i in self.rows and j in self.columns]


def _parts(source: Source, blocks: Blocks, facts: Facts, workers: int) -> Iterator[Part]:
    """Yield the parts of the blocks, row by row.

    The proposals of each block are made once, and none beyond the canvas. A block is written when
    its neighbours have theirs.
    """
    pool = _pool(source, workers)
    proposals: dict[Block, Future[Proposals]] = {}
    try:
        for row in blocks.rows:
            for block in cells_in((row, 0, row + 1 + AHEAD, len(blocks.columns))):
                if block[0] in blocks.rows and block not in proposals:
                    proposals[block] = pool.submit(_propose, blocks.box(*block))
            waiting = []
            for column in blocks.columns:
                near = [proposals[place].result() for place in blocks.around(row, column)]
                box = blocks.box(row, column)
                around = Proposals.concatenate(near).within(grow(box, REACH))
                waiting.append(pool.submit(_part, around, box, facts))
            for column, future in enumerate(waiting):
                yield future.result()
                proposals.pop((row - 1, column), None)
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(source: Source, workers: int) -> Executor:
    if workers == 1:
        return ThreadPoolExecutor(1, "layout", _take_source, (source,))
    with deaf_to_ctrl_c():
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (source,))
        for _ in range(workers):  # each task starts a process, as long as none is idle
            pool.submit(int)
    return pool


def _start_worker(source: Source) -> None:
    end_with_parent()
    _take_source(source)


def _take_source(source: Source) -> None:
    _worker.source = source


def _propose(box: Box) -> Proposals:
    return _worker.source.nuclei(box)


def _part(around: Proposals, box: Box, facts: Facts) -> Part:
    """Return the features of a block, from the nuclei proposed in and around it."""
    source: Source = _worker.source
    height, width = facts.canvas
    frame = shapely.box(0, 0, width, height)
    made = _in_frame(_outlined(around, box, facts.seed), frame).scaled(facts.mpp)
    layers = [_joined(feature_lines(made)), b"", b"", b"", b""]
    if facts.regions:
        tissue = source.tissue(box)
        layers[1] = _tissue_lines(tissue and tissue.intersection(frame), facts.mpp)
        for number, regions in enumerate(_by_layer(source.regions(box), box, frame), 2):
            layers[number] = _region_lines(regions, facts.mpp)
    counts = np.bincount(made.types, minlength=len(TYPES))
    return Part(tuple(layers), counts, *(_measured(source, made, box) if facts.measured else ()))


def _measured(source: Source, made: Nuclei, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Return the square millimetres and the nuclei by type of each region in a block."""
    labels = Drawing(source.regions(box)).labels(box)[1]
    areas = np.bincount(labels.ravel(), minlength=len(REGIONS) + 1) / 1e6
    boxes = made.scaled(1.0).boxes()
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2 - box[:2]).astype(int)
    row, column = np.clip(centres, 0, np.array(labels.shape) - 1).T
    counts = np.zeros((len(REGIONS) + 1, len(TYPES)), int)
    np.add.at(counts, (labels[row, column], made.types), 1)
    return areas, counts


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
    # Blocks are half open, and what is cut may begin at the end of the canvas.
    end = np.nextafter(frame.bounds[2:], 0)
    y, x = np.minimum(_topmost(polygons), end[::-1, None])
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

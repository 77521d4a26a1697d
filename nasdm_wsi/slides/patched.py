"""Change a part of a tiled TIFF slide in a copy: tiles that do not change keep their bytes.

The copy begins as the same bytes. New tiles are appended, and the tables of tiles point to them; so
everything else that the file holds, such as the label of a slide, is still there. JPEG tiles are
changed block by block (`jpeg`), and tiles that are compressed without loss are compressed again.

Axis order is (y, x), boxes are (y0, x0, y1, x1), places of tiles are (row, column).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import scipy
import shapely
from PIL import Image
from tifffile import TIFF, TiffFile, TiffPage

from ..annotations.raster import Cover
from ..errors import OutputError, SlideError
from ..geometry import Block, Box, cells_in, inside, intersect, shape
from .aperio import OURS
from .jpeg import joined, unit_of, with_blocks
from .tiff import LOSSLESS, shows_rgb

JPEG = 7
MOST_CLASSIC = 2**32  # bytes of a TIFF that is no BigTIFF
_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def grid_of(path: str | Path) -> tuple[int, int] | None:
    """Return the cells (height, width) in which a file can be changed; None if it cannot be.

    It can be if it is a TIFF of one file whose levels are tiled, RGB, and either JPEG of the usual
    kinds or compressed without loss; then a cell is a pixel. A folder is no TIFF.
    """
    if Path(path).is_dir():
        return None
    try:
        with TiffFile(path) as tiff:
            levels = _levels(tiff)
            units = {level.unit for level in levels}
            return units.pop() if len(units) == 1 else None
    except (ValueError, SlideError, IndexError, KeyError):
        return None


def change(path: Path, pixels: Callable[[Box], np.ndarray], area: shapely.Geometry) -> None:
    """Change a slide in place, on all levels.

    Args:
        path: a copy of the slide, of which `grid_of` is not None.
        pixels: maps a box of level 0 to its new pixels, uint8 (h, w, 3).
        area: polygons in pixels of level 0 that hold all changes, on the cells of `grid_of`.

    Raises:
        SlideError: a tile is damaged, or would not keep its other pixels exactly.
        OutputError: the file would become too large for its kind of TIFF.
    """
    with TiffFile(path, mode="r+") as tiff:
        levels = _levels(tiff)
        levels[0].change(Cover(area), pixels)
        for below, level in itertools.pairwise(levels):
            down = np.divide(below.size, level.size)
            area = shapely.transform(area, partial(np.multiply, 1 / down[::-1]))
            level.change(Cover(area.buffer(1)), partial(below.reduced, down=down))


def describe(path: Path, note: str) -> None:
    """Add a note to the description of a slide, in a way that fits its format.

    On an Aperio slide it becomes our key (`aperio.OURS`), the last one. A file without a
    description gets none.
    """
    with TiffFile(path, mode="r+") as tiff:
        page = tiff.pages.first
        text = page.description
        if tiff.is_ome:
            text = _in_xml(text, note)
        elif text.startswith("Aperio"):
            ours = note.replace("|", "\\u007c")
            text = f"{text} {ours}" if f"|{OURS} = " in text else f"{text}|{OURS} = {ours}"
        else:
            text = f"{text}\n{note}" if text else note
        if 270 in page.tags:
            page.tags[270].overwrite(text.encode(), erase=False)


def _in_xml(text: str, note: str) -> str:
    """Return OME-XML with a note at the end of the description of its image."""
    space = text.partition("xmlns=")[2][1:].partition('"')[0] or _OME
    ElementTree.register_namespace("", space)
    ElementTree.register_namespace("xsi", "http://www.w3.org/2001/XMLSchema-instance")
    root = ElementTree.fromstring(text.encode())
    image = root.find("{*}Image")
    if image is None:
        return text
    place = image.find("{*}Description")
    if place is None:
        place = ElementTree.Element(f"{{{space}}}Description")
        image.insert(0, place)
    place.text = f"{place.text}\n{note}" if place.text else note
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return head + ElementTree.tostring(root, encoding="unicode")


def _levels(tiff: TiffFile) -> list[_Level]:
    """Return the levels of the slide in a file, the finest first."""
    keyframes = [level.keyframe for level in tiff.series[0].levels]
    return [_Level(tiff, page) for page in keyframes]


class _Level:
    """A level of a tiled slide, of which tiles can be read and replaced.

    Attributes:
        size: (h, w) in pixels.
        unit: (height, width) of the cells in which it can be changed.
    """

    def __init__(self, tiff: TiffFile, page: TiffPage):
        kinds = (JPEG, *LOSSLESS)
        is_rgb = page.shape[2:] == (3,) and page.dtype == np.uint8 and shows_rgb(page)
        if not page.is_tiled or page.compression not in kinds or not is_rgb:
            raise SlideError("the levels of this file are not tiled RGB of a usual compression")
        if page.parent is not tiff:  # an OME-TIFF may have several files
            raise SlideError("the pixels of this file lie in another file")
        height, width = page.shape[:2]
        self._tiff, self._page, self.size = tiff, page, (height, width)
        self._tile = page.tilelength, page.tilewidth
        self._starts, self._lengths = list(page.dataoffsets), list(page.databytecounts)
        self.unit = unit_of(self._jpeg(0)) if page.compression == JPEG else (1, 1)
        if any(n % m for n, m in zip(self._tile, self.unit, strict=True)):
            raise SlideError("the tiles of this file are not whole blocks")

    def change(self, cover: Cover, pixels: Callable[[Box], np.ndarray]) -> None:
        """Replace the cells that a cover touches by ``pixels(box)`` of boxes that hold them."""
        for place in cells_in(self._holders(cover.box)):
            frame = self._frame(place)
            if not cover.meets(frame):
                continue
            shown = self._shown(frame)
            touched = self._cells(cover.mask(frame) & shown)
            if not touched.any():
                continue
            mask = touched.repeat(self.unit[0], 0).repeat(self.unit[1], 1)
            now = self._decoded(place)
            box = _bounds(mask & shown, frame)
            new = now.copy()
            new[inside(box, frame)] = pixels(box)
            new = np.where(mask[..., None], new, now)
            self._replace(place, self._encoded(place, new, touched), mask)
        self._write_tables()

    def reduced(self, box: Box, *, down: np.ndarray) -> np.ndarray:
        """Return pixels of a box of the next level, which is ``down`` (2,) times smaller."""
        y0, x0 = np.multiply(box[:2], down)
        y1, x1 = np.minimum(np.multiply(box[2:], down), self.size)
        top, left = math.floor(y0), math.floor(x0)
        part = Image.fromarray(self._pixels((top, left, math.ceil(y1), math.ceil(x1))))
        seen = x0 - left, y0 - top, x1 - left, y1 - top
        return np.asarray(part.resize(shape(box)[::-1], Image.Resampling.BOX, box=seen))

    def _holders(self, box: Box) -> Box:
        """Return the tiles that hold a box of pixels, as a rectangle."""
        (h, w), (y0, x0, y1, x1) = self._tile, intersect(box, (0, 0, *self.size))
        return y0 // h, x0 // w, -(-y1 // h), -(-x1 // w)

    def _frame(self, place: Block) -> Box:
        """Return the box of a tile, which may reach beyond the slide."""
        (i, j), (h, w) = place, self._tile
        return i * h, j * w, (i + 1) * h, (j + 1) * w

    def _shown(self, frame: Box) -> np.ndarray:
        """Return bool (h, w): the pixels of a tile that lie on the slide."""
        shown = np.zeros(shape(frame), bool)
        shown[inside(intersect(frame, (0, 0, *self.size)), frame)] = True
        return shown

    def _cells(self, mask: np.ndarray) -> np.ndarray:
        (h, w), (y, x) = mask.shape, self.unit
        return np.any(mask.reshape(h // y, y, w // x, x), axis=(1, 3))

    def _number(self, place: Block) -> int:
        return place[0] * -(-self.size[1] // self._tile[1]) + place[1]

    def _stored(self, number: int) -> bytes:
        file = self._tiff.filehandle
        file.seek(self._starts[number])
        return file.read(self._lengths[number])

    def _jpeg(self, number: int) -> bytes:
        return joined(self._page.jpegtables, self._stored(number))

    def _decoded(self, place: Block) -> np.ndarray:
        """Return the pixels of a whole tile, uint8 (h, w, 3)."""
        number = self._number(place)
        return self._decode(self._stored(number), number, self._page.jpegtables)

    def _decode(self, data: bytes, number: int, tables: bytes | None) -> np.ndarray:
        if not data:  # a tile that was never written
            return np.full((*self._tile, 3), 255, np.uint8)
        decoded: Any = self._page.decode(data, number, jpegtables=tables)[0]
        return np.array(decoded[0])

    def _pixels(self, box: Box) -> np.ndarray:
        """Return the pixels of a box on the slide, as they are in the file now."""
        out = np.empty((*shape(box), 3), np.uint8)
        for place in cells_in(self._holders(box)):
            frame = self._frame(place)
            common = intersect(frame, box)
            out[inside(common, box)] = self._decoded(place)[inside(common, frame)]
        return out

    def _encoded(self, place: Block, pixels: np.ndarray, touched: np.ndarray) -> bytes:
        if self._page.compression == JPEG:
            return with_blocks(self._jpeg(self._number(place)), pixels, touched)
        if self._page.predictor != 1:
            pixels = TIFF.PREDICTORS[self._page.predictor](pixels, axis=1)
        return TIFF.COMPRESSORS[self._page.compression](np.ascontiguousarray(pixels).tobytes())

    def _replace(self, place: Block, data: bytes, mask: np.ndarray) -> None:
        """Append a new tile, after a check that its pixels outside the mask stay as they were."""
        number = self._number(place)
        if self.unit != (1, 1):
            around = _spread(mask) if self.unit != (8, 8) else mask
            same = self._decode(data, number, None) == self._decoded(place)
            if not same[~around].all():
                raise SlideError("a tile cannot be changed without loss: choose another format")
        file = self._tiff.filehandle
        file.seek(0, 2)
        start = file.tell() + file.tell() % 2
        if not self._tiff.is_bigtiff and start + len(data) >= MOST_CLASSIC:
            raise OutputError("the slide would exceed 4 GB, more than this kind of TIFF can hold")
        file.seek(start)
        file.write(data)
        self._starts[number], self._lengths[number] = start, len(data)

    def _write_tables(self) -> None:
        for tag, values in ((324, self._starts), (325, self._lengths)):
            kind = "Q" if self._tiff.is_bigtiff else "I"
            self._page.tags[tag].overwrite(values, dtype=kind, erase=False)


def _bounds(mask: np.ndarray, frame: Box) -> Box:
    """Return the smallest box that holds a mask of a frame."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y, x = frame[:2]
    return int(rows[0]) + y, int(columns[0]) + x, int(rows[-1]) + 1 + y, int(columns[-1]) + 1 + x


def _spread(mask: np.ndarray) -> np.ndarray:
    """Return a mask with its neighbours, which decoders of chroma mix with it."""
    return np.asarray(scipy.ndimage.binary_dilation(mask, np.ones((3, 3))))

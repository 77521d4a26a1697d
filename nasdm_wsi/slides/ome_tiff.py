"""The writer of OME-TIFF: one pyramidal, tiled file that slide viewers open with all its levels.

The levels are SubIFDs of the first image, where OME-TIFF (schema 2016-06), and with it Bio-Formats
and QuPath, look for them. They are also linked into the main chain of pages, where OpenSlide looks.
The pixel size is in the resolution tags of every level and in the OME-XML. Axis order is (y, x),
mpp is micrometres per pixel of level 0.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO
from xml.sax.saxutils import escape

import numpy as np
from tifffile import TiffFile, TiffWriter

from ..output import whole_or_nothing
from .pyramid import Progress, Pyramid, Shape, halved

BIGTIFF_BYTES = 2**31  # of pixels; a classic TIFF can address twice as many bytes


def write_tiles(
    path: str | Path,
    pyramid: Pyramid,
    tiles: Callable[[int], Iterable[bytes]],
    *,
    mpp: float,
    description: str,
    progress: Progress | None = None,
) -> None:
    """Write encoded tiles to a file, which replaces an existing one when it is complete.

    The same tiles give the same bytes.

    Args:
        tiles: returns the tiles of a level in raster order; it is called for the finest level
            first.
        mpp: micrometres per pixel of level 0.
        description: free text for the OME description.
        progress: called with the number of tiles written and of all tiles.

    Raises:
        ValueError: mpp is not positive.
        OutputError: the file cannot be written.
    """
    with whole_or_nothing(Path(path)) as whole:
        _write(whole, pyramid, tiles, mpp=mpp, description=description, progress=progress)


def write(
    path: str | Path,
    pixels: Any,
    *,
    mpp: float,
    description: str,
    progress: Progress | None = None,
    **encoding: Any,
) -> None:
    """Write an array as a pyramid, as `write_tiles` does, with a few rows of tiles in memory.

    Args:
        pixels: RGB or labels with a shape and dtype that `Pyramid` allows: a numpy or zarr array,
            or anything else that can be sliced by rows.
        encoding: further arguments of `Pyramid`.

    Raises:
        ValueError: `Pyramid` does not allow an argument, or mpp is not positive.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    pyramid = Pyramid(tuple(pixels.shape), str(pixels.dtype), **encoding)
    with (
        whole_or_nothing(path) as whole,
        TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as levels,
    ):
        tiles = partial(_tiles, pixels, pyramid, Path(levels))
        _write(whole, pyramid, tiles, mpp=mpp, description=description, progress=progress)


def _tiles(pixels: Any, pyramid: Pyramid, levels: Path, level: int) -> Iterator[bytes]:
    """Yield the encoded tiles of a level, and write the next level to a file in ``levels``."""
    source = pixels
    if level:
        source = _Stored(levels / str(level), pyramid.shapes[level], pixels.dtype)
    with open(levels / str(level + 1), "wb") as sink, ThreadPoolExecutor() as pool:
        for row in _rows(source, side=pyramid.tile, sink=sink):
            yield from pool.map(pyramid.encode, row)


def _write(
    whole: Path,
    pyramid: Pyramid,
    tiles: Callable[[int], Iterable[bytes]],
    *,
    mpp: float,
    description: str,
    progress: Progress | None,
) -> None:
    if not mpp > 0:
        raise ValueError("mpp must be positive")
    text = _ome_xml(pyramid, mpp=mpp, description=description)
    tags: dict[str, Any] = dict(
        tile=(pyramid.tile, pyramid.tile),
        dtype=pyramid.dtype,
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
        metadata=None,
        software=False,
        **_encoding_tags(pyramid),
    )
    shapes, done = pyramid.shapes, itertools.count(1)

    def counted(level: int) -> Iterator[bytes]:
        for tile in tiles(level):
            if progress:
                progress(next(done), pyramid.tiles)
            yield tile

    with TiffWriter(whole, bigtiff=pyramid.nbytes >= BIGTIFF_BYTES, byteorder="<") as tiff:
        for level, shape in enumerate(shapes):
            place: dict[str, Any] = {"subfiletype": 1}
            if not level:
                place = {"subifds": len(shapes) - 1, "description": text}
            tiff.write(counted(level), shape=shape, **place, **tags)
    _link_levels(whole)


def _encoding_tags(pyramid: Pyramid) -> dict[str, Any]:
    """Return the arguments of tifffile that say how tiles are encoded."""
    photometric = "rgb" if len(pyramid.shape) == 3 else "minisblack"
    if pyramid.deflated:
        return {"photometric": photometric, "compression": "zlib", "predictor": True}
    return {
        "photometric": photometric,
        "compression": "jpeg",
        "subsampling": pyramid.subsampling,
    }


@dataclass(frozen=True)
class _Stored:
    """A level on disk, of which a slice of rows is read when it is asked for."""

    path: Path
    shape: Shape
    dtype: np.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        row = math.prod(self.shape[1:])
        flat = np.fromfile(
            self.path,
            self.dtype,
            count=(stop - start) * row,
            offset=start * row * self.dtype.itemsize,
        )
        return flat.reshape(stop - start, *self.shape[1:])


def _rows(pixels: Any, *, side: int, sink: BinaryIO) -> Iterator[list[np.ndarray]]:
    """Yield the rows of tiles of a level, while those of the next level go to ``sink``."""
    for y in range(0, pixels.shape[0], side):
        rows = np.asarray(pixels[y : y + side])
        # A plain write fails when the disk is full, where a memory map would kill the process.
        sink.write(halved(rows).tobytes())
        yield [rows[:, x : x + side] for x in range(0, pixels.shape[1], side)]


def _link_levels(path: Path) -> None:
    """Link the SubIFDs into the main chain of pages.

    Each page ends with the offset of the next. Bio-Formats reads levels only from SubIFDs and
    OpenSlide only from the chain; both accept a file in which these are the same pages.
    """
    with TiffFile(path) as tiff:
        page, form = tiff.pages.first, tiff.tiff
        pages = [page.offset, *(page.subifds or ())]
    with path.open("r+b") as file:
        for here, following in itertools.pairwise(pages):
            file.seek(here)
            (tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
            file.seek(here + form.tagnosize + tags * form.tagsize)
            file.write(struct.pack(form.offsetformat, following))


def _ome_xml(pyramid: Pyramid, *, mpp: float, description: str) -> bytes:
    """Return the OME-XML of one image, as UTF-8.

    The encoding is not ASCII, because Bio-Formats silently ignores the pyramid if the micro sign is
    a character reference.
    """
    h, w, *channels = pyramid.shape
    samples = 3 if channels else 1
    objective = float(f"{10 / mpp:.2g}")  # by convention, 20x is 0.5 micrometres
    legible = "".join(c for c in description if c.isprintable() or c in "\n\t")
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="http://www.openmicroscopy.org/Schemas/OME/2016-06 \
http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd">
<Instrument ID="Instrument:0"><Objective ID="Objective:0" NominalMagnification="{objective:g}"/>\
</Instrument>
<Image ID="Image:0"><Description>{escape(legible)}</Description>
<InstrumentRef ID="Instrument:0"/><ObjectiveSettings ID="Objective:0"/>
<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{pyramid.dtype}" Interleaved="true" \
SizeX="{w}" SizeY="{h}" SizeC="{samples}" SizeZ="1" SizeT="1" \
PhysicalSizeX="{mpp}" PhysicalSizeXUnit="µm" PhysicalSizeY="{mpp}" PhysicalSizeYUnit="µm">
<Channel ID="Channel:0:0" SamplesPerPixel="{samples}"/><TiffData IFD="0" PlaneCount="1"/>
</Pixels></Image></OME>""".encode()

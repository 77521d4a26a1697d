"""Pixels to one pyramidal, tiled OME-TIFF that every slide viewer opens with all its levels.

The levels are SubIFDs of the first image, where OME-TIFF (schema 2016-06) and with it Bio-Formats
and QuPath look for them, and also stand in the main chain of pages, where OpenSlide looks. Pixel
size stands in the resolution tags of every level and in the OME-XML. Axis order is (y, x), mpp is
micrometres per pixel of level 0.
"""

from __future__ import annotations

import itertools
import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO
from xml.sax.saxutils import escape

import numpy as np
from tifffile import TiffFile, TiffWriter

from .errors import OutputError

BIGTIFF_BYTES = 2**31  # of pixels: half of what a classic TIFF can address
BUFFER_BYTES = 2**26  # of tiles on their way through the encoder

Shape = tuple[int, ...]
Progress = Callable[[int, int], None]


def write_pyramid(
    path: str | Path,
    pixels: Any,
    *,
    mpp: float,
    description: str,
    quality: int = 85,
    lossless: bool = False,
    tile: int = 512,
    progress: Progress | None = None,
) -> None:
    """Write ``pixels`` as a pyramid; an existing file is replaced once the new one is whole.

    The same arguments give the same bytes. Memory is bounded by a few rows of tiles.

    Args:
        pixels: RGB uint8 (h, w, 3), or labels uint8, uint16 or uint32 (h, w), which must be
            lossless: a numpy or zarr array, or whatever else can be sliced by rows. RGB levels
            are means of 2 x 2 pixels, label levels take every second pixel.
        mpp: micrometres per pixel.
        description: free text, for the OME description.
        quality: of the JPEG tiles.
        lossless: deflate instead of JPEG.
        tile: pixels a side of a tile, a multiple of 16.
        progress: called with the tiles done and the tiles in all.

    Raises:
        ValueError: an argument is not as above.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    check_pixels(pixels, lossless=lossless)
    if tile < 16 or tile % 16 or not mpp > 0:
        raise ValueError("tile must be a multiple of 16 and mpp positive")
    options = dict(
        tile=(tile, tile),
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
        metadata=None,
        software=False,
        buffersize=BUFFER_BYTES,
        **_encoding(pixels, lossless=lossless, quality=quality),
    )
    text = _ome_xml(pixels, mpp=mpp, description=description)
    try:
        with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            whole = Path(folder, "whole.tif")
            _write_levels(whole, pixels, text=text, options=options, progress=progress)
            _link_levels(whole)
            os.replace(whole, path)
    except OSError as error:
        # Level 0, its pyramid (a third of it) and the copy of the pyramid that is made on the way.
        size = math.prod(pixels.shape) * pixels.dtype.itemsize * 5 // 3
        raise OutputError(
            f"{path}: cannot be written ({error}); it takes up to {size} bytes of free disk"
        ) from error


def check_pixels(pixels: Any, *, lossless: bool) -> None:
    """Refuse arrays that are neither RGB nor labels, and lossy labels."""
    rgb = len(pixels.shape) == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    labels = len(pixels.shape) == 2 and pixels.dtype in (np.uint8, np.uint16, np.uint32)
    if not (rgb or labels) or 0 in pixels.shape:
        raise ValueError(f"{pixels.dtype} {tuple(pixels.shape)} is neither RGB nor labels")
    if labels and not lossless:
        raise ValueError("labels must be written lossless")


def _encoding(pixels: Any, *, lossless: bool, quality: int) -> dict[str, Any]:
    """The arguments of tifffile that say how tiles are encoded."""
    photometric = "rgb" if len(pixels.shape) == 3 else "minisblack"
    if lossless:
        return {"photometric": photometric, "compression": "zlib", "predictor": True}
    return {
        "photometric": photometric,
        "compression": "jpeg",
        "compressionargs": {"level": quality},
        # Never 4:4:4: Bio-Formats converts such tiles to RGB twice and shows them pink.
        "subsampling": (2, 2) if quality < 90 else (2, 1),
    }


def level_shapes(shape: Shape, tile: int) -> list[Shape]:
    """The shapes of all levels: halved, rounding up, until the larger side fits in a tile."""
    shapes = [tuple(shape)]
    while max(shapes[-1][:2]) > tile:
        h, w, *rest = shapes[-1]
        shapes.append((-(-h // 2), -(-w // 2), *rest))
    return shapes


def _write_levels(
    path: Path,
    pixels: Any,
    *,
    text: bytes,
    options: dict[str, Any],
    progress: Progress | None,
) -> None:
    """Write level 0 and its SubIFDs. Each level is left beside ``path`` for the next to read."""
    side, dtype = options["tile"][0], pixels.dtype
    shapes = level_shapes(pixels.shape, side)
    total = sum(math.ceil(h / side) * math.ceil(w / side) for h, w, *_ in shapes)
    done = itertools.count(1)

    def counted(tile: np.ndarray) -> np.ndarray:
        if progress:
            progress(next(done), total)
        return tile

    big = math.prod(shapes[0]) * dtype.itemsize * 4 // 3 >= BIGTIFF_BYTES
    with TiffWriter(path, bigtiff=big, byteorder="<") as tiff:
        for level, shape in enumerate(shapes):
            place: dict[str, Any] = (
                {"subfiletype": 1} if level else {"subifds": len(shapes) - 1, "description": text}
            )
            halved = path.with_name(f"level{level + 1}")
            with halved.open("wb") as sink:
                tiles = map(counted, _tiles(pixels, side=side, sink=sink))
                tiff.write(tiles, shape=shape, dtype=dtype, **place, **options)
            if shape != shapes[-1]:
                pixels = _Stored(halved, shapes[level + 1], dtype)


@dataclass(frozen=True)
class _Stored:
    """A level on disk, mapped anew for each slice so that rows that are done leave memory."""

    path: Path
    shape: Shape
    dtype: np.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.memmap(self.path, self.dtype, mode="r", shape=self.shape)[rows]


def _tiles(pixels: Any, *, side: int, sink: BinaryIO) -> Iterator[np.ndarray]:
    """The tiles of a level in raster order, while the rows of the next level go to ``sink``.

    Tiles are whole: what lies beyond the image is white, in labels background.
    """
    h, w, *channels = pixels.shape
    beyond = 255 if channels else 0
    for y in range(0, h, side):
        rows = np.asarray(pixels[y : y + side])
        # A plain write fails when the disk is full, where a memory map would kill the process.
        sink.write(halved(rows).tobytes())
        for x in range(0, w, side):
            part = rows[:, x : x + side]
            tile = np.full((side, side, *channels), beyond, rows.dtype)
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def halved(rows: np.ndarray) -> np.ndarray:
    """Half the size, rounding up: RGB by the mean of 2 x 2 (halves go up), labels by choice."""
    if rows.ndim == 2:
        return rows[::2, ::2]
    h, w, _ = rows.shape
    even = np.pad(rows, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge").astype(np.uint16)
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


def _link_levels(path: Path) -> None:
    """Put the SubIFDs into the main chain of pages, and the file safely on disk.

    Each page ends with the offset of the next. Bio-Formats takes levels from SubIFDs only,
    OpenSlide from the chain only, and both take a file in which the two are the same pages.
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
        file.flush()
        os.fsync(file.fileno())


def _ome_xml(pixels: Any, *, mpp: float, description: str) -> bytes:
    """The OME-XML of one image, as UTF-8.

    As UTF-8 and not ASCII: a micro sign as a character reference makes Bio-Formats drop the
    pyramid without a word.
    """
    h, w, *channels = pixels.shape
    samples = 3 if channels else 1
    objective = float(f"{10 / mpp:.2g}")  # a 20x objective is said to give 0.5 micrometres
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
<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{pixels.dtype}" Interleaved="true" \
SizeX="{w}" SizeY="{h}" SizeC="{samples}" SizeZ="1" SizeT="1" \
PhysicalSizeX="{mpp}" PhysicalSizeXUnit="µm" PhysicalSizeY="{mpp}" PhysicalSizeYUnit="µm">
<Channel ID="Channel:0:0" SamplesPerPixel="{samples}"/><TiffData IFD="0" PlaneCount="1"/>
</Pixels></Image></OME>""".encode()

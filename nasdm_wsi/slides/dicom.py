"""The writer and reader of DICOM whole slides: a folder with a file for each level.

A level is a VL Whole Slide Microscopy Image, tiled full, whose frames are the JPEG tiles as they
were encoded. DICOM has no deflated frames, so tiles without loss become JPEG 2000. Thumbnail, label
and overview (the macro picture) are files of their own. Frames are encapsulated as in PS3.5 A.4:
one fragment a frame, with a table of their offsets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from openslide import OpenSlide
from pydicom import Dataset, dcmwrite
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit

from ..errors import SlideError
from ..output import whole_or_nothing
from .associated import MACRO, label_picture, macro_picture
from .dicom_attributes import Identity, Instance, attributes, file_meta
from .pyramid import Progress, Pyramid
from .tiling import Counted, Tiles, pixel_writer

FIRST = "level-0.dcm"
ASSOCIATED_QUALITY = 90  # of the JPEGs of thumbnail, label and overview
GLASS_WIDTH = 75.0  # millimetres, which the overview shows
ITEM, DELIMITER = 0xE000, 0xE0DD  # elements of the group FFFE
LARGEST = 2**32  # bytes of pixels of a level, from which on offsets may need 64 bits


def write_tiles(
    path: str | Path,
    pyramid: Pyramid,
    tiles: Tiles,
    *,
    mpp: float,
    description: str,
    progress: Progress | None = None,
) -> None:
    """Write encoded tiles to a folder; arguments and errors are those of `ome_tiff.write_tiles`.

    UIDs follow from the description, the size and the encoding.

    Raises:
        ValueError: mpp is not positive, or the pyramid has labels instead of RGB.
    """
    if len(pyramid.shape) != 3 or not mpp > 0:
        raise ValueError("a DICOM slide has RGB pixels and a positive mpp")
    identity = Identity(f"{pyramid.shape} {pyramid.encoding} {mpp} {description}")
    told: dict[str, Any] = {"mpp": mpp, "description": description, "version": version("nasdm-wsi")}
    encoded = Counted(pyramid, tiles, progress)
    with whole_or_nothing(Path(path)) as whole:
        whole.mkdir()
        for level in range(len(pyramid.shapes)):
            instance = _level(pyramid, level, mpp)
            data = attributes(instance, identity, **told)
            frames = encoded(level)
            if pyramid.lossless:
                frames = (_jpeg2000(pyramid.decode(tile)) for tile in frames)
            _write(whole / f"level-{level}.dcm", data, frames, lossless=pyramid.lossless)
        for name, instance, pixels in _associated(pyramid, encoded.thumbnail(), mpp):
            data = attributes(instance, identity, **told)
            _write(whole / f"{name}.dcm", data, [_jpeg(pixels)])


write = pixel_writer(write_tiles)


def _level(pyramid: Pyramid, level: int, mpp: float) -> Instance:
    side, spacing = pyramid.tile, mpp * 2**level / 1000
    h, w = pyramid.shapes[level][:2]
    return Instance(
        number=level + 1,
        kind="VOLUME",
        size=(h, w),
        tile=(side, side),
        spacing=(spacing, spacing),
        resampled=level > 0,
        encoding="JPEG 2000 without loss" if pyramid.lossless else pyramid.encoding,
        lossless=pyramid.lossless,
    )


def _associated(
    pyramid: Pyramid, thumbnail: np.ndarray, mpp: float
) -> Iterator[tuple[str, Instance, np.ndarray]]:
    """Yield the name, the instance and the pixels of thumbnail, label and overview."""
    first = len(pyramid.shapes) + 1
    spacings = (mpp * 2 ** (first - 2) / 1000, *(GLASS_WIDTH / MACRO[0],) * 2)
    pictures = (thumbnail, label_picture(), macro_picture(thumbnail))
    kinds = ("THUMBNAIL", "LABEL", "OVERVIEW")
    for k, (kind, pixels, spacing) in enumerate(zip(kinds, pictures, spacings, strict=True)):
        h, w = pixels.shape[:2]
        yield (
            kind.lower(),
            Instance(
                number=first + k,
                kind=kind,
                size=(h, w),
                tile=(h, w),
                spacing=(spacing, spacing),
                resampled=kind == "THUMBNAIL",
                encoding=f"JPEG {ASSOCIATED_QUALITY}",
            ),
            pixels,
        )


def _jpeg(pixels: np.ndarray) -> bytes:
    encoded = imagecodecs.jpeg8_encode(
        pixels,
        level=ASSOCIATED_QUALITY,
        colorspace="RGB",
        outcolorspace="YCBCR",
        subsampling=(2, 1),
    )
    return bytes(encoded)


def _jpeg2000(pixels: np.ndarray) -> bytes:
    """Encode without loss, and without a transform of colours, which OpenSlide does not know."""
    encoded = imagecodecs.jpeg2k_encode(
        pixels, level=0, reversible=True, mct=False, codecformat="j2k"
    )
    return bytes(encoded)


def _write(path: Path, data: Dataset, frames: Iterable[bytes], *, lossless: bool = False) -> None:
    """Write a file frame by frame.

    Its head depends on the lengths of the frames, but its length does not, so it is written again
    when they are known.
    """
    lengths: list[int] = []
    with path.open("wb") as file:
        file.write(_head(data, [0] * data.NumberOfFrames, lossless=lossless))
        for frame in frames:
            even = frame + b"\0" * (len(frame) % 2)
            file.write(_tag(ITEM, len(even)) + even)
            lengths.append(len(even))
        file.write(_tag(DELIMITER, 0))
        file.seek(0)
        file.write(_head(data, lengths, lossless=lossless))


def _head(data: Dataset, lengths: list[int], *, lossless: bool) -> bytes:
    """Return the file up to its first frame: attributes and the table of offsets of the frames."""
    frame = 3 * data.Rows * data.Columns
    if not lossless:
        ratio = frame * len(lengths) / max(1, sum(lengths))
        data.LossyImageCompressionRatio = f"{min(ratio, 99999):010.4f}"
    items = np.array(lengths, np.uint64) + 8  # each with its tag
    offsets = np.cumsum(items) - items
    table = b""
    if frame * len(lengths) < LARGEST:
        table = offsets.astype("<u4").tobytes()
    else:
        data.ExtendedOffsetTable = offsets.astype("<u8").tobytes()
        data.ExtendedOffsetTableLengths = np.array(lengths, "<u8").tobytes()
    head = BytesIO()
    data.file_meta = file_meta(data, JPEG2000Lossless if lossless else JPEGBaseline8Bit)
    dcmwrite(head, data, enforce_file_format=True)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    return head.getvalue() + pixels + _tag(ITEM, len(table)) + table


def _tag(element: int, length: int) -> bytes:
    """Return the tag of an item, or of the end of items, with its length."""
    return struct.pack("<HHI", 0xFFFE, element, length)


def finest(slide: str | Path) -> Path:
    """Return the file of the finest level of a slide of ours; else any DICOM file of the folder.

    A path of a file is returned as it is.

    Raises:
        SlideError: the folder has no DICOM file.
    """
    slide = Path(slide)
    if not slide.is_dir():
        return slide
    files = sorted(slide.glob("*.dcm"), key=lambda file: (file.name != FIRST, file.name))
    if not files:
        raise SlideError(f"{slide}: there is no DICOM file in this folder")
    return files[0]


class Reader(OpenSlide):
    """A DICOM slide: a folder with the files of one, or one of these files.

    Raises:
        SlideError: the folder has no DICOM file.
    """

    def __init__(self, path: str | Path):
        super().__init__(finest(path))

    @property
    def properties(self) -> Mapping[str, str]:
        """Those of OpenSlide, with our description as the comment."""
        told = dict(super().properties)
        return {"openslide.comment": told.get("dicom.ImageComments", ""), **told}

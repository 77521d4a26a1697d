"""What the TIFF formats share: the tags of pages of encoded tiles, and the chain of pages."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tifffile import PHOTOMETRIC, TiffFile, TiffWriter

from .pyramid import Pyramid

LOSSLESS = (1, 5, 8, 32946, 50000)  # TIFF's numbers: none, LZW, deflate (two of them), zstd
BIGTIFF_BYTES = 2**31  # of pixels; a classic TIFF can address twice as many bytes


def shows_rgb(page: Any) -> bool:
    """Return whether the numbers of a page are grey or RGB once its compression is undone.

    Those of a palette or of CMYK are not; decoders of JPEG turn YCbCr into RGB.
    """
    if page.photometric == PHOTOMETRIC.YCBCR:
        return page.compression not in LOSSLESS
    return page.photometric in (PHOTOMETRIC.RGB, PHOTOMETRIC.MINISBLACK)


def tiff_writer(path: Path, pyramid: Pyramid) -> TiffWriter:
    """Open a TIFF for a pyramid: a BigTIFF if it may need more than 32 bits of address."""
    return TiffWriter(path, bigtiff=pyramid.nbytes >= BIGTIFF_BYTES, byteorder="<")


def page_tags(pyramid: Pyramid, *, mpp: float) -> dict[str, Any]:
    """Return the arguments of tifffile for the page of any level.

    ``mpp`` is micrometres per pixel of level 0. It is stated on every page, because readers take
    the resolution of the page that they open first for that of the slide.

    Raises:
        ValueError: mpp is not positive.
    """
    if not mpp > 0:
        raise ValueError("mpp must be positive")
    return {
        "tile": (pyramid.tile, pyramid.tile),
        "dtype": pyramid.dtype,
        "resolution": (1e4 / mpp, 1e4 / mpp),
        "resolutionunit": "CENTIMETER",
        "metadata": None,
        "software": False,
        **_encoding_tags(pyramid),
    }


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


def link_pages(path: Path, offsets: Sequence[int]) -> None:
    """Make a chain of the pages at these offsets; the first must be the first of the file.

    Each page ends with the offset of the next.
    """
    with TiffFile(path) as tiff:
        form = tiff.tiff
    with path.open("r+b") as file:
        for here, following in itertools.pairwise([*offsets, 0]):
            file.seek(here)
            (tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
            file.seek(here + form.tagnosize + tags * form.tagsize)
            file.write(struct.pack(form.offsetformat, following))

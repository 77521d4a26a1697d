r"""The writer of Aperio SVS, which OpenSlide opens as ``aperio``, with power and associated images.

The pages follow each other as in files of Aperio's scanners: the slide, its thumbnail, the lower
levels, the label and the macro picture. The first page's ImageDescription is a headline, then
``|key = value`` pairs, of which readers take AppMag and MPP; the pair ``nasdm-wsi`` holds our
description. The format is described at https://openslide.org/formats/aperio and in Aperio's
"Digital Slides and Third-Party Data Interchange" (MAN-0069).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tifffile import TiffFile, TiffWriter

from ..output import whole_or_nothing
from .associated import label_picture, macro_picture
from .pyramid import Progress, Pyramid, Shape, objective_power
from .tiff import link_pages, page_tags, tiff_writer
from .tiling import Counted, Tiles, pixel_writer

HEADLINE = "Aperio Image Library (not Aperio's: synthetic, written by nasdm-wsi)"
OURS = "nasdm-wsi"  # key of the description
LABEL_PAGE, MACRO_PAGE = 1, 9  # values of NewSubfileType


def write_tiles(
    path: str | Path,
    pyramid: Pyramid,
    tiles: Tiles,
    *,
    mpp: float,
    description: str,
    progress: Progress | None = None,
) -> None:
    """Write encoded tiles to a file; arguments and errors are those of `ome_tiff.write_tiles`.

    Raises:
        ValueError: mpp is not positive, or the pyramid has labels instead of RGB.
    """
    if len(pyramid.shape) != 3:
        raise ValueError("an Aperio slide has RGB pixels")
    tags = page_tags(pyramid, mpp=mpp)
    pairs = _pairs(mpp, description)
    encoded = Counted(pyramid, tiles, progress)
    with whole_or_nothing(Path(path)) as whole:
        with tiff_writer(whole, pyramid) as tiff:
            for level, shape in enumerate(pyramid.shapes):
                text = _headline(pyramid, level) + pairs
                tiff.write(encoded(level), shape=shape, description=text.encode(), **tags)
            _write_associated(tiff, encoded.thumbnail(), pyramid.shape, pairs)
        _order_pages(whole, levels=len(pyramid.shapes))


write = pixel_writer(write_tiles)


def description_of(comment: str) -> str:
    """Return the description in the ImageDescription of an SVS of ours; any other unchanged."""
    _, found, ours = comment.partition(f"|{OURS} = ")
    return ours if found else comment


def _headline(pyramid: Pyramid, level: int) -> str:
    """Return the first line and the sizes, as Aperio's scanners state them."""
    (h, w, _), (height, width, _) = pyramid.shape, pyramid.shapes[level]
    reduced = f" -> {width}x{height}" if level else ""
    tile, encoding = pyramid.tile, "deflate" if pyramid.deflated else f"JPEG Q={pyramid.quality}"
    return f"{HEADLINE}\r\n{w}x{h} [0,0 {w}x{h}] ({tile}x{tile}){reduced} {encoding}"


def _pairs(mpp: float, description: str) -> str:
    """Return the pairs of key and value; ours is the last.

    A bar would begin another pair, so it is written as JSON writes any character.
    """
    ours = " ".join(description.replace("|", "\\u007c").split())
    return f"|AppMag = {objective_power(mpp):g}|MPP = {mpp:.10g}|{OURS} = {ours}"


def _write_associated(tiff: TiffWriter, thumbnail: np.ndarray, shape: Shape, pairs: str) -> None:
    """Write thumbnail, label and macro picture; readers know them by the descriptions."""
    h, w = thumbnail.shape[:2]
    pictures = (
        (thumbnail, 0, f"{shape[1]}x{shape[0]} -> {w}x{h} - {pairs}"),
        (label_picture(), LABEL_PAGE, "label {1}x{0}"),
        (macro_picture(thumbnail), MACRO_PAGE, "macro {1}x{0}"),
    )
    for pixels, kind, text in pictures:
        named = text.format(*pixels.shape) if kind else text
        tiff.write(
            pixels,
            photometric="rgb",
            compression="jpeg",
            compressionargs={"level": 90},
            subsampling=(2, 2),
            subfiletype=kind,
            description=f"{HEADLINE}\r\n{named}".encode(),
            metadata=None,
            software=False,
        )


def _order_pages(path: Path, *, levels: int) -> None:
    """Put the thumbnail, which is made of the last level, behind the first page."""
    with TiffFile(path) as tiff:
        offsets = [page.offset for page in tiff.pages]
    thumbnail = offsets.pop(levels)
    link_pages(path, [offsets[0], thumbnail, *offsets[1:]])

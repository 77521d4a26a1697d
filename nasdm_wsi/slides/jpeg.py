"""Change some blocks of a JPEG and keep all others without any loss.

A JPEG stores the coefficients of blocks of 8 x 8 samples (ITU-T T.81). The smallest part that can
be replaced is the unit in which the components are interleaved (MCU): 8 x 8 pixels, or 16 x 8 or
16 x 16 where chroma has half the resolution. New pixels are encoded with the quantisation tables of
the file, so they show the same traces of compression as the pixels round them.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from ..errors import SlideError

SUBSAMPLING = {(1, 1): 0, (1, 2): 1, (2, 2): 2}  # Pillow's number for factors in y and x
_START, _JFIF, _ADOBE, _SCAN = b"\xff\xd8", 0xE0, 0xEE, 0xDA


def joined(tables: bytes | None, stream: bytes) -> bytes:
    """Return the whole JPEG of an abbreviated stream and its tables, as TIFF stores them."""
    return tables[:-2] + stream[2:] if tables else stream


def unit_of(jpeg: bytes) -> tuple[int, int]:
    """Return the height and width in pixels of the smallest part that can be replaced.

    Raises:
        SlideError: the file is progressive, is not of three components, or has unusual factors.
    """
    with TemporaryDirectory() as folder:
        return _unit(_coefficients(Path(folder, "jpeg"), jpeg))


def with_blocks(jpeg: bytes, pixels: np.ndarray, blocks: np.ndarray) -> bytes:
    """Return a JPEG in which some blocks show other pixels; the others are not decoded.

    Args:
        pixels: uint8 (h, w, 3) of the whole picture, in the colours that the file stores: RGB, or
            RGB that the file stores as YCbCr.
        blocks: bool (rows, columns): the units (`unit_of`) to replace.

    Raises:
        SlideError: as `unit_of`, or the file cannot be changed in this way.
    """
    with TemporaryDirectory() as folder:
        ours = _coefficients(Path(folder, "ours"), jpeg)
        _unit(ours)
        tables = [table.ravel().tolist() for table in ours.qt]
        new = Path(folder, "new")
        Image.fromarray(pixels).save(
            new,
            "JPEG",
            qtables=tables,
            subsampling=SUBSAMPLING[_factors(ours)],
            keep_rgb=_is_rgb(ours),
        )
        theirs = _coefficients(new)
        for name in ("Y", "Cb", "Cr"):
            whole, part = getattr(ours, name), getattr(theirs, name)
            tall, wide = (n // m for n, m in zip(whole.shape[:2], blocks.shape, strict=True))
            at = blocks.repeat(tall, 0).repeat(wide, 1)
            whole[at] = part[: at.shape[0], : at.shape[1]][at]
        ours.write_dct(str(new))
        return _with_markers_of(jpeg, new.read_bytes())


def _coefficients(path: Path, jpeg: bytes | None = None) -> Any:
    """Return the coefficients of a file, which is written first if its bytes are given."""
    import jpeglib

    if jpeg is not None:
        path.write_bytes(jpeg)
    try:
        return jpeglib.read_dct(str(path))
    except Exception as error:  # whatever a library raises at a damaged file
        raise SlideError(f"a JPEG tile cannot be read ({error}): is the slide complete?") from error


def _factors(coefficients: Any) -> tuple[int, int]:
    """Return how many times as many luma as chroma samples there are in y and x."""
    y, x = coefficients.samp_factor[0]
    return int(y), int(x)


def _is_rgb(coefficients: Any) -> bool:
    """Return whether the components are RGB: they then share one table and one resolution."""
    return len(set(coefficients.quant_tbl_no.tolist())) == 1


def _unit(coefficients: Any) -> tuple[int, int]:
    plain = coefficients.samp_factor[1:].tolist() == [[1, 1], [1, 1]]
    if not plain or coefficients.progressive_mode or _factors(coefficients) not in SUBSAMPLING:
        raise SlideError("JPEG tiles of an unusual kind cannot be changed without loss")
    y, x = _factors(coefficients)
    return 8 * y, 8 * x


def _with_markers_of(jpeg: bytes, changed: bytes) -> bytes:
    """Return the changed file without a JFIF header, and with the Adobe marker that the first has.

    Either would tell a decoder in which colours the components are.
    """
    adobe = [jpeg[a:b] for kind, a, b in _segments(jpeg) if kind == _ADOBE]
    kept = [changed[a:b] for kind, a, b in _segments(changed) if kind not in (_JFIF, _ADOBE)]
    return b"".join([_START, *adobe, *kept])


def _segments(jpeg: bytes) -> list[tuple[int, int, int]]:
    """Return (marker, start, end) of the segments; the last is the scan, to the end of the file."""
    found, at = [], len(_START)
    while jpeg[at + 1] != _SCAN:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        found.append((jpeg[at + 1], at, end))
        at = end
    return [*found, (_SCAN, at, len(jpeg))]

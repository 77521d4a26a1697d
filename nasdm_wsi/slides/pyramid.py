"""The levels of a slide and their tiles: sizes, places and encoding, whatever the file format.

Each level is half the size of the one before. Axis order is (y, x), places of tiles are (row,
column).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import imagecodecs
import numpy as np
from PIL import Image

from ..geometry import Block, Box, intersect, square_box

Shape = tuple[int, ...]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Pyramid:
    """The division of a picture into levels and tiles, and the encoding of the tiles.

    Attributes:
        shape: RGB (h, w, 3), or labels (h, w).
        dtype: uint8; for labels also uint16 or uint32.
        quality: quality of the JPEG tiles, 1 to 100.
        lossless: whether RGB tiles are deflated instead; labels always are.
        tile: pixels a side of a tile, a multiple of 16.

    Raises:
        ValueError: an argument is not as described.
    """

    shape: Shape
    dtype: str = "uint8"
    quality: int = 85
    lossless: bool = False
    tile: int = 512

    def __post_init__(self) -> None:
        rgb = len(self.shape) == 3 and self.shape[2] == 3 and self.dtype == "uint8"
        labels = len(self.shape) == 2 and self.dtype in ("uint8", "uint16", "uint32")
        if not (rgb or labels) or 0 in self.shape:
            raise ValueError(f"{self.dtype} {self.shape} is neither RGB nor labels")
        if self.tile < 16 or self.tile % 16:
            raise ValueError(f"a tile of {self.tile} pixels: choose a multiple of 16")

    @property
    def deflated(self) -> bool:
        """Whether tiles are deflated; else they are JPEG."""
        return self.lossless or len(self.shape) == 2

    @property
    def encoding(self) -> str:
        """The encoding of the tiles in words."""
        return "deflate" if self.deflated else f"JPEG {self.quality}"

    @cached_property
    def shapes(self) -> list[Shape]:
        """The shape of each level: halved, rounding up, until the larger side fits in a tile."""
        shapes = [self.shape]
        while max(shapes[-1][:2]) > self.tile:
            h, w, *rest = shapes[-1]
            shapes.append((-(-h // 2), -(-w // 2), *rest))
        return shapes

    def grid(self, level: int) -> tuple[int, int]:
        """Return the number of rows and columns of tiles of a level."""
        h, w = self.shapes[level][:2]
        return -(-h // self.tile), -(-w // self.tile)

    def box(self, level: int, place: Block) -> Box:
        """Return the pixels (y0, x0, y1, x1) of a level that the tile in a row and column shows."""
        h, w = self.shapes[level][:2]
        return intersect(square_box(place, self.tile), (0, 0, h, w))

    @property
    def tiles(self) -> int:
        """Number of tiles of all levels."""
        return sum(math.prod(self.grid(level)) for level in range(len(self.shapes)))

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels of all levels."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize * 4 // 3

    @property
    def subsampling(self) -> tuple[int, int]:
        """The subsampling of the colours of JPEG tiles in x and y."""
        # Never 4:4:4: Bio-Formats converts such tiles to RGB twice and shows them pink.
        return (2, 2) if self.quality < 90 else (2, 1)

    def encode(self, pixels: np.ndarray) -> bytes:
        """Return a tile of a level; beyond the picture it is white, or background in labels."""
        beyond = 255 if pixels.ndim == 3 else 0
        tile = np.full((self.tile, self.tile, *pixels.shape[2:]), beyond, self.dtype)
        tile[: pixels.shape[0], : pixels.shape[1]] = pixels
        if self.deflated:
            return bytes(imagecodecs.zlib_encode(imagecodecs.delta_encode(tile, axis=1).tobytes()))
        jpeg = imagecodecs.jpeg8_encode(
            tile,
            level=self.quality,
            colorspace="RGB",
            outcolorspace="YCBCR",
            subsampling=self.subsampling,
        )
        return bytes(jpeg)

    def decode(self, tile: bytes) -> np.ndarray:
        """Return the pixels of an encoded tile, also those beyond the picture."""
        if not self.deflated:
            return np.asarray(imagecodecs.jpeg8_decode(tile))
        flat = np.frombuffer(imagecodecs.zlib_decode(tile), self.dtype)
        pixels = flat.reshape(self.tile, self.tile, *self.shape[2:])
        return np.asarray(imagecodecs.delta_decode(pixels, axis=1))


def halved(pixels: np.ndarray) -> np.ndarray:
    """Half the size, rounding up: RGB by the mean of 2 x 2 (halves go up), labels by choice."""
    return pixels[::2, ::2] if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).reduce(2))


def objective_power(mpp: float) -> float:
    """Return the power of an objective: by convention, 20x has 0.5 micrometres per pixel."""
    return float(f"{10 / mpp:.2g}")

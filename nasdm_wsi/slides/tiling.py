"""Encoded tiles of all levels of an array, with a few rows of tiles in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np

from ..geometry import Box
from ..output import output_errors
from .pyramid import Progress, Pyramid, Shape, halved

Tiles = Callable[[int], Iterable[bytes]]


@dataclass(frozen=True)
class Rows:
    """An array whose rows are made when they are sliced, for writers.

    Attributes:
        pixels: maps a box (y0, x0, y1, x1) to the part of the array there.
        shape: of the array, (h, w) or (h, w, 3).
    """

    pixels: Callable[[Box], np.ndarray]
    shape: tuple[int, ...]
    dtype: np.dtype = np.dtype(np.uint8)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        return self.pixels((start, 0, stop, self.shape[1]))


def pixel_writer(write_tiles: Callable[..., None]) -> Callable[..., None]:
    """Return the function ``write`` of a format, which encodes an array for its ``write_tiles``."""

    def write(path: str | Path, pixels: Any, **settings: Any) -> None:
        """Write an array as a pyramid, with a few rows of tiles in memory.

        Args:
            pixels: RGB or labels with a shape and dtype that `Pyramid` allows: a numpy or zarr
                array, or anything else that can be sliced by rows.
            settings: arguments of ``write_tiles``, and others of `Pyramid`.

        Raises:
            ValueError: an argument that `Pyramid` or ``write_tiles`` does not allow.
            OutputError: the slide cannot be written.
        """
        path, about = Path(path), ("mpp", "description", "progress")
        encoding = {name: value for name, value in settings.items() if name not in about}
        told = {name: value for name, value in settings.items() if name in about}
        pyramid = Pyramid(tuple(pixels.shape), str(pixels.dtype), **encoding)
        with output_errors(path), _encoded(pixels, pyramid, path) as tiles:
            write_tiles(path, pyramid, tiles, **told)

    return write


@contextmanager
def _encoded(pixels: Any, pyramid: Pyramid, path: Path) -> Iterator[Tiles]:
    """Yield what returns the encoded tiles of a level; the finest level must be the first.

    The coarser levels are in a temporary folder beside ``path``. It is made when the first tile is
    asked for: by then the writer has removed what killed processes left there.
    """
    with ExitStack() as cleaning:

        @cache
        def folder() -> Path:
            made = TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")
            return Path(cleaning.enter_context(made))

        def tiles(level: int) -> Iterator[bytes]:
            source = pixels
            if level:
                source = _Stored(folder() / str(level), pyramid.shapes[level], pixels.dtype)
            with open(folder() / str(level + 1), "wb") as sink, ThreadPoolExecutor() as pool:
                for row in _rows(source, side=pyramid.tile, sink=sink):
                    yield from pool.map(pyramid.encode, row)

        yield tiles


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


@dataclass
class Counted:
    """The encoded tiles of a pyramid while a writer takes them, level by level.

    Attributes:
        tiles: returns the tiles of a level.
        progress: called with the number of tiles so far and of all tiles.
        done: how many tiles were taken.
        last: the latest of them.
    """

    pyramid: Pyramid
    tiles: Tiles
    progress: Progress | None
    done: int = 0
    last: bytes = b""

    def __call__(self, level: int) -> Iterator[bytes]:
        """Yield the tiles of a level."""
        for tile in self.tiles(level):
            self.last = tile
            self.done += 1
            if self.progress:
                self.progress(self.done, self.pyramid.tiles)
            yield tile

    def thumbnail(self) -> np.ndarray:
        """Return the pixels of the last level, uint8 (h, w, 3), when all tiles were taken."""
        h, w = self.pyramid.shapes[-1][:2]
        return self.pyramid.decode(self.last)[:h, :w]  # the last level has one tile

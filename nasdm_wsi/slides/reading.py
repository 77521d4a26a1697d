"""Read slides and ordinary images at any resolution.

Axis order is (y, x), a box is (y0, x0, y1, x1), half open, mpp is micrometres per pixel.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from openslide import OpenSlide
from PIL import Image

from ..errors import SlideError
from ..geometry import Box, grow, intersect, shape
from ..notebook import SIDE, png
from .readers import description_of, mpp_of, open_reader, property_of, readable
from .stain import STYLES, style_vector
from .tissue import tissue_mask

MOST_FOR_A_LOOK = 50_000_000  # pixels that are read for a thumbnail in a notebook
TISSUE_SHARE = 0.5  # share of a tile that makes it a tile of tissue
SMALLEST_TILE = 64  # pixels, in images that have no room for many tiles
LEAST_TISSUE = 0.05  # a slide without a tile that has this share has no tissue


class Slide:
    """An open slide; a context manager.

    Attributes:
        size: (h, w) at level 0.
        mpp: micrometres per pixel of level 0; None if the file does not state it. It can be set.
        levels: (h, w) of each level.
        format: the reader's name for the format, such as ``aperio``; ``image`` for pictures.
        bounds: (y, x) at level 0 where the scanned part begins; QuPath counts from there.
        shown: (h, w) at level 0 of the scanned part; QuPath shows nothing else.
        description: the description in the file, or "".
        thread_safe: whether threads may read at the same time, as with OpenSlide.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise SlideError(f"{path}: no such file")
        with readable(self.path):
            self._reader = reader = open_reader(self.path)
            self.levels = tuple((h, w) for w, h in reader.level_dimensions)
            self.size = self.levels[0]
            self.mpp = mpp_of(reader, self.path)
            self.format = str(property_of(reader, "vendor") or "image")
            y, x = (int(property_of(reader, f"bounds-{axis}") or 0) for axis in "yx")
            self.bounds = y, x
            sides = zip(("height", "width"), self.size, self.bounds, strict=True)
            self.shown = tuple(
                int(property_of(reader, f"bounds-{side}") or whole - start)
                for side, whole, start in sides
            )
            self.description = description_of(reader)
            self.thread_safe = isinstance(reader, OpenSlide)
        self._downsamples = tuple(map(_whole_if_close, reader.level_downsamples))

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def known_mpp(self, given: float | None = None) -> float:
        """Return micrometres per pixel of level 0, or the given value if the slide states none.

        Raises:
            SlideError: neither is known.
        """
        mpp = self.mpp or given
        if mpp is None:
            raise SlideError(f"{self.path} does not state its pixel size: give it with `mpp`")
        return mpp

    def read(self, box: Box, *, mpp: float) -> np.ndarray:
        """Return the pixels of ``box``, uint8 (h, w, 3); outside the slide they are white.

        Args:
            box: in pixels of ``mpp``, counted from the corner of the slide.
            mpp: the resolution to read at; also that of the slide if it is unknown.

        Raises:
            SlideError: the file is damaged at that place.
        """
        scale = mpp / (self.mpp or mpp)
        level = self._level(scale)
        ratio = scale / self._downsamples[level]
        y0, x0, y1, x1 = (n * ratio for n in box)
        # The filters reach two pixels of the coarser side, so that boxes meet without a seam.
        reach = 0 if ratio == 1 else math.ceil(2 * max(ratio, 1))
        frame = grow((math.floor(y0), math.floor(x0), math.ceil(y1), math.ceil(x1)), reach)
        height, width = shape(box)
        resampled = self._read_level(level, frame).resize(
            (width, height),
            Image.Resampling.HAMMING if ratio >= 1 else Image.Resampling.BICUBIC,
            box=(x0 - frame[1], y0 - frame[0], x1 - frame[1], y1 - frame[0]),
        )
        return np.asarray(resampled)

    def thumbnail(self, side: int = SIDE) -> np.ndarray:
        """Return the whole slide, uint8 (h, w, 3), whose longer side has at most ``side`` pixels.

        Raises:
            SlideError: the file is damaged.
        """
        scale = max(1.0, max(self.size) / side)
        height, width = (max(1, round(n / scale)) for n in self.size)
        level = self._level(scale)
        whole = self._read_level(level, (0, 0, *self.levels[level]))
        return np.asarray(whole.resize((width, height), Image.Resampling.HAMMING))

    def __repr__(self) -> str:
        h, w = self.size
        mpp = f"{self.mpp:g} mpp" if self.mpp else "unknown mpp"
        levels = f"{len(self.levels)} level{'s' if len(self.levels) > 1 else ''}"
        return f"<Slide {self.path}: {w} x {h} pixels at {mpp}, {levels}, {self.format}>"

    def _repr_png_(self) -> bytes | None:
        """Return a thumbnail for notebooks; None if the slide is closed or slow to read."""
        if math.prod(self.levels[self._level(max(self.size) / SIDE)]) > MOST_FOR_A_LOOK:
            return None
        try:
            return png(self.thumbnail())
        except SlideError:
            return None

    def _level(self, scale: float) -> int:
        """Return the coarsest level whose pixels are at most ``scale`` pixels of level 0 wide."""
        return max(0, sum(down <= scale * 1.01 for down in self._downsamples) - 1)

    def _read_level(self, level: int, frame: Box) -> Image.Image:
        """RGB of ``frame``, in pixels of ``level``, on white."""
        canvas = Image.new("RGB", shape(frame)[::-1], "white")
        seen = intersect(frame, (0, 0, *self.levels[level]))
        height, width = shape(seen)
        if height and width:
            with readable(self.path):
                # OpenSlide reads at fractions of a pixel, tiffslide drops the fraction.
                whole = math.ceil if "tiffslide.vendor" in self._reader.properties else round
                down = self._reader.level_downsamples[level]
                corner = whole(seen[1] * down), whole(seen[0] * down)
                part = self._reader.read_region(corner, level, (width, height)).convert("RGBA")
            canvas.paste(part, (seen[1] - frame[1], seen[0] - frame[0]), mask=part)
        return canvas


def open_slide(path: str | Path) -> Slide:
    """Open a slide or an ordinary image.

    Raises:
        SlideError: the file is missing, damaged or not an image.
    """
    return Slide(path)


def size_like(path: str | Path, mpp: float, *, slide_mpp: float | None = None) -> tuple[int, int]:
    """Return the size (h, w), at ``mpp``, of the image that QuPath shows, for `plan_render`.

    ``slide_mpp`` is the pixel size of a slide that does not state its own.

    Raises:
        SlideError: the slide cannot be read, or its pixel size is unknown.
    """
    with open_slide(path) as slide:
        scale = slide.known_mpp(slide_mpp) / mpp
        height, width = (max(round(n * scale), 1) for n in slide.shown)
    return height, width


def tissue_sample(
    path: str | Path, *, mpp: float = 0.5, size: int = 256, count: int = 24, seed: int = 0
) -> np.ndarray:
    """Return tiles of tissue for measuring stain, uint8 (n, size, size, 3), n at most ``count``.

    They are drawn at random, without overlap, from the tiles that are at least half tissue (ink and
    black areas do not count as tissue); if there are none, from those with the most tissue. If an
    image is too small for ``count`` tiles, the tiles are smaller.

    Raises:
        SlideError: the slide cannot be read or shows no tissue.
    """
    with open_slide(path) as slide:
        slide.mpp = slide.mpp or mpp
        height, width = (int(n * slide.mpp / mpp) for n in slide.size)
        side = min(size, height, width, max(SMALLEST_TILE, math.isqrt(height * width // count)))
        rows, columns = height // side, width // side
        # Each tile is read as 8 x 8 pixels, one row of tiles at a time to bound memory.
        looks = (
            slide.read((8 * i, 0, 8 * i + 8, 8 * columns), mpp=mpp * side / 8) for i in range(rows)
        )
        share = np.stack([tissue_mask(r).reshape(8, columns, 8).mean((0, 2)) for r in looks])
        if share.max() < LEAST_TISSUE:
            raise SlideError(f"{path}: no tissue found; choose a slide with stained tissue")
        candidates = np.argwhere(share >= min(TISSUE_SHARE, share.max())) * side
        chosen = np.random.default_rng(seed).permutation(candidates)[:count]
        return np.stack([slide.read((y, x, y + side, x + side), mpp=mpp) for y, x in chosen])


def find_style(name: str) -> np.ndarray:
    """Return the style vector, float32 (6,), of a named style or of a slide or image at a path.

    Raises:
        SlideError: neither such a style nor such a file, or a file without tissue.
    """
    if name in STYLES:
        return np.array(STYLES[name], np.float32)
    if not Path(name).exists():
        raise SlideError(f"style {name!r} is neither a file nor one of {', '.join(STYLES)}")
    try:
        return style_vector(tissue_sample(name))
    except SlideError as error:
        raise error if name in str(error) else SlideError(f"{name}: {error}") from error


def _whole_if_close(down: float) -> float:
    """Return the exact downsampling: level sizes are rounded, so that 1.998 means 2."""
    return round(down) if abs(down - round(down)) < 0.01 * down else down

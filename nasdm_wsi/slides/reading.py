"""Read slides and ordinary images at any resolution.

OpenSlide reads most formats. tiffslide reads TIFFs that OpenSlide does not know, and those of which
OpenSlide reads only one level (OME-TIFF with SubIFDs). A format that this package writes may have a
reader of its own (OME-Zarr), and Pillow reads ordinary images. All are used through the interface
of openslide-python. Axis order is (y, x), a box is (y0, x0, y1, x1), half open, mpp is micrometres
per pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from openslide import ImageSlide, OpenSlide, OpenSlideError, OpenSlideUnsupportedFormatError
from PIL import Image

from ..errors import SlideError
from ..geometry import Box, grow, intersect, shape
from ..notebook import SIDE, png
from . import aperio
from .formats import find_format
from .stain import STYLES, style_vector
from .tissue import tissue_mask

if TYPE_CHECKING:
    from tiffslide import TiffSlide

MOST_FOR_A_LOOK = 50_000_000  # pixels that are read for a thumbnail in a notebook
COARSEST_MPP = 10.0  # a coarser value is meant for printers, such as 72 dots per inch
SQUARE = 1.02  # how much longer a side of a square pixel may be: scanners are that exact
# In micrometres. The sign of micro has two code points.
_UNITS = {
    **dict.fromkeys(("\u00b5m", "\u03bcm", "um", "micron", "microns", "micrometer"), 1.0),
    **{"nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "\u00c5": 1e-4, "in": 25400.0},
}
_OF_SCANNERS = {"ome", "svs", "scn", "ndpi", "bif", "philips", "qpi"}  # as tifffile calls them
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
        with _readable(self.path):
            self._reader = _open_reader(self.path)
            self.levels = tuple((h, w) for w, h in self._reader.level_dimensions)
            self.size = self.levels[0]
            self.mpp = _mpp(self._reader, self.path)
            self.format = str(_property(self._reader, "vendor") or "image")
            y, x = (int(_property(self._reader, f"bounds-{axis}") or 0) for axis in "yx")
            self.bounds = y, x
            sides = zip(("height", "width"), self.size, self.bounds, strict=True)
            self.shown = tuple(
                int(_property(self._reader, f"bounds-{side}") or whole - start)
                for side, whole, start in sides
            )
            self.description = _description(str(_property(self._reader, "comment") or ""))
            self.thread_safe = isinstance(self._reader, OpenSlide)
        self._downsamples = tuple(map(_whole_if_close, self._reader.level_downsamples))

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
            with _readable(self.path):
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


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn any error of a reader into an error of one line."""
    try:
        yield
    except SlideError:
        raise
    except Exception as error:  # each codec of three libraries raises its own
        reason = " ".join(str(error).split()) or type(error).__name__
        line = f"{path}: cannot be read as a slide or image; is it complete? ({reason})"
        raise SlideError(line) from error


def _open_reader(path: Path) -> Any:
    """Open the reader that finds the most levels; OpenSlide if several find equally many."""
    form = find_format(path)
    if form and form.reader:
        return form.code.Reader(path)
    try:
        reader = OpenSlide(path)
    except OpenSlideError as error:  # also of a TIFF whose compression it does not know
        if other := _open_tiffslide(path):
            return other
        if isinstance(error, OpenSlideUnsupportedFormatError):
            return _open_picture(path)
        raise
    other = _open_tiffslide(path) if reader.level_count == 1 else None
    if other and other.level_count > 1:
        reader.close()
        return other
    if other:
        other.close()
    return reader


def _open_tiffslide(path: Path) -> TiffSlide | None:
    """Return a reader, or None if tiffslide does not know the file, or would show false colours.

    Raises:
        SlideError: pixels are missing, which tiffslide would fill with grey or black; or the first
            picture is not the largest, so that tiffslide and OpenSlide would show a small one.
    """
    from tiffslide import TiffSlide  # with zarr, which takes as long to load as a small slide

    from .tiff import shows_rgb

    try:
        slide = TiffSlide(path)
    except Exception:
        return None
    try:
        others = _other_files(slide.ts_tifffile.ome_metadata or "")
        missing = [name for name in others if not (path.parent / name).exists()]
        if not missing:
            slide.level_count  # noqa: B018  (tiffslide reads the file only now)
    except Exception:
        slide.close()
        return None
    if missing:
        slide.close()
        raise SlideError(f"{path}: its pixels lie in {missing[0]}: copy that file beside it")
    if not shows_rgb(slide.ts_tifffile.series[0].keyframe):
        slide.close()
        return None
    for is_wrong, flaw in (
        (_is_cut_short, "the file is cut short: copy or download it again"),
        (_begins_small, "its first picture is not its largest: save it with the largest first"),
    ):
        if is_wrong(slide):
            slide.close()
            raise SlideError(f"{path}: {flaw}")
    return slide


def _begins_small(slide: TiffSlide) -> bool:
    """Tell whether a later picture of a TIFF is larger than the first.

    In formats of scanners and in OME-TIFF it may be that of the label.
    """
    tiff = slide.ts_tifffile
    if tiff.flags & _OF_SCANNERS:
        return False
    pages: Any = tiff.pages
    first, *others = (page.imagewidth * page.imagelength for page in pages)
    return any(size > first for size in others)


def _is_cut_short(slide: TiffSlide) -> bool:
    """Tell whether pixels of a TIFF would lie beyond the end of the file that holds them."""
    pages = [level.keyframe for series in slide.ts_tifffile.series for level in series.levels]
    return any(
        offset + count > page.parent.filehandle.size  # an OME-TIFF may have several files
        for page in pages
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
    )


def _other_files(text: str) -> list[str]:
    """Return the other files that hold pixels of the first image, by the OME-XML of a TIFF."""
    try:
        root = ElementTree.fromstring(text.encode())
    except ElementTree.ParseError:
        return []
    parts = root.findall("{*}Image[1]/{*}Pixels/{*}TiffData/{*}UUID[@FileName]")
    return [part.attrib["FileName"] for part in parts if part.text != root.get("UUID")]


def _open_picture(path: Path) -> ImageSlide:
    """Open an ordinary image and keep it in memory."""
    with Image.open(path) as file:
        if file.mode.startswith(("I", "F")):
            raise SlideError(f"{path}: pixels of mode {file.mode}; save it as 8-bit RGB")
        return ImageSlide(file.convert("RGBA" if file.has_transparency_data else "RGB"))


def _property(reader: Any, name: str) -> Any:
    """Return a property, by the name that either library gives it, or None."""
    values = (reader.properties.get(f"{library}.{name}") for library in ("openslide", "tiffslide"))
    return next((value for value in values if value is not None), None)


def _description(comment: str) -> str:
    """Return the description in OME-XML or in an SVS of ours; any other comment unchanged."""
    if "<OME" not in comment:
        return aperio.description_of(comment)
    try:
        return ElementTree.fromstring(comment.encode()).findtext("{*}Image/{*}Description") or ""
    except ElementTree.ParseError:
        return comment


def _mpp(reader: Any, path: Path) -> float | None:
    """Return micrometres per pixel, the mean of both directions; None if a value is implausible.

    Raises:
        SlideError: the pixels are not square.
    """
    in_tags = [float(_property(reader, f"mpp-{axis}") or 0) for axis in "xy"]
    in_xml = _ome_mpp(str(reader.properties.get("tiff.ImageDescription") or ""))
    both = next((sizes for sizes in (in_tags, in_xml) if _is_plausible(sizes)), None)
    if both is None:
        return None
    if max(both) > SQUARE * min(both):
        x, y = both
        raise SlideError(f"{path}: pixels of {x:g} x {y:g} micrometres: resample to square ones")
    return sum(both) / 2


def _is_plausible(sizes: list[float]) -> bool:
    return all(0 < mpp <= COARSEST_MPP for mpp in sizes)


def _ome_mpp(text: str) -> list[float]:
    """Return micrometres per pixel in x and y from OME-XML in any unit; 0 if it states none."""
    try:
        pixels = ElementTree.fromstring(text.encode()).find("{*}Image/{*}Pixels")
        stated = {} if pixels is None else pixels.attrib
        # Written as Latin-1, the sign of micro may have a letter before it.
        units = [stated.get(f"PhysicalSize{axis}Unit", "µm").removeprefix("Â") for axis in "XY"]
        sizes = [float(stated.get(f"PhysicalSize{axis}", 0)) for axis in "XY"]
    except (ElementTree.ParseError, ValueError):
        return [0.0, 0.0]
    return [size * _UNITS.get(unit.strip(), 0) for size, unit in zip(sizes, units, strict=True)]


def _whole_if_close(down: float) -> float:
    """Return the exact downsampling: level sizes are rounded, so that 1.998 means 2."""
    return round(down) if abs(down - round(down)) < 0.01 * down else down


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

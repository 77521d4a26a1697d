"""The readers of slides: which library opens a file, and what the file states about its pixels.

OpenSlide reads most formats. tiffslide reads TIFFs that OpenSlide does not know, and those of which
OpenSlide reads only one level (OME-TIFF with SubIFDs). A format that this package writes may have a
reader of its own (OME-Zarr), and Pillow reads ordinary images. All have the interface of
openslide-python.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from openslide import ImageSlide, OpenSlide, OpenSlideError, OpenSlideUnsupportedFormatError
from PIL import Image

from ..errors import SlideError
from . import aperio
from .formats import find_format

if TYPE_CHECKING:
    from tiffslide import TiffSlide

COARSEST_MPP = 10.0  # a coarser value is meant for printers, such as 72 dots per inch
SQUARE = 1.02  # how much longer a side of a square pixel may be: scanners are that exact
# In micrometres. The sign of micro has two code points.
_UNITS = {
    **dict.fromkeys(("\u00b5m", "\u03bcm", "um", "micron", "microns", "micrometer"), 1.0),
    **{"nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "\u00c5": 1e-4, "in": 25400.0},
}
_OF_SCANNERS = {"ome", "svs", "scn", "ndpi", "bif", "philips", "qpi"}  # as tifffile calls them


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn any error of a reader into an error of one line."""
    try:
        yield
    except SlideError:
        raise
    except Exception as error:  # each codec of three libraries raises its own
        reason = " ".join(str(error).split()) or type(error).__name__
        line = f"{path}: cannot be read as a slide or image; is it complete? ({reason})"
        raise SlideError(line) from error


def open_reader(path: Path) -> Any:
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
    if other is None:
        return reader
    best, second = (other, reader) if other.level_count > 1 else (reader, other)
    second.close()
    return best


def _open_tiffslide(path: Path) -> TiffSlide | None:
    """Return a reader, or None if tiffslide does not know the file, or would show false colours.

    Raises:
        SlideError: pixels are missing, which tiffslide would fill with grey or black; or the first
            picture is not the largest, so that tiffslide and OpenSlide would show a small one.
    """
    from tiffslide import TiffSlide  # with zarr, which takes as long to load as a small slide

    from .tiff import shows_rgb

    with ExitStack() as closing:
        try:
            slide = closing.enter_context(TiffSlide(path))
            others = _other_files(slide.ts_tifffile.ome_metadata or "")
            missing = [name for name in others if not (path.parent / name).exists()]
            if not missing:
                slide.level_count  # noqa: B018  (tiffslide reads the file only now)
        except Exception:
            return None
        if missing:
            raise SlideError(f"{path}: its pixels lie in {missing[0]}: copy that file beside it")
        if not shows_rgb(slide.ts_tifffile.series[0].keyframe):
            return None
        if _is_cut_short(slide):
            raise SlideError(f"{path}: the file is cut short: copy or download it again")
        if _begins_small(slide):
            raise SlideError(
                f"{path}: its first picture is not its largest: save it with the largest first"
            )
        closing.pop_all()  # the caller closes it
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


def property_of(reader: Any, name: str) -> Any:
    """Return a property, by the name that either library gives it, or None."""
    values = (reader.properties.get(f"{library}.{name}") for library in ("openslide", "tiffslide"))
    return next((value for value in values if value is not None), None)


def description_of(reader: Any) -> str:
    """Return the description in OME-XML or in an SVS of ours; any other comment unchanged."""
    comment = str(property_of(reader, "comment") or "")
    if "<OME" not in comment:
        return aperio.description_of(comment)
    try:
        return ElementTree.fromstring(comment.encode()).findtext("{*}Image/{*}Description") or ""
    except ElementTree.ParseError:
        return comment


def mpp_of(reader: Any, path: Path) -> float | None:
    """Return micrometres per pixel, the mean of both directions; None if a value is implausible.

    Raises:
        SlideError: the pixels are not square.
    """
    in_tags = [float(property_of(reader, f"mpp-{axis}") or 0) for axis in "xy"]
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

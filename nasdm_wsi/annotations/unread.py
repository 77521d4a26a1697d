"""Files that are recognised but not read, with the remedy for each."""

from __future__ import annotations

import re

from ..errors import AnnotationError
from .contents import Source
from .xmlstream import root

_TO_GEOJSON = "open it in its program and export the nuclei as GeoJSON"
_MASKS = "save its masks alone, as numpy.save('masks.npy', masks)"
_UNPACK = "unpack it first"
_CONVERT = "convert it to GeoJSON in pixels of the slide"
_TABLE = "save it as CSV with a column WKT, or export the nuclei as GeoJSON"

# How files begin, what they are, and the way out.
_BEGINNINGS = (
    (b"%PDF", "a PDF", _TO_GEOJSON),
    (b"\xd0\xcf\x11\xe0", "a file of Excel or another Office program", _TABLE),
    (
        b"\xac\xed\0\x05",
        "QuPath's own data file",
        "in QuPath, choose File, Export objects as GeoJSON",
    ),
    (b"MATLAB 7.3", "a MATLAB file of version 7.3", "save it again with the option -v7"),
    (b"\x89HDF", "an HDF5 file", "export the nuclei as GeoJSON or as a label image"),
    (b"7z\xbc\xaf", "packed by 7-Zip", _UNPACK),
    (b"Rar!", "packed by RAR", _UNPACK),
    (b"BZh", "packed by bzip2", _UNPACK),
    (b"\xfd7zXZ", "packed by xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "packed by Zstandard", _UNPACK),
    (b"version https://git-lfs", "a pointer of Git LFS instead of the file", "run git lfs pull"),
)
_TABLE_HEAD = re.compile(rb"[\w \"'.()-]+(?:[,;\t][\w \"'.()-]*)+\r?\n")
_RUNS_CODE = "opening it would run the code in it"
_ENTRIES = (  # what the names in a zip tell
    ("xl/", "an Excel workbook", _TABLE),
    ("word/", "a Word document", _TO_GEOJSON),
)


def refuse(source: Source) -> None:
    """Refuse a file of a kind that is not supported; do nothing for all others.

    Raises:
        AnnotationError: the file is of such a kind; the message names the kind and the remedy.
    """
    if found := _what(source):
        raise AnnotationError(f"{source.path}: {found[0]}, which is not read: {found[1]}")


def refuse_text(source: Source) -> None:
    """Refuse an empty file or a table in which no format was found; do nothing with all others.

    Raises:
        AnnotationError: it is one; the message says what to do instead.
    """
    if source.path.is_file() and not source.magic:
        raise AnnotationError(f"{source.path}: an empty file: export it again")
    if _TABLE_HEAD.match(source.start):
        raise AnnotationError(f"{source.path}: a table without outlines: {_TO_GEOJSON}")


def _what(source: Source) -> tuple[str, str] | None:
    """Return the kind of such a file and the remedy."""
    for magic, what, remedy in _BEGINNINGS:
        if source.magic.startswith(magic):
            return what, remedy
    for folder, what, remedy in _ENTRIES:
        if any(name.startswith(folder) for name in source.entries):
            return what, remedy
    known = {"annotations", "gpkg_contents", "geometry_columns"}
    if source.tables and not known & source.tables:
        return f"SQLite with the tables {', '.join(sorted(source.tables)[:5])}", _TO_GEOJSON
    return _pickle(source) or _text(source)


def _pickle(source: Source) -> tuple[str, str] | None:
    if source.magic.startswith(b"\x93NUMPY") and re.search(rb"'descr': '\|?O", source.magic):
        return "a pickle as Cellpose's _seg.npy", f"{_RUNS_CODE}; {_MASKS}"
    if re.match(rb"\x80[\x02-\x05]", source.magic) or source.ends("data.pkl", ".pkl"):
        way = "save the nuclei as GeoJSON or, with TIAToolbox, as an annotation store"
        return "a pickle as TIAToolbox's .dat", f"{_RUNS_CODE}; {way}"
    return None


def _text(source: Source) -> tuple[str, str] | None:
    start = source.magic.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page", "download the file itself"
    if re.match(rb"\d+,\d+,\d+,\d+,\d+,\d+[\d,]*[\r\n]", source.start):
        return "Cellpose's text file of outlines", _MASKS
    if source.is_json and b'"cell_masks"' in source.start:
        return "HistoPLUS's JSON, with coordinates of its own for each tile", _CONVERT
    if re.search(rb"^[^\n]*centroid[ _]x", source.start, re.IGNORECASE) and not source.is_json:
        return "a table of measurements without outlines", _TO_GEOJSON
    return _xml(source)


def _xml(source: Source) -> tuple[str, str] | None:
    name = root(source)
    if name == "annotations":
        way = "they count from the slide's centre; open it in QuPath and export them as GeoJSON"
        return "Hamamatsu's annotations (NDPA) in nanometres", way
    if name and name not in ("Annotations", "ASAP_Annotations"):
        return f"XML of <{name}>", _TO_GEOJSON
    return None

"""Files of geographic software, read by GeoPandas: GeoPackage, SpatiaLite, shapefile, Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AnnotationError
from ..isolated import IsolatedError
from .contents import Contents, Format, Reading, Source, packed
from .csvtable import XENIUM, class_column
from .features import class_name
from .outlines import Outlines
from .parsers import read_frames
from .types import UNTYPED

_SHAPEFILE, _PARQUET, _FLATGEOBUF = b"\0\0\x27\x0a", b"PAR1", b"fgb\x03"


def _sniff(source: Source) -> bool:
    if {"gpkg_contents", "geometry_columns"} & source.tables:
        return True
    return source.magic.startswith((_SHAPEFILE, _PARQUET, _FLATGEOBUF)) or source.ends(".shp")


def _read(source: Source, reading: Reading) -> Contents:
    outlines = Outlines(reading.findings, reading.contours)
    for frame in _frames(source):
        if set(XENIUM) <= set(frame.columns):
            _add_vertices(outlines, frame, source.path)
        elif hasattr(frame, "geometry"):
            _add(outlines, frame)
    return packed(outlines, FORMAT.name, reading)


def _add(outlines: Outlines, frame: Any) -> None:
    others = [name for name in frame.columns if name != frame.geometry.name]
    column = class_column(others, outlines.findings)
    labels = [None] * len(frame) if column is None else frame[column].tolist()
    names = [class_name(label) for label in labels]
    outlines.add_geometries(np.asarray(frame.geometry, object), names)


def _add_vertices(outlines: Outlines, frame: Any, path: Path) -> None:
    """Add the vertices of Xenium's table, which has one row for each vertex."""
    for cell, rows in frame.groupby("cell_id", sort=False):
        outlines.add(UNTYPED, [[rows[list(XENIUM)].to_numpy().tolist()]], f"{path}: cell {cell}")


def _frames(source: Source) -> Iterator[Any]:
    """Yield the tables of a file, as data frames.

    Raises:
        AnnotationError: GeoPandas is not installed, or cannot read the file.
    """
    if find_spec("geopandas") is None:
        raise AnnotationError(
            f"{source.path}: needs the package geopandas: pip install 'nasdm-wsi[geopandas]', "
            "or export the nuclei as GeoJSON"
        )
    try:
        yield from read_frames(source.path, parquet=source.magic.startswith(_PARQUET))
    except IsolatedError as error:
        raise AnnotationError(f"{source.path}: {_remedy(source, str(error))}") from error


def _remedy(source: Source, reason: str) -> str:
    if source.magic.startswith(_SHAPEFILE) and not source.path.with_suffix(".shx").exists():
        return "a shapefile without its .shx and .dbf: put them beside it"
    return f"GeoPandas cannot read it ({reason}): export the nuclei as GeoJSON"


def _pixel_size(source: Source, slide_mpp: float | None) -> float | None:
    """Xenium's coordinates are micrometres."""
    if not source.magic.startswith(_PARQUET):
        return slide_mpp
    try:
        from pyarrow.parquet import read_schema

        names = read_schema(source.path).names
    except Exception:  # not installed, or damaged: reading the file says so
        return slide_mpp
    return 1.0 if set(XENIUM) <= set(names) else slide_mpp


FORMAT = Format("table of GeoPandas", _sniff, _read, pixel_size=_pixel_size, states_scale=True)

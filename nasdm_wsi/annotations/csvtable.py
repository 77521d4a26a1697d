"""CSV of polygons: outlines as well-known text, and Xenium's vertices of nuclei and cells."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

import numpy as np
import shapely

from ..errors import AnnotationError
from .contents import Contents, Format, Reading, Source, packed
from .features import class_name
from .findings import Findings
from .jsonstream import texts
from .outlines import Outlines
from .parsers import LONGEST
from .types import UNCLASSIFIED, UNTYPED

MOST_NESTED = 100  # collections in a text; GEOS reads them by recursion
WKT = ("wkt", "geometry", "geom")
CLASSES = (
    *("classification", "class", "class_name", "cell_type", "celltype", "type", "label"),
    *("term", "name", "classifica"),  # shapefiles cut names
)
XENIUM = ("vertex_x", "vertex_y")
_FLAWS = (AttributeError, LookupError, TypeError, ValueError, csv.Error, shapely.GEOSException)


def class_column(columns: Iterable[str], findings: Findings) -> str | None:
    """Return the column that holds the classes; None if there is none.

    It is the column that ``class_property`` names, or else one with a usual name.
    """
    plain = {column.strip().casefold(): column for column in columns}
    asked = findings.names.class_property
    wanted = CLASSES if asked is None else (asked.casefold(),)
    found = next((plain[name] for name in wanted if name in plain), None)
    if found is None:
        findings.properties.update(plain.values())
    return found


def _columns(source: Source) -> list[str]:
    """Return the names in the first line, in lower case."""
    names = _first_line(source).split(_separator(source))
    return [name.strip(' "\r').casefold() for name in names]


def _first_line(source: Source) -> str:
    return source.start.decode(errors="replace").split("\n")[0]


def _separator(source: Source) -> str:
    """Return the separator of the columns: a comma, semicolon or tab."""
    return max(",;\t", key=_first_line(source).count)


def _is_wkt(source: Source) -> bool:
    return b"POLYGON" in source.start.upper() and any(name in WKT for name in _columns(source))


def _is_xenium(source: Source) -> bool:
    return set(XENIUM) <= set(_columns(source))


def _rows(source: Source) -> Iterator[dict[str, str]]:
    """Yield the rows, with column names in lower case."""
    csv.field_size_limit(LONGEST)  # of a text, which may be the outline of a large region
    for _, text in texts(source.path, source.max_pixels):
        if isinstance(text, codecs.StreamRecoder):  # was UTF-16
            text = io.BytesIO(text.read())  # their other methods skip the conversion
        lines = io.TextIOWrapper(text, encoding="utf-8", errors="replace", newline="")
        reader = csv.DictReader(lines, delimiter=_separator(source))
        reader.fieldnames = [name.strip().casefold() for name in reader.fieldnames or ()]
        yield from reader


def _reader(add: Callable[[Outlines, Source], None], name: str) -> Any:
    """Make a reader of one kind of CSV, whose errors are one line."""

    def read(source: Source, reading: Reading) -> Contents:
        outlines = Outlines(reading.findings, reading.contours)
        try:
            add(outlines, source)
        except AnnotationError:
            raise
        except _FLAWS as error:
            raise AnnotationError(
                f"{source.path}: a row is damaged ({' '.join(str(error).split())}): export it again"
            ) from error
        return packed(outlines, name, reading)

    return read


def _add_wkt(outlines: Outlines, source: Source) -> None:
    rows = list(_rows(source))
    columns = list(rows[0])
    column = [name for name in WKT if name in columns][0]
    label = class_column([name for name in columns if name != column], outlines.findings)
    names = [class_name(row[label]) if label else UNCLASSIFIED for row in rows]
    shapes = [row[column] for row in rows]
    if any(shape.upper().count("COLLECTION") > MOST_NESTED for shape in shapes):
        raise ValueError("collections nested too deeply")
    outlines.add_geometries(shapely.from_wkt(np.array(shapes)), names)


def _add_xenium(outlines: Outlines, source: Source) -> None:
    for cell, rows in groupby(_rows(source), key=lambda row: (row["cell_id"], row.get("label_id"))):
        points = [tuple(float(row[axis]) for axis in XENIUM) for row in rows]
        outlines.add(UNTYPED, [[points]], f"{source.path}: cell {cell[0]}")


WELL_KNOWN_TEXT = Format("CSV of well-known text", _is_wkt, _reader(_add_wkt, "CSV of WKT"))
VERTICES = Format(
    "Xenium CSV",
    _is_xenium,
    _reader(_add_xenium, "Xenium CSV"),
    pixel_size=lambda source, slide_mpp: 1.0,  # coordinates are micrometres
    states_scale=True,
)

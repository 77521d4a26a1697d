"""GeoJSON files as QuPath writes them, in and out.

Files are read as a stream: the text is cut into features, and outlines are packed in batches, so
that memory is needed for the columns and not for the text.

Files that are written state their canvas in foreign members of the collection (RFC 7946, section
6.1), which other readers pass over: ``canvas`` with ``width`` and ``height`` in pixels and ``mpp``,
and ``regions`` with the value "generated" if nobody drew them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from ..output import whole_or_nothing
from .classes import ClassNames
from .contents import Contents, Format, Reading, Source, packed
from .features import add_feature, feature_lines, features_in
from .findings import Findings
from .jsonstream import members, readable, texts
from .nuclei import Nuclei, check_mpp
from .outlines import Outlines

SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".zip")
LIST = "features"
MOST = 1e15  # pixels of a side; a larger number is no size


def read_geojson(
    path: str | Path, *, mpp: float | None, contours: str = "auto", **classes: Any
) -> Nuclei:
    """Read the nuclei of a GeoJSON file, plain or packed by gzip or zip (with all its entries).

    Nuclei are the polygons of annotations and detections, and the nuclei of cells; each part of a
    MultiPolygon is one. Objects without class are called "unclassified". The options are those of
    `formats.read_contents`.

    Raises:
        AnnotationError: not GeoJSON or damaged, an unknown class, coordinates that are not finite,
            no nuclei, ``mpp`` missing or impossible.
    """
    findings = Findings(path, ClassNames(**classes))
    reading = Reading(check_mpp(mpp, path), findings, contours)
    with readable(path):
        return _read(Source(Path(path), [LIST]), reading).checked()


def write_geojson(path: str | Path, nuclei: Nuclei) -> None:
    """Write tissue, regions and nuclei in their pixels, as objects that QuPath opens.

    Each feature is a line. The same nuclei give the same bytes; `features.feature_lines` says what
    is rounded and what the ids are.

    Raises:
        OutputError: the file cannot be written.
    """
    with whole_or_nothing(Path(path)) as part, open(part, "wb") as file:
        lines = feature_lines(nuclei, nuclei.regions, tissue=nuclei.tissue)
        write_features(file, lines, stated=stated(nuclei))


def stated(nuclei: Nuclei) -> dict[str, Any]:
    """Return the foreign members of the file of nuclei, in their pixels; none without a canvas."""
    if nuclei.canvas is None:
        return {}
    generated = nuclei.regions is not None and nuclei.regions.generated
    return foreign_members(nuclei.canvas, mpp=nuclei.mpp, generated=generated)


def foreign_members(
    canvas: tuple[float, float], *, mpp: float, generated: bool = False
) -> dict[str, Any]:
    """Return the foreign members for a canvas of a height and width in micrometres."""
    height, width = (round(side / mpp, 2) for side in canvas)
    sides = {"width": width, "height": height}
    pixels = {name: int(side) if side.is_integer() else side for name, side in sides.items()}
    return {"canvas": {**pixels, "mpp": mpp}, **({"regions": "generated"} if generated else {})}


def begin(stated: Mapping[str, Any]) -> bytes:
    """Return the text of a file before its first feature."""
    members = b"".join(
        b"," + orjson.dumps(name) + b":" + orjson.dumps(value) for name, value in stated.items()
    )
    return b'{"type":"FeatureCollection"' + members + b',"features":['


def write_features(
    file: BinaryIO, features: Iterable[bytes], *, stated: Mapping[str, Any] | None = None
) -> None:
    """Write features, such as `features.feature_lines` yields, to a file that is open.

    stated: the foreign members of the file.
    """
    file.write(begin(stated or {}))
    for k, line in enumerate(features):
        file.write(b",\n" if k else b"\n")
        file.write(line)
    file.write(b"\n]}\n")


def _read(source: Source, reading: Reading) -> Contents:
    outlines = Outlines(reading.findings, reading.contours)
    for name, text in texts(source.path, source.max_pixels):
        for number, member in enumerate(members(text, LIST)):
            for feature in features_in(member, name):
                add_feature(outlines, feature, f"{name}: feature {number}")
    contents = packed(outlines, FORMAT.name, reading)
    return replace(contents, nuclei=_on_its_canvas(contents.nuclei, source.values, reading))


def _on_its_canvas(nuclei: Nuclei, values: Mapping[str, Any], reading: Reading) -> Nuclei:
    """Return nuclei with what the foreign members of their file state."""
    sides = ("canvas.height", "canvas.width")
    height, width = (_number(values, side) for side in sides)
    if not height or not width:
        if any(side in values for side in sides):
            reading.findings.warn(
                "the canvas that the file states has no possible width and height and is ignored"
            )
        return nuclei
    regions = nuclei.regions
    if regions is not None and values.get("regions") == "generated":
        regions = replace(regions, generated=True)
    canvas = (height * nuclei.mpp, width * nuclei.mpp)
    return replace(nuclei, canvas=canvas, regions=regions)


def _pixel_size(source: Source, slide_mpp: float | None) -> float | None:
    return slide_mpp or _number(source.values, "canvas.mpp")


def _number(values: Mapping[str, Any], name: str) -> float | None:
    """Return a positive number among the values of a file; None if it has none of that name."""
    value = values.get(name)
    return float(value) if isinstance(value, int | float) and 0 < value < MOST else None


FORMAT = Format(
    "GeoJSON",
    lambda source: source.is_json,
    _read,
    member=LIST,
    states_scale=True,
    pixel_size=_pixel_size,
)

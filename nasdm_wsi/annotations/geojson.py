"""GeoJSON files as QuPath writes them, in and out.

Files are read as a stream: the text is cut into features, and outlines are packed in batches, so
that memory is needed for the columns and not for the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

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
        return _read(Source(Path(path)), reading).checked()


def write_geojson(path: str | Path, nuclei: Nuclei) -> None:
    """Write tissue, regions and nuclei in their pixels, as objects that QuPath opens.

    Each feature is a line. The same nuclei give the same bytes; `features.feature_lines` says what
    is rounded and what the ids are.

    Raises:
        OutputError: the file cannot be written.
    """
    with whole_or_nothing(Path(path)) as part, open(part, "wb") as file:
        write_features(file, feature_lines(nuclei, nuclei.regions, tissue=nuclei.tissue))


def write_features(file: BinaryIO, features: Iterable[bytes]) -> None:
    """Write features, such as `features.feature_lines` yields, to a file that is open."""
    file.write(b'{"type":"FeatureCollection","features":[')
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
    return packed(outlines, FORMAT.name, reading)


FORMAT = Format("GeoJSON", lambda source: source.is_json, _read, member=LIST)

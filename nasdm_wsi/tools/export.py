"""Write a slide and its nuclei in the formats of other tools.

lizard, coco, masks: OUT is a folder of tiles, see `tiles`
tiatoolbox   OUT: an AnnotationStore (SQLite) of TIAToolbox
dicom        OUT: a file of DICOM annotations of a DICOM slide, see `bulk_annotations`
types        OUT: a label pyramid of the whole slide: 0 background, 1..6 types
instances    OUT: the same with the number of each nucleus, from 1
regions      OUT: the same with the number of each pixel's tissue region: 0 unknown, 1.. regions

Labels are rasterised as for rendering, by `raster.Conditioning`: a pixel belongs to a nucleus when
its centre lies inside. Axis order is (y, x), a box is (y0, x0, y1, x1), half open.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import uuid
import zlib
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from ..annotations.canvas import label_image_fits, on_canvas, regions_on_canvas
from ..annotations.nuclei import Nuclei
from ..annotations.raster import Conditioning
from ..annotations.regions import REGIONS
from ..annotations.types import TYPES
from ..errors import AnnotationError, OutputError, SlideError
from ..geometry import Box
from ..output import check_writable, keep_inputs, whole_or_nothing
from ..provenance import WARNING, is_synthetic
from ..rendering import MOST_RESAMPLED, Progress, read_annotations
from ..slides.formats import format_of, image_of, labels_path
from ..slides.reading import Slide, open_slide
from ..slides.tiling import Rows
from .bulk_annotations import write_annotations
from .tiles import TILED, provenance_of, size_at, tiles_of, write_tiles

log = logging.getLogger(__name__)

PYRAMIDS = ("types", "instances", "regions")
FORMATS = (*TILED, "tiatoolbox", "dicom", *PYRAMIDS)
STRIP = 1024  # pixels of a row of a label pyramid that are rasterised at once
BATCH = 4096  # nuclei that are written to the store at once


def export(
    slide: str | Path,
    out: str | Path,
    *,
    form: str,
    labels: str | Path | None = None,
    mpp: float | None = None,
    mpp_out: float | None = None,
    tile: int = 512,
    overwrite: bool = False,
    progress: Progress | None = None,
    **reading: Any,
) -> None:
    """Write the nuclei of ``slide`` to ``out``, with its pixels if ``form`` consists of tiles.

    Args:
        slide: a slide or image that `open_slide` reads.
        form: one of FORMATS.
        labels: annotations of the slide; by default the GeoJSON beside it.
        mpp: micrometres per pixel of the labels; by default those of the slide.
        mpp_out: micrometres per pixel of tiles or label pyramids; by default those of the slide.
        tile: the largest side of a tile in pixels. All tiles have nearly the same size; those
            without nuclei are left out.
        overwrite: replace an existing file. A folder with tiles is never replaced.
        reading: further arguments of `read_annotations`.

    Raises:
        SlideError: the slide cannot be read, or ``mpp_out`` is not possible.
        AnnotationError: the labels cannot be read, or cover no pixel of the slide.
        PlanError: none of them lies on the slide.
        OutputError: ``out`` exists, is an input, has the wrong suffix or cannot be written.
    """
    out = Path(out)
    keep_inputs([out], [slide, labels or labels_path(slide)])
    _check(out, form, mpp_out=mpp_out, overwrite=overwrite)
    image = image_of(out) if form in PYRAMIDS else None
    check_writable(image / "labels" if image else out)
    with open_slide(slide) as opened:
        nuclei = read_nuclei(opened, labels, mpp=mpp, mpp_out=mpp_out, **reading)
        if form in PYRAMIDS:
            _write_pyramid(out, form, nuclei, opened, progress)
            return
        with whole_or_nothing(out) as part:
            if form == "tiatoolbox":
                _write_store(part, nuclei, provenance_of(opened))
            elif form == "dicom":
                write_annotations(part, opened.path, nuclei)
            else:
                told = partial(progress, "exporting") if progress else None
                write_tiles(part, form, tiles_of(opened, nuclei, side=tile, progress=told))


def _check(out: Path, form: str, *, mpp_out: float | None, overwrite: bool) -> None:
    if form not in FORMATS:
        raise ValueError(f"{form} is none of {', '.join(FORMATS)}")
    if form in ("tiatoolbox", "dicom") and mpp_out:
        raise OutputError(f"{out}: {form} counts in pixels of the slide: leave out `mpp_out`")
    if form in PYRAMIDS:
        format_of(out, labels=True)  # refuses other suffixes
    if out.is_dir():
        raise OutputError(f"{out} exists: choose another name or remove it")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists: choose another name or give `overwrite`")


def read_nuclei(
    slide: Slide,
    labels: str | Path | None = None,
    *,
    mpp: float | None = None,
    mpp_out: float | None = None,
    **reading: Any,
) -> Nuclei:
    """Return the nuclei in pixels from the corner of the slide; arguments are as in `export`."""
    if labels is None:
        labels = labels_path(slide.path)
        if not labels.exists():
            raise AnnotationError(f"{labels}: no such file: give the annotations with `labels`")
    known = slide.mpp is not None and mpp is None
    source: dict[str, Any] = {"like": slide.path} if known else {"mpp": mpp}
    nuclei = read_annotations(Path(labels), **source, **reading)
    slide.mpp = slide.mpp or nuclei.mpp
    nuclei = nuclei.scaled(slide.mpp).shifted(*slide.bounds)
    _check_places(nuclei, slide)
    return nuclei.scaled(_checked(mpp_out, slide)) if mpp_out is not None else nuclei


def _check_places(nuclei: Nuclei, slide: Slide) -> None:
    """Log warnings about nuclei and regions, in pixels of the slide, that do not lie on it.

    Raises:
        PlanError: none of them does.
    """
    whole, (height, width) = (0, 0, *slide.size), slide.shown
    warnings = on_canvas(nuclei, slide.size, whole, mpp=nuclei.mpp, own_mpp=nuclei.mpp)
    warnings += label_image_fits(nuclei, (height, width))
    if nuclei.regions:
        warnings += regions_on_canvas(nuclei.regions, slide.size, alone=not len(nuclei))
    for warning in warnings:
        log.warning("%s: %s", slide.path, warning)


def _checked(mpp_out: float, slide: Slide) -> float:
    """Return ``mpp_out``, if the slide can be resampled to it.

    Raises:
        SlideError: the slide would be enlarged too much, or have less than a pixel.
    """
    own = slide.known_mpp()
    least, most = own / MOST_RESAMPLED, own * min(slide.size)
    if not least <= mpp_out <= most:
        raise SlideError(
            f"{slide.path} has {own:g} micrometres per pixel: give a `mpp_out` of {least:g} to "
            f"{most:g}"
        )
    return mpp_out


# TIAToolbox

# As written by version 2.1 of the toolbox, whose own schema is 1.0.1.
SCHEMA = """
CREATE TABLE metadata (key TEXT UNIQUE, value TEXT);
CREATE VIRTUAL TABLE rtree USING rtree(id, min_x, max_x, min_y, max_y);
CREATE TABLE annotations (id INTEGER PRIMARY KEY, key TEXT UNIQUE, objtype TEXT,
    cx FLOAT NOT NULL, cy FLOAT NOT NULL, geometry BLOB, properties TEXT, area FLOAT NOT NULL);
INSERT INTO metadata VALUES ('version', '"1.0.1"'), ('compression', '"zlib"'),
    ('compression_level', '9');
"""


def _write_store(path: Path, nuclei: Nuclei, provenance: str) -> None:
    """Write an AnnotationStore, whose keys are the nuclei's ids if these are unique.

    Its metadata hold the ``provenance`` of the slide, if there is any.

    Raises:
        OSError: the disk is full.
    """
    keys = list(nuclei.ids or ())
    if "" in keys or len(set(keys)) < len(nuclei):
        keys = [str(uuid.uuid5(uuid.NAMESPACE_OID, str(k))) for k in range(len(nuclei))]
    try:
        with closing(sqlite3.connect(path)) as store, store:
            store.executescript(SCHEMA)
            if provenance:
                told = "provenance", json.dumps(provenance)
                store.execute("INSERT INTO metadata VALUES (?, ?)", told)
            for first in range(0, len(nuclei), BATCH):
                index = np.arange(first, min(first + BATCH, len(nuclei)))
                _insert(store, nuclei.take(index), index, keys)
    except sqlite3.OperationalError as error:
        raise OSError(str(error)) from error


def _insert(store: sqlite3.Connection, nuclei: Nuclei, index: np.ndarray, keys: list[str]) -> None:
    polygons = nuclei.polygons()
    centres = shapely.get_coordinates(shapely.centroid(polygons)).tolist()
    texts = ["", *(json.dumps({"type": name.capitalize()}) for name in TYPES[1:])]
    store.executemany(
        "INSERT INTO annotations VALUES (?, ?, 'Polygon', ?, ?, ?, ?, ?)",
        (
            (int(k) + 1, keys[k], x, y, zlib.compress(wkb, 9), texts[kind], area)
            for k, (x, y), wkb, kind, area in zip(
                index,
                centres,
                shapely.to_wkb(polygons),
                nuclei.types,
                shapely.area(polygons).tolist(),
                strict=True,
            )
        ),
    )
    boxes = zip((index + 1).tolist(), shapely.bounds(polygons).tolist(), strict=True)
    store.executemany(
        "INSERT INTO rtree VALUES (?, ?, ?, ?, ?)",
        ((k, x0, x1, y0, y1) for k, (x0, y0, x1, y1) in boxes),
    )


# Pyramids


def _labels(form: str, nuclei: Nuclei, size: tuple[int, int]) -> Rows:
    """Return types, instances or regions of a slide of ``size`` (h, w)."""
    conditioning = Conditioning(nuclei, size)
    numbers = np.uint16 if len(nuclei) < 2**16 else np.uint32
    dtype = np.dtype(numbers if form == "instances" else np.uint8)

    def of(box: Box) -> np.ndarray:
        if form == "regions":
            return conditioning.regions(box)
        instances, types = conditioning.labels(box)
        return types if form == "types" else instances

    def row(box: Box) -> np.ndarray:
        y0, left, y1, right = box
        strips = ((y0, x, y1, min(x + STRIP, right)) for x in range(left, right, STRIP))
        return np.hstack([of(strip).astype(dtype) for strip in strips])

    return Rows(row, size, dtype)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"{k} {name}" for k, name in enumerate(names))


_MEANINGS = {
    "types": f"Nuclei of {{}} by their types: {_listed(TYPES)}",
    "instances": "Nuclei of {} by their numbers: 0 background",
    "regions": f"Regions of {{}} by their numbers: {_listed(['unknown', *REGIONS])}",
}


def _write_pyramid(
    out: Path, form: str, nuclei: Nuclei, slide: Slide, progress: Progress | None
) -> None:
    if form == "regions" and not nuclei.regions:
        raise AnnotationError(f"no region lies on {slide.path}: draw some, or choose types")
    warning = f"{WARNING} " if is_synthetic(slide.description) else ""
    format_of(out, labels=True).write(
        out,
        _labels(form, nuclei, size_at(slide, nuclei.mpp)),
        mpp=nuclei.mpp,
        description=f"{warning}{_MEANINGS[form].format(slide.path.name)}.",
        progress=partial(progress, "writing") if progress else None,
    )

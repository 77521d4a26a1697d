"""Write a slide and its nuclei in the formats of other tools.

lizard       OUT/images/NAME.png, OUT/labels/NAME.mat: tiles as in the Lizard dataset, with type_map
coco         OUT/images/NAME.png, OUT/annotations.json: tiles with COCO instances
masks        OUT/NAME.png, OUT/NAME_masks.png: tiles for Cellpose and StarDist
tiatoolbox   OUT: an AnnotationStore (SQLite) of TIAToolbox
types        OUT: a label pyramid of the whole slide: 0 background, 1..6 types
instances    OUT: the same with the number of each nucleus, from 1

Labels are rasterised as for rendering, by `raster.Conditioning`: a pixel belongs to a nucleus when
its centre lies inside. Axis order is (y, x), a box is (y0, x0, y1, x1), half open.
"""

from __future__ import annotations

import itertools
import json
import math
import sqlite3
import uuid
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from PIL import Image
from scipy import ndimage
from scipy.io import savemat

from ..annotations.nuclei import Nuclei
from ..annotations.raster import Conditioning
from ..annotations.types import TYPES
from ..errors import AnnotationError, OutputError
from ..output import check_writable, keep_inputs, whole_or_nothing
from ..provenance import WARNING, is_synthetic, png_text
from ..rendering import Progress, read_annotations
from ..slides.formats import format_of, labels_path, stem
from ..slides.reading import Slide, open_slide

TILED, PYRAMIDS = ("lizard", "coco", "masks"), ("types", "instances")
FORMATS = (*TILED, "tiatoolbox", *PYRAMIDS)
STRIP = 1024  # pixels of a row of a label pyramid that are rasterised at once
BATCH = 4096  # nuclei that are written to the store at once


def export(
    slide: str | Path,
    out: str | Path,
    *,
    form: str,
    labels: str | Path | None = None,
    mpp: float | None = None,
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
        tile: the largest side of a tile in pixels. All tiles have nearly the same size; those
            without nuclei are left out.
        overwrite: replace an existing file. A folder with tiles is never replaced.
        reading: further arguments of `read_annotations`.

    Raises:
        SlideError: the slide cannot be read.
        AnnotationError: the labels cannot be read, or none lies on the slide.
        OutputError: ``out`` exists, is an input, has the wrong suffix or cannot be written.
    """
    out = Path(out)
    keep_inputs([out], [slide, labels or labels_path(slide)])
    _check(out, form, overwrite=overwrite)
    with open_slide(slide) as opened:
        nuclei = _read_nuclei(opened, labels, mpp=mpp, **reading)
        if form in PYRAMIDS:
            _write_pyramid(out, form, nuclei, opened, progress)
            return
        with whole_or_nothing(out) as part:
            if form == "tiatoolbox":
                _write_store(part, nuclei, _provenance(opened))
            else:
                write = {"lizard": _write_lizard, "coco": _write_coco, "masks": _write_masks}
                write[form](part, _tiles(opened, nuclei, tile, progress))


def _check(out: Path, form: str, *, overwrite: bool) -> None:
    if form not in FORMATS:
        raise ValueError(f"{form} is none of {', '.join(FORMATS)}")
    if form in PYRAMIDS:
        format_of(out, labels=True)  # refuses other suffixes
    if out.is_dir():
        raise OutputError(f"{out} exists: choose another name or remove it")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists: choose another name or give `overwrite`")
    check_writable(out)


def _read_nuclei(
    slide: Slide, labels: str | Path | None, *, mpp: float | None, **reading: Any
) -> Nuclei:
    """Return the nuclei in pixels of the slide, relative to its corner."""
    if labels is None:
        labels = labels_path(slide.path)
        if not labels.exists():
            raise AnnotationError(f"{labels}: no such file: give the annotations with `labels`")
    known = slide.mpp is not None and mpp is None
    source: dict[str, Any] = {"like": slide.path} if known else {"mpp": mpp}
    nuclei = read_annotations(Path(labels), **source, **reading)
    slide.mpp = slide.mpp or nuclei.mpp
    return nuclei.scaled(slide.mpp).shifted(*slide.bounds)


# Tiles


@dataclass(frozen=True)
class Tile:
    """A part of the slide that holds nuclei.

    Attributes:
        name: of its files, without a suffix.
        image: uint8 (h, w, 3).
        instances: int32 (h, w), 0 for background, else 1 to n.
        types: uint8 (n,), 1 to 6.
        provenance: the description of a rendered slide; "" for other slides.
    """

    name: str
    image: np.ndarray
    instances: np.ndarray
    types: np.ndarray
    provenance: str

    def masks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """The corner (y0, x0) and the mask, bool (h, w), of the bounding box of each instance."""
        for number, (y, x) in enumerate(ndimage.find_objects(self.instances), 1):
            yield y.start, x.start, self.instances[y, x] == number

    def save(self, path: Path, pixels: np.ndarray | None = None) -> None:
        """Write the image, or other ``pixels`` of the tile, as a PNG with the provenance."""
        shown = self.image if pixels is None else pixels
        Image.fromarray(shown).save(path, "PNG", pnginfo=png_text(self.provenance))


def _tiles(slide: Slide, nuclei: Nuclei, side: int, progress: Progress | None) -> Iterator[Tile]:
    conditioning, empty = Conditioning(nuclei, slide.size), True
    rows, columns = (itertools.pairwise(_cuts(length, side)) for length in slide.size)
    spans = list(itertools.product(rows, columns))
    for done, ((y0, y1), (x0, x1)) in enumerate(spans, 1):
        instances, _ = conditioning.labels((y0, x0, y1, x1))
        present = np.unique(instances[instances > 0])
        if len(present):
            empty = False
            yield Tile(
                f"{stem(slide.path)}_x{x0}_y{y0}",
                slide.read((y0, x0, y1, x1), mpp=nuclei.mpp),
                np.searchsorted(present, instances, side="right").astype(np.int32),
                nuclei.types[present - 1],
                _provenance(slide),
            )
        if progress:
            progress("exporting", done, len(spans))
    if empty:
        raise AnnotationError(f"no nucleus lies on {slide.path}: check the annotations and `mpp`")


def _provenance(slide: Slide) -> str:
    return slide.description if is_synthetic(slide.description) else ""


def _cuts(length: int, side: int) -> list[int]:
    """Return the bounds of nearly equal parts, of at most ``side``, of a length."""
    parts = math.ceil(length / side)
    return [length * k // parts for k in range(parts + 1)]


def _write_lizard(folder: Path, tiles: Iterator[Tile]) -> None:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for tile in tiles:
        tile.save(folder / "images" / f"{tile.name}.png")
        numbers = np.arange(1, len(tile.types) + 1)
        boxes = [(y, y + m.shape[0], x, x + m.shape[1]) for y, x, m in tile.masks()]
        centres = ndimage.center_of_mass(tile.instances > 0, tile.instances, numbers)
        fields = {
            "inst_map": tile.instances,
            "type_map": np.append(0, tile.types)[tile.instances].astype(np.uint8),  # for HoVer-Net
            "id": numbers[:, None].astype(np.int32),
            "class": tile.types[:, None],
            "bbox": np.array(boxes, np.int32),
            "centroid": np.array(centres)[:, ::-1],
        }
        if tile.provenance:
            fields["provenance"] = tile.provenance
        savemat(folder / "labels" / f"{tile.name}.mat", fields, do_compression=True)


def _write_masks(folder: Path, tiles: Iterator[Tile]) -> None:
    folder.mkdir()
    for tile in tiles:
        tile.save(folder / f"{tile.name}.png")
        tile.save(folder / f"{tile.name}_masks.png", tile.instances.astype(np.uint16))


def _write_coco(folder: Path, tiles: Iterator[Tile]) -> None:
    """Write masks as run lengths, which keep every pixel, with one annotation in each line."""
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    about = "Nuclei with their outlines."
    numbers = itertools.count(1)
    with open(folder / "annotations.json", "w", encoding="utf-8", newline="\n") as file:
        file.write('{"annotations": [')
        for image_id, tile in enumerate(tiles, 1):
            name, about = f"{tile.name}.png", tile.provenance or about
            tile.save(folder / "images" / name)
            h, w = tile.instances.shape
            images.append({"id": image_id, "file_name": name, "width": w, "height": h})
            for annotation, number in zip(_annotations(tile), numbers, strict=False):
                file.write("\n" if number == 1 else ",\n")
                file.write(json.dumps({"id": number, "image_id": image_id, **annotation}))
        kinds = [
            {"id": k, "name": name, "supercategory": "nucleus"}
            for k, name in enumerate(TYPES[1:], 1)
        ]
        rest = {"info": {"description": about}, "images": images, "categories": kinds}
        file.write(f"\n], {json.dumps(rest)[1:]}\n")


def _annotations(tile: Tile) -> Iterator[dict[str, Any]]:
    size = tile.instances.shape
    for kind, (y0, x0, mask) in zip(tile.types, tile.masks(), strict=True):
        yield {
            "category_id": int(kind),
            "segmentation": {"size": list(size), "counts": _run_lengths(mask, y0, x0, size)},
            "area": int(mask.sum()),
            "bbox": [x0, y0, mask.shape[1], mask.shape[0]],
            "iscrowd": 0,
        }


def _run_lengths(mask: np.ndarray, y0: int, x0: int, size: tuple[int, ...]) -> list[int]:
    """COCO's run lengths of a mask (h, w) at y0, x0, down the columns of a tile of ``size``."""
    x, y = mask.T.nonzero()
    place = (x + x0) * size[0] + y + y0
    begin = np.diff(place, prepend=-2) != 1
    end = np.roll(begin, -1)
    borders = np.stack([place[begin], place[end] + 1], axis=1).ravel()
    return np.diff(borders, prepend=0, append=math.prod(size)).tolist()


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


class _Labels:
    """Types or instances (h, w) of a slide, which are rasterised when rows are read."""

    def __init__(self, form: str, nuclei: Nuclei, size: tuple[int, int]):
        self._labels, self.shape = Conditioning(nuclei, size).labels, size
        self._which = 1 if form == "types" else 0
        numbers = np.uint16 if len(nuclei) < 2**16 else np.uint32
        self.dtype = np.dtype(np.uint8 if form == "types" else numbers)

    def __getitem__(self, rows: slice) -> np.ndarray:
        h, w = self.shape
        y0, y1, _ = rows.indices(h)
        boxes = ((y0, x, y1, min(x + STRIP, w)) for x in range(0, w, STRIP))
        return np.hstack([self._labels(box)[self._which].astype(self.dtype) for box in boxes])


def _write_pyramid(
    out: Path, form: str, nuclei: Nuclei, slide: Slide, progress: Progress | None
) -> None:
    names = ", ".join(f"{k} {name}" for k, name in enumerate(TYPES))
    meaning = f"types: {names}" if form == "types" else "numbers: 0 background"
    warning = f"{WARNING} " if is_synthetic(slide.description) else ""
    format_of(out).write(
        out,
        _Labels(form, nuclei, slide.size),
        mpp=nuclei.mpp,
        description=f"{warning}Nuclei of {slide.path.name} by their {meaning}.",
        progress=partial(progress, "writing") if progress else None,
    )

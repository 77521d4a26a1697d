"""Tiles of slides with their nuclei, in the formats of other tools.

lizard       images/NAME.png, labels/NAME.mat: as in the Lizard dataset, with type_map
coco         images/NAME.png, annotations.json: COCO instances
masks        NAME.png, NAME_masks.png: for Cellpose and StarDist

tiles.csv beside them lists the tiles as `prepare` reads them: image, name, mpp, nuclei (the file of
the labels, if they are in Lizard's format), patient. The PNGs tell their pixel size too (pHYs).
Axis order is (y, x), a box is (y0, x0, y1, x1), half open.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.io import savemat

from ..annotations.nuclei import Nuclei
from ..annotations.raster import Conditioning
from ..annotations.types import TYPES
from ..errors import AnnotationError
from ..provenance import is_synthetic, png_text
from ..slides.formats import stem
from ..slides.reading import Slide

TABLE = "tiles.csv"
INCH = 25400.0  # micrometres


@dataclass(frozen=True)
class Tile:
    """A part of the slide that holds nuclei.

    Attributes:
        name: of its files, without a suffix.
        image: uint8 (h, w, 3).
        instances: int32 (h, w), 0 for background, else 1 to n.
        types: uint8 (n,), 1 to 6.
        mpp: micrometres per pixel.
        patient: whom the slide is of, or the name of the slide.
        provenance: the description of a rendered slide; "" for other slides.
    """

    name: str
    image: np.ndarray
    instances: np.ndarray
    types: np.ndarray
    mpp: float
    patient: str
    provenance: str

    def masks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield the corner (y0, x0) and mask, bool (h, w), of the bounding box of each instance."""
        for number, (y, x) in enumerate(ndimage.find_objects(self.instances), 1):
            yield y.start, x.start, self.instances[y, x] == number

    def save(self, path: Path, pixels: np.ndarray | None = None) -> None:
        """Write the image, or other ``pixels`` of the tile, as a PNG with the provenance."""
        shown = self.image if pixels is None else pixels
        dots = INCH / self.mpp
        text = png_text(self.provenance)
        Image.fromarray(shown).save(path, "PNG", pnginfo=text, dpi=(dots, dots))


def tiles_of(
    slide: Slide,
    nuclei: Nuclei,
    *,
    side: int,
    patient: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Tile]:
    """Yield the tiles of a slide that hold nuclei, at the pixel size of the nuclei.

    Args:
        nuclei: in pixels from the corner of the slide.
        side: the largest side of a tile; all tiles have nearly the same size.
        patient: whom the slide is of; by default the name of the slide.
        progress: called with the number of tiles looked at and of all tiles.

    Raises:
        AnnotationError: no nucleus lies on the slide.
    """
    size = size_at(slide, nuclei.mpp)
    conditioning, name, empty = Conditioning(nuclei, size), stem(slide.path), True
    rows, columns = (itertools.pairwise(_cuts(length, side)) for length in size)
    spans = list(itertools.product(rows, columns))
    for done, ((y0, y1), (x0, x1)) in enumerate(spans, 1):
        instances, _ = conditioning.labels((y0, x0, y1, x1))
        present = np.unique(instances[instances > 0])
        if len(present):
            empty = False
            yield Tile(
                name=f"{name}_x{x0}_y{y0}",
                image=slide.read((y0, x0, y1, x1), mpp=nuclei.mpp),
                instances=np.searchsorted(present, instances, side="right").astype(np.int32),
                types=nuclei.types[present - 1],
                mpp=nuclei.mpp,
                patient=patient or name,
                provenance=provenance_of(slide),
            )
        if progress:
            progress(done, len(spans))
    if empty:
        raise AnnotationError(f"no nucleus lies on {slide.path}: check the annotations and `mpp`")


def size_at(slide: Slide, mpp: float) -> tuple[int, int]:
    """Return the size (h, w) of a slide in pixels of ``mpp``."""
    height, width = (max(1, round(n * (slide.mpp or mpp) / mpp)) for n in slide.size)
    return height, width


def provenance_of(slide: Slide) -> str:
    """Return the description of a rendered slide; "" for other slides."""
    return slide.description if is_synthetic(slide.description) else ""


def _cuts(length: int, side: int) -> list[int]:
    """Return the bounds of nearly equal parts, of at most ``side``, of a length."""
    parts = math.ceil(length / side)
    return [length * k // parts for k in range(parts + 1)]


@dataclass(frozen=True)
class TileFormat:
    """A format of tiles.

    Attributes:
        write: writes tiles into a folder.
        image, labels: the files of a tile in the folder; {} is its name. ``labels`` is "" if
            `prepare` does not read them.
    """

    write: Callable[[Path, Iterator[Tile]], None]
    image: str
    labels: str = ""


def write_tiles(folder: Path, form: str, tiles: Iterator[Tile]) -> None:
    """Write tiles into a new folder, in one of the formats of TILED, and the table of them."""
    chosen = TILED[form]
    folder.mkdir()
    with open(folder / TABLE, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image", "name", "mpp", "nuclei", "patient"])

        def listed() -> Iterator[Tile]:
            for tile in tiles:
                files = chosen.image.format(tile.name), chosen.labels.format(tile.name)
                table.writerow([files[0], tile.name, f"{tile.mpp:g}", files[1], tile.patient])
                yield tile

        chosen.write(folder, listed())


def _write_lizard(folder: Path, tiles: Iterator[Tile]) -> None:
    for name in ("images", "labels"):
        (folder / name).mkdir()
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
    for tile in tiles:
        tile.save(folder / f"{tile.name}.png")
        tile.save(folder / f"{tile.name}_masks.png", tile.instances.astype(np.uint16))


def _write_coco(folder: Path, tiles: Iterator[Tile]) -> None:
    """Write masks as run lengths, which keep every pixel, with one annotation in each line."""
    (folder / "images").mkdir()
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


TILED = {
    "lizard": TileFormat(_write_lizard, "images/{}.png", "labels/{}.mat"),
    "coco": TileFormat(_write_coco, "images/{}.png"),
    "masks": TileFormat(_write_masks, "{}.png"),
}

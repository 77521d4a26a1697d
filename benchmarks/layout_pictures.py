"""Pictures of a layout and its slide, beside the annotations of real pictures at the same scale.

    nasdm-wsi layout -o layout.geojson --size 4000 4000 --seed 11 --tissue carcinoma
    nasdm-wsi render layout.geojson -o slide.ome.tif
    python benchmarks/layout_pictures.py layout.geojson slide.ome.tif data/held-out OUT

OUT receives whole.jpg, the layout in QuPath's colours and the slide, and detail.jpg: windows of
both at full size, and below them annotations of real pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from nasdm_wsi.annotations.formats import read_contents
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.annotations.regions import PALETTE as REGION_PALETTE
from nasdm_wsi.annotations.types import PALETTE
from nasdm_wsi.slides.reading import open_slide
from nasdm_wsi.tools import dataset
from nasdm_wsi.tools.sources import UNPUBLISHED

WHOLE, SIDE, GAP = 800, 400, 6  # pixels
FAINT = 0.4  # of the colours of regions


def coloured(types: np.ndarray, regions: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Return nuclei in QuPath's colours over faint regions, uint8 (h, w, 3)."""
    picture = 255 - FAINT * (255 - REGION_PALETTE[regions].astype(float))
    inside = types > 0
    picture[inside] = PALETTE[types[inside]]
    border = np.zeros(types.shape, bool)
    for axis in (0, 1):
        border |= instances != np.roll(instances, 1, axis)
    picture[border & inside] *= 0.6
    return picture.astype(np.uint8)


def drawn(conditioning: Conditioning, box: tuple[int, int, int, int]) -> np.ndarray:
    """Return a box of a layout in colours."""
    instances, types = conditioning.labels(box)
    return coloured(types, conditioning.regions(box), instances)


def tiled(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Return pictures of one size in rows, with white gaps."""
    frame = ((0, GAP), (0, GAP), (0, 0))
    lines = [np.hstack([np.pad(p, frame, constant_values=255) for p in row]) for row in rows]
    return np.vstack(lines)[:-GAP, :-GAP]


def shrunk(picture: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(picture).resize((WHOLE, WHOLE), Image.Resampling.BOX))


def real_windows(folder: Path, names: list[str]) -> list[np.ndarray]:
    """Return the annotations of the middle of real pictures in colours."""
    found = []
    for picture in dataset.read_regions(folder):
        if picture.name in names and picture.regions is not None:
            y, x = ((side - SIDE) // 2 for side in picture.types.shape)
            cut = np.s_[y : y + SIDE, x : x + SIDE]
            types = np.where(picture.types[cut] == UNPUBLISHED, 0, picture.types[cut])
            found.append(coloured(types, picture.regions[cut], picture.instances[cut]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layout", type=Path)
    parser.add_argument("slide", type=Path)
    parser.add_argument("dataset", type=Path, help="a prepared dataset with labelled regions")
    parser.add_argument("out", type=Path)
    parser.add_argument("--pictures", nargs="+", default=["train_1", "train_10", "train_19"])
    parser.add_argument("--corners", type=int, nargs="+", default=[600, 700, 1900, 1500, 3000, 600])
    options = parser.parse_args()
    nuclei = read_contents(options.layout).nuclei
    size = nuclei.canvas_size
    conditioning = Conditioning(nuclei, size)
    with open_slide(options.slide) as slide:
        pixels = slide.read((0, 0, *size), mpp=nuclei.mpp)
    options.out.mkdir(parents=True, exist_ok=True)
    whole = tiled([[shrunk(drawn(conditioning, (0, 0, *size))), shrunk(pixels)]])
    Image.fromarray(whole).save(options.out / "whole.jpg", quality=72)
    corners = zip(options.corners[::2], options.corners[1::2], strict=True)
    boxes = [(y, x, y + SIDE, x + SIDE) for x, y in corners]
    rows = [
        [drawn(conditioning, box) for box in boxes],
        [pixels[y0:y1, x0:x1] for y0, x0, y1, x1 in boxes],
        real_windows(options.dataset, options.pictures),
    ]
    Image.fromarray(tiled(rows)).save(options.out / "detail.jpg", quality=80)


if __name__ == "__main__":
    main()

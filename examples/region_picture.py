"""Show the regions of a rendered slide, as drawn, above the slide.

python examples/region_picture.py slide.ome.tif picture.jpg
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from nasdm_wsi import open_slide, read_annotations
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.annotations.regions import PALETTE, REGIONS
from nasdm_wsi.annotations.types import PALETTE as OF_NUCLEI
from nasdm_wsi.slides.formats import labels_path

ROW = 26  # pixels of the legend


def drawn(conditioning: Conditioning, size: tuple[int, int]) -> np.ndarray:
    """The regions in their colours, with the nuclei on them: uint8 (h, w, 3)."""
    box = (0, 0, *size)
    _, types = conditioning.labels(box)
    picture = PALETTE[conditioning.regions(box)]
    return np.where((types > 0)[..., None], OF_NUCLEI[types] // 2, picture)


def legend(width: int, numbers: np.ndarray) -> np.ndarray:
    """The names of regions beside their colours, in one row."""
    row = Image.new("RGB", (width, ROW), "white")
    pen = ImageDraw.Draw(row)
    for k, number in enumerate(numbers):
        x = 6 + k * (width - 6) // len(numbers)
        pen.rectangle((x, 6, x + 14, 20), fill=tuple(PALETTE[number].tolist()), outline="black")
        pen.text((x + 20, 6), REGIONS[number - 1], fill="black", font_size=14)
    return np.asarray(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--quality", type=int, default=76)
    options = parser.parse_args()
    with open_slide(options.slide) as slide:
        size, mpp = slide.size, slide.mpp
        pixels = slide.read((0, 0, *size), mpp=mpp)
    nuclei = read_annotations(labels_path(options.slide), mpp=mpp)
    above = drawn(Conditioning(nuclei, size), size)
    row = legend(size[1], np.unique(nuclei.regions.types))
    Image.fromarray(np.vstack([above, row, pixels])).save(options.picture, quality=options.quality)


if __name__ == "__main__":
    main()

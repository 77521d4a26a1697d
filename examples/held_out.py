"""Paint the held-out rectangles of a prepared dataset from their masks, beside what is there.

Rows of the picture: real, mask, painted. One column a region; each is painted in the style of its
region, which the real pixels of the rectangle have a small share in.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tifffile
from PIL import Image

from nasdm_wsi import plan_render, render
from nasdm_wsi.dataset import MPP, Region, read_regions
from nasdm_wsi.lizard import from_labels
from nasdm_wsi.model import Painter
from nasdm_wsi.nuclei import PALETTE

GAP = 4  # white pixels between pictures


def held_out_crops(region: Region, side: int) -> Iterator[tuple[slice, slice]]:
    """The middle of each held-out rectangle that has room for it."""
    for y0, x0, y1, x1 in region.held_out:
        y, x = (y0 + y1 - side) // 2, (x0 + x1 - side) // 2
        if y >= y0 and x >= x0:
            yield slice(y, y + side), slice(x, x + side)


def column(region: Region, crop: tuple[slice, slice], *, seed: int, **painting) -> np.ndarray:
    """Real, mask and painted pixels below each other, uint8 (h, w, 3)."""
    types = region.types[crop]
    nuclei = from_labels(region.instances[crop], types, mpp=MPP)
    painter = Painter(style=region.stain.style, **painting)
    job = plan_render(nuclei, painter, size=types.shape, seed=seed)
    with TemporaryDirectory() as folder:
        render(job, Path(folder, "crop.tif"), lossless=True)
        painted = tifffile.imread(Path(folder, "crop.tif"))
    gap = np.full((GAP, types.shape[1], 3), 255, np.uint8)
    return np.concatenate([region.image[crop], gap, PALETTE[types], gap, painted])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("held_out.png"))
    parser.add_argument("--weights", type=Path, help="default: those in the package")
    parser.add_argument("--side", type=int, default=128, help="pixels a side of a crop")
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    painting = {"weights": options.weights} if options.weights else {}
    chosen = [
        (r, c) for r in read_regions(options.dataset) for c in held_out_crops(r, options.side)
    ]
    chosen = chosen[:: max(1, len(chosen) // options.columns)][: options.columns]
    columns = [column(r, c, seed=options.seed, **painting) for r, c in chosen]
    gap = np.full((len(columns[0]), GAP, 3), 255, np.uint8)
    rows = [part for c in columns for part in (c, gap)][:-1]
    Image.fromarray(np.concatenate(rows, axis=1)).save(options.output, quality=92)


if __name__ == "__main__":
    main()

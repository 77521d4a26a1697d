"""Paint the held-out rectangles of a prepared dataset from their masks, beside what is there.

Rows of the picture: real, mask, painted. One column a region; each is painted in the style of its
region, which the real pixels of the rectangle have a small share in.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from nasdm_wsi.annotations.types import PALETTE
from nasdm_wsi.model import Painter
from nasdm_wsi.model.checkpoint import SHIPPED
from nasdm_wsi.model.evaluation.evaluate import paint
from nasdm_wsi.tools.dataset import Region, read_regions

GAP = 4  # white pixels between pictures


def held_out_crops(region: Region, side: int) -> Iterator[tuple[slice, slice]]:
    """The middle of each held-out rectangle that has room for it."""
    for y0, x0, y1, x1 in region.held_out:
        y, x = (y0 + y1 - side) // 2, (x0 + x1 - side) // 2
        if y >= y0 and x >= x0:
            yield slice(y, y + side), slice(x, x + side)


def column(region: Region, crop: tuple[slice, slice], painter: Painter) -> np.ndarray:
    """Real, mask and painted pixels below each other, uint8 (h, w, 3)."""
    mask = PALETTE[region.types[crop]]
    gap = np.full((GAP, mask.shape[1], 3), 255, np.uint8)
    return np.concatenate([region.image[crop], gap, mask, gap, paint(region, crop, painter)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("held_out.png"))
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--side", type=int, default=128, help="pixels a side of a crop")
    parser.add_argument("--columns", type=int, default=10)
    options = parser.parse_args()
    painter = Painter(options.weights)
    chosen = [
        (r, c) for r in read_regions(options.dataset) for c in held_out_crops(r, options.side)
    ]
    chosen = chosen[:: max(1, len(chosen) // options.columns)][: options.columns]
    columns = [column(r, c, painter) for r, c in chosen]
    gap = np.full((len(columns[0]), GAP, 3), 255, np.uint8)
    rows = [part for c in columns for part in (c, gap)][:-1]
    Image.fromarray(np.concatenate(rows, axis=1)).save(options.output, quality=92)


if __name__ == "__main__":
    main()

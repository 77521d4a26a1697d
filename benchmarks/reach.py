"""Distance up to which the mask determines the colour of a place.

    python benchmarks/reach.py data/colon [--batches 600]

Small networks see the mask up to some distance, and no pixels. They learn the mean colour of cells
of 8 pixels. What a longer reach gains in held-out cells is what a model that sees as far could
gain.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import machine, table
from torch import Tensor, nn

from nasdm_wsi.annotations.raster import edges, planes_of
from nasdm_wsi.annotations.types import EDGE, TYPES
from nasdm_wsi.tools.dataset import UNPUBLISHED, Region, read_regions

CELL = 8  # pixels a side
SIDE = 48  # cells of a crop
BATCH = 8
WIDTH = 48
MASK, COLOUR, USABLE, HELD_OUT = slice(0, 8), slice(8, 11), slice(11, 12), slice(12, 13)
DILATIONS = ((), (1, 1), (1, 1, 2), (1, 1, 2, 4), (1, 1, 2, 4, 8), (1, 1, 2, 4, 8, 8, 8))


class Guess(nn.Module):
    """Colour (n, 3, h, w) of cells from the mask (n, 8, h, w) and a style (n, 6)."""

    def __init__(self, dilations: tuple[int, ...]):
        super().__init__()
        self.stem = nn.Conv2d(8 + 6, WIDTH, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.SiLU(),
                nn.Conv2d(WIDTH, WIDTH, 3, padding=d, dilation=d),
                nn.SiLU(),
                nn.Conv2d(WIDTH, WIDTH, 1),
            )
            for d in dilations
        )
        self.head = nn.Sequential(nn.SiLU(), nn.Conv2d(WIDTH, 3, 1))

    def forward(self, mask: Tensor, style: Tensor) -> Tensor:
        h = self.stem(torch.cat([mask, style[..., None, None].expand(-1, -1, *mask.shape[2:])], 1))
        for block in self.blocks:
            h = h + block(h)
        return self.head(h)


def cells_of(region: Region) -> Tensor:
    """Planes (13, h, w): mask, mean colour, and which cells are usable or held out as a whole."""
    known = region.types != UNPUBLISHED
    planes = planes_of((*TYPES[1:], EDGE), region.types, edges(region.instances)) * known
    held_out = np.zeros_like(known)
    for y0, x0, y1, x1 in region.held_out:
        held_out[y0:y1, x0:x1] = known[y0:y1, x0:x1]
    pixels = region.image.transpose(2, 0, 1) / np.float32(127.5) - 1
    all_planes = [*planes, known, *pixels, region.usable, held_out]
    means = F.avg_pool2d(torch.from_numpy(np.stack(all_planes).astype(np.float32)), CELL)
    means[USABLE.start :] = (means[USABLE.start :] == 1).float()
    return means


def random_crops(
    places: list[Tensor], styles: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A batch of crops (n, 13, SIDE, SIDE), rotated and flipped, and their styles (n, 6)."""
    share = np.array([float(cells[USABLE].sum()) for cells in places])
    chosen = rng.choice(len(places), BATCH, p=share / share.sum())
    crops = []
    for cells in (places[k] for k in chosen):
        y, x = (int(rng.integers(max(n - SIDE, 0) + 1)) for n in cells.shape[1:])
        crop = cells[:, y : y + SIDE, x : x + SIDE]
        crop = F.pad(crop, (0, SIDE - crop.shape[2], 0, SIDE - crop.shape[1]))
        crop = torch.rot90(crop, int(rng.integers(4)), (1, 2))
        crops.append(crop.flip(2) if rng.integers(2) else crop)
    return torch.stack(crops), styles[chosen]


def trained(places: list[Tensor], styles: Tensor, dilations: tuple, batches: int) -> Guess:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = Guess(dilations)
    adam = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, batches)
    for _ in range(batches):
        crops, given = random_crops(places, styles, rng)
        off = (network(crops[:, MASK], given) - crops[:, COLOUR]).square() * crops[:, USABLE]
        adam.zero_grad()
        (off.sum() / crops[:, USABLE].sum()).backward()
        adam.step()
        rate.step()
    return network


@torch.inference_mode()
def explained(network: Guess, places: list[Tensor], styles: Tensor, where: slice) -> float:
    """Explained share of the variance of colour about each picture's mean, over a plane's cells."""
    wrong = spread = 0.0
    for cells, style in zip(places, styles, strict=True):
        colour, usable = cells[COLOUR], cells[USABLE]
        mean = (colour * usable).sum((1, 2), keepdim=True) / usable.sum()
        guess = network(cells[None, MASK], style[None])[0]
        wrong += float(((guess - colour).square() * cells[where]).sum())
        spread += float(((mean - colour).square() * cells[where]).sum())
    return 1 - wrong / spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--batches", type=int, default=600)
    options = parser.parse_args()
    print(machine("torch"))
    regions = list(read_regions(options.dataset))
    places = [cells_of(region) for region in regions]
    styles = torch.tensor(np.stack([region.stain.style for region in regions]))
    styles = (styles - styles.mean(0)) / styles.std(0)
    rows = []
    for dilations in DILATIONS:
        network = trained(places, styles, dilations, options.batches)
        shares = (explained(network, places, styles, part) for part in (USABLE, HELD_OUT))
        rows.append((sum(dilations) * CELL, *shares))
    table(("reach in pixels", "explained in training", "explained, held out"), rows)


if __name__ == "__main__":
    main()

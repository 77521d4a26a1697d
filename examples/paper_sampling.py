"""Sample patches as the paper does: ancestral sampling, 250 steps, guidance 1.5 at all of them.

For weights of the `semantic` family. Rows of the picture: real held-out patches, their masks, the
samples. (`nasdm-wsi render` takes 18 steps of DPM-Solver++ instead, and whole slides.)
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nasdm_wsi.annotations.raster import edges, planes_of
from nasdm_wsi.annotations.types import PALETTE, PLANES
from nasdm_wsi.errors import CheckpointError
from nasdm_wsi.model import load_network
from nasdm_wsi.model.ddpm import linear_schedule, sample_ancestral
from nasdm_wsi.model.devices import choose_device
from nasdm_wsi.model.diffusion import Condition, NoisePredictor
from nasdm_wsi.model.guidance import guided
from nasdm_wsi.tools.dataset import Region, read_regions


def held_out_patch(region: Region, side: int) -> tuple[slice, slice] | None:
    """The corner of the region's first held-out rectangle, if there is room."""
    for y, x, y1, x1 in region.held_out:
        if min(y1 - y, x1 - x) >= side:
            return slice(y, y + side), slice(x, x + side)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("samples.png"))
    parser.add_argument("--side", type=int, default=128, help="of the training patches")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()

    network, device = load_network(options.weights), choose_device(options.device)
    if not hasattr(network.config, "condition"):
        raise CheckpointError(f"{options.weights} is not of the semantic family")
    regions = [(r, held_out_patch(r, options.side)) for r in read_regions(options.dataset)]
    chosen = [(region, cut) for region, cut in regions if cut][: options.count]
    masks = [planes_of(PLANES, r.types[cut], edges(r.instances)[cut]) for r, cut in chosen]
    condition = Condition(torch.from_numpy(np.stack(masks)).to(device), torch.zeros(0))

    shape = (len(chosen), 3, options.side, options.side)

    def noise(k: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + k)
        return torch.randn(shape, generator=generator).to(device)

    predict = guided(
        NoisePredictor(network).to(device).outputs, options.guidance, interval=(0, 1000)
    )
    schedule = linear_schedule().respaced(options.steps)
    drawn = sample_ancestral(predict, noise, condition, schedule=schedule).cpu().numpy()
    pixels = ((drawn.transpose(0, 2, 3, 1) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    rows = [
        [region.image[cut] for region, cut in chosen],
        [PALETTE[region.types[cut]] for region, cut in chosen],
        list(pixels),
    ]
    Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows])).save(
        options.output
    )


if __name__ == "__main__":
    main()

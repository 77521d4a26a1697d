"""At which noise levels do pictures stop looking real?

    python benchmarks/noise_levels.py data/colon [--weights FILE] [--guidance S]

The held-out pixels themselves are noised to a level and painted on from there: what is larger than
that noise is real, what is smaller is the network's. A distance that is large already at low levels
is one of texture; what comes on top at high levels is one of structure. Of one evaluation of the
whole rectangle, with the solver and the schedule of `render`.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from measure import machine, table

from nasdm_wsi.conditioning import edges, one_hot
from nasdm_wsi.dataset import UNPUBLISHED, read_regions
from nasdm_wsi.model import Painter
from nasdm_wsi.model.checkpoint import SHIPPED
from nasdm_wsi.model.diffusion import Condition
from nasdm_wsi.model.evaluate import (
    SIDE,
    _known_patches,
    _measured,
    efficientnet,
    frechet_distance,
    kernel_distance,
)
from nasdm_wsi.model.samplers import dpmpp_2m_step
from nasdm_wsi.rendering import default_workers


@torch.inference_mode()
def painted_from(real: np.ndarray, planes: np.ndarray, painter: Painter, first: int) -> np.ndarray:
    """Uint8 (h, w, 3): real pixels, noised to the level of a step and painted on from there."""
    grid = painter.cut.geometry["grid"]
    h, w = (n // grid * grid for n in real.shape[:2])
    mask = np.concatenate([planes, np.ones_like(planes[:1])])[None, :, :h, :w]
    condition = Condition(torch.from_numpy(mask), torch.from_numpy(painter.style)[None])
    x = torch.from_numpy(real[:h, :w].transpose(2, 0, 1)[None] / np.float32(127.5) - 1)
    noise = np.random.default_rng(0).standard_normal(x.shape, np.float32)
    sigmas = painter.sigmas[first:]
    x = previous = x + sigmas[0] * torch.from_numpy(noise)
    for k in range(len(sigmas) - 1):
        x0 = painter._estimate(x, first + k, condition)
        x, previous = dpmpp_2m_step(x, x0, previous, sigmas=sigmas, k=k), x0
    rgb = np.rint((x[0].clamp(-1, 1).numpy().transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
    out = real.copy()
    out[:h, :w] = rgb
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--guidance", type=float)
    options = parser.parse_args()
    print(machine("torch"))
    given = {} if options.guidance is None else {"guidance": options.guidance}
    painter, features = Painter(options.weights, device="cpu", **given), efficientnet()
    places = [
        (region, np.s_[y0:y1, x0:x1])
        for region in read_regions(options.dataset)
        for y0, x0, y1, x1 in region.held_out
        if min(y1 - y0, x1 - x0) >= SIDE
    ]
    known = [region.types[cut] != UNPUBLISHED for region, cut in places]

    def patches_of(pictures: list[np.ndarray]) -> np.ndarray:
        pairs = zip(pictures, known, strict=True)
        return np.stack([patch for pair in pairs for patch in _known_patches(*pair, 1)])

    real = [region.image[cut] for region, cut in places]
    planes = [one_hot(region.types[cut], edges(region.instances[cut])) for region, cut in places]
    styled = [painter.restyled(region.stain.style) for region, _ in places]
    seen, _ = _measured(patches_of(real), features)
    rows = []
    for first in reversed(range(len(painter.sigmas) - 1)):
        with ThreadPoolExecutor(default_workers()) as pool:
            pictures = list(pool.map(painted_from, real, planes, styled, [first] * len(real)))
        painted, _ = _measured(patches_of(pictures), features)
        distances = frechet_distance(seen, painted), kernel_distance(seen, painted)
        rows.append((painter.sigmas[first], *distances))
        print(rows[-1], flush=True)
    print(features.name)
    table(("noise level", "Fréchet distance", "kernel distance"), rows)


if __name__ == "__main__":
    main()

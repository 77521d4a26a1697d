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
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import machine, table

from nasdm_wsi.conditioning import edges, one_hot
from nasdm_wsi.dataset import UNPUBLISHED, Region
from nasdm_wsi.model import Painter
from nasdm_wsi.model.checkpoint import SHIPPED
from nasdm_wsi.model.diffusion import Condition
from nasdm_wsi.model.distances import frechet_distance, kernel_distance
from nasdm_wsi.model.evaluate import efficientnet, held_out, known_patches
from nasdm_wsi.model.samplers import sample
from nasdm_wsi.rendering import default_workers


@torch.inference_mode()
def painted_from(painter: Painter, sigmas: list[float], place: tuple[Region, tuple]) -> np.ndarray:
    """Uint8 (h, w, 3): real pixels, noised to the first level and painted on from there."""
    region, cut = place
    out = region.image[cut].copy()
    h, w = (n // painter.network.grid * painter.network.grid for n in out.shape[:2])
    planes = one_hot(region.types[cut], edges(region.instances[cut]))
    mask = np.concatenate([planes, np.ones_like(planes[:1])])[None, :, :h, :w]
    condition = Condition(torch.from_numpy(mask), torch.from_numpy(region.stain.style)[None])
    real = torch.from_numpy(out[:h, :w].transpose(2, 0, 1)[None] / np.float32(127.5) - 1)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(real.shape, np.float32))
    with torch.autocast("cpu", painter.dtype, enabled=painter.dtype != torch.float32):
        x = sample(painter.denoise, noise + real / sigmas[0], condition, sigmas=sigmas)
    rgb = (x[0].clamp(-1, 1).numpy().transpose(1, 2, 0) + 1) * 127.5
    out[:h, :w] = np.rint(rgb)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--guidance", type=float, default=1.0)
    options = parser.parse_args()
    print(machine("torch"))
    painter = Painter(options.weights, device="cpu", guidance=options.guidance)
    features, places = efficientnet(), list(held_out(options.dataset))

    def features_of(pictures: list[np.ndarray]) -> np.ndarray:
        known = [region.types[cut] != UNPUBLISHED for region, cut in places]
        patches = [p for pair in zip(pictures, known, strict=True) for p in known_patches(*pair)]
        return features.of(np.stack(patches))[0]

    real = features_of([region.image[cut] for region, cut in places])
    rows = []
    for first in reversed(range(len(painter.sigmas) - 1)):
        sigmas = painter.sigmas[first:]
        with ThreadPoolExecutor(default_workers()) as pool:
            pictures = list(pool.map(partial(painted_from, painter, sigmas), places))
        painted = features_of(pictures)
        rows.append((sigmas[0], frechet_distance(real, painted), kernel_distance(real, painted)))
    table(("noise level", f"Fréchet distance ({features.name})", "kernel distance"), rows)


if __name__ == "__main__":
    main()

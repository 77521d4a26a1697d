"""Distance between painted and real texture, without a learnt feature.

    python benchmarks/texture.py data/colon WEIGHTS ...

Local binary patterns (Ojala and others 2002) of the amounts of haematoxylin and eosin describe
which of a pixel's eight neighbours at a distance are darker than the pixel. Their shares over
held-out pixels, real and painted, are compared by the Jensen-Shannon distance, from 0 to 1. Real
patches from other places in the same pictures give the scale. Two more columns: the root mean
square difference of the logarithms of the power spectra, for waves of 2 to 128 pixels; and the
standard deviation, in grey levels, of a pattern that repeats with the cells of the network's
lowest resolution.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from measure import machine, table
from scenes import Scenes
from scipy.spatial.distance import jensenshannon
from skimage.color import hed_from_rgb
from skimage.feature import local_binary_pattern

from nasdm_wsi.model import Painter
from nasdm_wsi.model.evaluation.evaluate import SIDE, STRIDE, patches_elsewhere
from nasdm_wsi.model.training.critic import grid_pattern
from nasdm_wsi.slides.tissue import optical_density

RADII = (1, 2, 4)
NAMES = [f"{stain}, radius {radius}" for stain in "HE" for radius in RADII]


def patterns(patches: np.ndarray) -> list[np.ndarray]:
    """Shares of the ten uniform patterns in patches (n, h, w, 3), for each of `NAMES`."""
    shares = []
    for stain in range(2):
        amounts = [optical_density(p) @ hed_from_rgb[:, stain] for p in patches]
        for radius in RADII:
            codes = [
                local_binary_pattern(np.rint(255 * a).astype(np.uint8), 8, radius, "uniform")
                for a in np.clip(amounts, 0, 1)
            ]
            shares.append(np.bincount(np.ravel(codes).astype(int), minlength=10) / np.size(codes))
    return shares


def spectrum(patches: np.ndarray) -> np.ndarray:
    """Logarithm of the power of brightness in rings of 1 to 64 waves a patch, one wave wide."""
    window = np.hanning(SIDE)[:, None] * np.hanning(SIDE)
    grey = patches.mean(axis=3)
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(grey * window)) ** 2).mean(axis=0)
    waves = np.hypot(*np.meshgrid(*[SIDE * np.fft.fftfreq(SIDE)] * 2)).round().astype(int)
    means = np.bincount(waves.ravel(), power.ravel()) / np.bincount(waves.ravel())
    return np.log(means[1 : SIDE // 2 + 1])


def pattern(patches: np.ndarray, grid: int) -> float:
    """Standard deviation, in grey levels, between places in a cell, over patches (n, h, w, 3)."""
    own = patches[:, :STRIDE, :STRIDE]  # what patches do not share
    pixels = torch.from_numpy(own).permute(0, 3, 1, 2) / 127.5
    return 127.5 * max(0.0, float(grid_pattern(pixels, grid))) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("weights", type=Path, nargs="+")
    options = parser.parse_args()
    print(machine("scikit-image", "torch"))
    painters = {str(path): Painter(path, device="cpu") for path in options.weights}
    grid = max(painter.network.grid for painter in painters.values())
    scenes = Scenes(options.dataset, grid=grid)
    sides = {
        "real, elsewhere": [p for place in scenes.places for p in patches_elsewhere(*place, 1)]
    }
    for name, painter in painters.items():
        sides[name] = scenes.patches(scenes.painted(painter.denoise, painter.sigmas))
    real = np.stack(scenes.patches(scenes.real))
    wanted, wave = patterns(real), spectrum(real)
    rows = []
    for name, patches in sides.items():
        stack = np.stack(patches)
        apart = [jensenshannon(a, b, 2) for a, b in zip(wanted, patterns(stack), strict=True)]
        off = float(np.sqrt(((spectrum(stack) - wave) ** 2).mean()))
        rows.append(
            (name, *(f"{a:.4f}" for a in apart), f"{off:.3f}", f"{pattern(stack, grid):.2f}")
        )
    table(("patches", *NAMES, "spectrum", "pattern"), rows)


if __name__ == "__main__":
    main()

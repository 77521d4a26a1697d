"""Noise levels at which realism is lost.

    python benchmarks/noise_levels.py data/colon [--weights FILE] [--guidance S]

Noise of one level is added to held-out pixels, and the model denoises them from there. Structures
too large to be hidden by that noise remain real; smaller ones come from the network. A distance
that is large already at low levels is one of texture; what high levels add is one of structure.
Each rectangle is evaluated whole, with the solver and the schedule of `render`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from measure import machine, table
from scenes import Scenes

from nasdm_wsi.model import Painter
from nasdm_wsi.model.checkpoint import SHIPPED
from nasdm_wsi.model.evaluation.distances import frechet_distance, kernel_distance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--guidance", type=float, default=1.0)
    options = parser.parse_args()
    print(machine("torch"))
    painter = Painter(options.weights, device="cpu", guidance=options.guidance)
    scenes = Scenes(options.dataset, grid=painter.network.grid)
    real = scenes.features(scenes.real)
    rows = []
    for first in reversed(range(len(painter.sigmas) - 1)):
        sigmas = painter.sigmas[first:]
        painted = scenes.features(scenes.painted(painter.denoise, sigmas, from_real=True))
        rows.append((sigmas[0], frechet_distance(real, painted), kernel_distance(real, painted)))
    table(("noise level", f"Fréchet distance ({scenes.measured_by})", "kernel distance"), rows)


if __name__ == "__main__":
    main()

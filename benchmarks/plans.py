"""Smooth plans of slides for the package, and compare drawn plans with held-out real ones.

    python benchmarks/plans.py ORION [--write]

ORION holds 35 real plans as palette PNGs, one cell for 112 micrometres. Every third is held out;
``--write`` writes the others, smoothed, into the package. The table compares, with the held-out
plans, the plans that `layouts.plans.SlidePlan` draws, sampled at 112 micrometres, and the real
plans that are not held out; the last row are real plans whose cells are shuffled.

    shares      of the classes on tissue: total variation
    neighbours  which class lies beside which, on tissue: total variation
    pieces      mean size of a connected piece, in square millimetres, weighted by area
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from measure import table
from PIL import Image
from scipy import ndimage

from nasdm_wsi.layouts.colon import STEP
from nasdm_wsi.layouts.plans import CELL, CLASSES, PLANS, SlidePlan

SMOOTHING = 1.0  # cells
CANVAS = (18_000, 25_000)  # micrometres
DRAWN = 12


def smoothed(plan: np.ndarray) -> np.ndarray:
    """Return a plan without the speckle of the network that predicted it."""
    shares = [ndimage.gaussian_filter((plan == k).astype(float), SMOOTHING) for k in range(CLASSES)]
    return np.argmax(shares, axis=0).astype(np.uint8)


def drawn(seed: int) -> np.ndarray:
    """Return a drawn plan, one value for each cell."""
    plan = SlidePlan(CANVAS, seed=seed)
    width = CANVAS[1] // CELL * CELL
    lines = [
        plan.ground((y, 0, y + STEP, width))[0, :: CELL // STEP]
        for y in range(0, CANVAS[0] // CELL * CELL, CELL)
    ]
    return np.array(lines)


def shares(plans: list[np.ndarray]) -> np.ndarray:
    counts = sum(np.bincount(plan.ravel(), minlength=CLASSES)[1:CLASSES] for plan in plans)
    return counts / counts.sum()


def neighbours(plans: list[np.ndarray]) -> np.ndarray:
    counts = np.zeros((CLASSES, CLASSES))
    for plan in plans:
        for a, b in ((plan[1:], plan[:-1]), (plan[:, 1:], plan[:, :-1])):
            np.add.at(counts, (a, b), 1)
            np.add.at(counts, (b, a), 1)
    counts[0, 0] = 0
    return counts / counts.sum()


def pieces(plans: list[np.ndarray]) -> float:
    areas: list[float] = []
    for plan in plans:
        for kind in range(1, CLASSES):
            labels, _ = ndimage.label(plan == kind)
            areas += np.bincount(labels.ravel())[1:].tolist()
    sizes = np.array(areas)
    return float((sizes**2).sum() / sizes.sum() * (CELL / 1000) ** 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("orion", type=Path)
    parser.add_argument("--write", action="store_true", help="write the plans of the package")
    options = parser.parse_args()
    files = sorted(options.orion.glob("plan_*.png"))
    held_out = [smoothed(np.array(Image.open(path))) for path in files[2::3]]
    given = {path.name: path for k, path in enumerate(files) if k % 3 != 2}
    if options.write:
        for name, path in given.items():
            image = Image.fromarray(smoothed(np.array(Image.open(path))), "P")
            image.putpalette(Image.open(path).getpalette()[: 3 * CLASSES])
            image.save(PLANS / name, optimize=True, bits=4)
    others = [smoothed(np.array(Image.open(path))) for path in given.values()]
    rng = np.random.default_rng(0)
    shuffled = [rng.permutation(plan.ravel()).reshape(plan.shape) for plan in held_out]
    rows = []
    for name, plans in (
        ("held out", held_out),
        ("drawn", [drawn(seed) for seed in range(DRAWN)]),
        ("real", others),
        ("shuffled", shuffled),
    ):
        apart = [
            np.abs(measure(plans) - measure(held_out)).sum() / 2 for measure in (shares, neighbours)
        ]
        rows.append([name, *(f"{value:.3f}" for value in apart), f"{pieces(plans):.2f}"])
    table(["plans", "shares", "neighbours", "pieces"], rows)


if __name__ == "__main__":
    main()

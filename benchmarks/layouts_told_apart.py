"""Can a small network tell layouts from real ones, and are they copies of training layouts?

    python benchmarks/layouts_told_apart.py data/held-out FOLDER ... [--training data/colon]

FOLDER holds NAME.geojson for each picture of the first dataset, as `layouts_in_regions.py` writes
them. A network sees where nuclei of each type lie in squares of 128 micrometres. It is trained on
half of the pictures, real and made, and judged on the others by the area under the ROC curve (AUC):
0.5 means that it cannot tell them apart. Random points and shuffled types show what it can see.

With ``--training``, the distance of a layout to the nearest one in the training pictures is the
median, over squares of 96 micrometres, of the root mean square difference of blurred densities,
relative to that of held-out real pictures: below 1, layouts lie nearer to the training pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from layouts import COARSE, Layout, hard_core, read_made, read_real, shuffled
from measure import machine, table
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from nasdm_wsi.annotations.types import TYPES

CELL = 2  # micrometres per pixel that the network sees
SIDE = 64  # of its squares, in these pixels
LEAST_PUBLISHED = 0.6  # share of a square
STEPS, BATCH = 400, 64
BLUR, GRAIN, SPAN = 4.0, 8, 12  # of distances: micrometres, micrometres per pixel, pixels


def picture(layout: Layout) -> np.ndarray:
    """Return where nuclei of each type lie, and what is published: float32 (7, h, w)."""
    step = int(CELL / COARSE)
    h, w = (n // step for n in layout.published.shape)
    out = np.zeros((len(TYPES), h, w), np.float32)
    y, x = np.minimum((layout.centres / CELL).astype(int), (h - 1, w - 1)).T
    np.add.at(out, (layout.types, y, x), 1)
    out[0] = layout.published[: h * step : step, : w * step : step]
    return out


def squares(layout: Layout) -> Tensor:
    """Return squares (n, 7, side, side) of a layout of which enough is published."""
    whole = picture(layout)
    starts = [range(0, max(n - SIDE, 0) + 1, SIDE // 2) for n in whole.shape[1:]]
    cuts = [whole[:, y : y + SIDE, x : x + SIDE] for y in starts[0] for x in starts[1]]
    full = [c for c in cuts if c.shape[1:] == (SIDE, SIDE) and c[0].mean() >= LEAST_PUBLISHED]
    return torch.from_numpy(np.array(full).reshape(-1, len(TYPES), SIDE, SIDE))


def judge_network() -> nn.Module:
    """Return a network from squares to a logit: 20,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(len(TYPES), 16, 5, stride=2, padding=2),
        nn.SiLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 1),
    )


def auc(real: Sequence[Tensor], made: Sequence[Tensor]) -> float:
    """Return the AUC on pictures that the network has not seen; both sides are by picture."""
    order = np.random.default_rng(0).permutation(len(real))
    scores, answers = [], []
    for fold in (0, 1):
        train, test = order[fold::2], order[1 - fold :: 2]
        network = trained([real[i] for i in train], [made[i] for i in train], seed=fold)
        for side, answer in ((made, 1), (real, 0)):
            with torch.no_grad():
                scores.append(network(torch.cat([side[i] for i in test]))[:, 0].numpy())
            answers.append(np.full(len(scores[-1]), answer))
    return area_under_curve(np.concatenate(scores), np.concatenate(answers))


def trained(real: list[Tensor], made: list[Tensor], *, seed: int) -> nn.Module:
    """Train a network to tell squares of two sides apart, turned and flipped."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = judge_network()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    sides = torch.cat(real), torch.cat(made)
    answers = torch.cat([torch.zeros(BATCH // 2), torch.ones(BATCH // 2)])
    for _ in range(STEPS):
        drawn = [side[torch.from_numpy(rng.integers(len(side), size=BATCH // 2))] for side in sides]
        batch = torch.rot90(torch.cat(drawn), int(rng.integers(4)), (2, 3))
        if rng.random() < 0.5:
            batch = batch.flip(3)
        loss = F.binary_cross_entropy_with_logits(network(batch)[:, 0], answers)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network


def area_under_curve(scores: np.ndarray, answers: np.ndarray) -> float:
    """Return the share of pairs, one of each side, whose scores are in the right order."""
    zeros = np.sort(scores[answers == 0])
    ones = scores[answers == 1]
    below = np.searchsorted(zeros, ones, "left") + np.searchsorted(zeros, ones, "right")
    return float(below.mean() / 2 / len(zeros))


def grains(layouts: Sequence[Layout], stride: int) -> np.ndarray:
    """Return blurred densities of all published squares, float32 (n, 6, span, span)."""
    out = []
    for layout in layouts:
        fine = picture(layout)
        fine[1:] = [gaussian_filter(plane, BLUR / CELL) for plane in fine[1:]]
        step = GRAIN // CELL
        h, w = (n // step * step for n in fine.shape[1:])
        coarse = fine[:, :h, :w].reshape(len(fine), h // step, step, w // step, step)
        coarse = coarse.mean(axis=(2, 4))
        if min(coarse.shape[1:]) >= SPAN:
            cuts = sliding_window_view(coarse, (SPAN, SPAN), axis=(1, 2))[:, ::stride, ::stride]
            cuts = np.moveaxis(cuts, 0, 2).reshape(-1, len(TYPES), SPAN, SPAN)
            out.append(cuts[cuts[:, 0].min(axis=(1, 2)) > 0.99, 1:])
    return np.concatenate(out)


def nearest(layouts: Sequence[Layout], training: np.ndarray) -> float:
    """Return the median distance of the squares of layouts to the nearest training square."""
    known = training.reshape(len(training), -1)
    lengths = (known**2).sum(axis=1)
    best = np.inf
    squares = grains(layouts, SPAN // 2)
    for turn in range(4):
        for flip in (1, -1):
            asked = np.rot90(squares, turn, (2, 3))[..., ::flip].reshape(len(squares), -1)
            apart = lengths - 2 * asked @ known.T + (asked**2).sum(axis=1)[:, None]
            best = np.minimum(best, apart.min(axis=1))
    return float(np.median(np.sqrt(np.maximum(best, 0))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="a prepared dataset of held-out pictures")
    parser.add_argument("folders", type=Path, nargs="+", help="folders of layouts to judge")
    parser.add_argument("--training", type=Path, help="the dataset that a source learnt from")
    options = parser.parse_args()
    print(machine("torch"))
    real = [a for a in read_real(options.dataset, ["*"]) if len(a.types) > 1]
    rng = np.random.default_rng(1)
    sides = {
        "random points": [hard_core(layout, rng) for layout in real],
        "shuffled types": [shuffled(layout, rng) for layout in real],
    }
    sides |= {folder.name: read_made(folder, real) for folder in options.folders}
    known = [squares(layout) for layout in real]
    print(f"{len(real)} pictures, {sum(map(len, known))} squares a side")
    training = grains(read_real(options.training, ["*"]), 1) if options.training else None
    scale = nearest(real, training) if training is not None else 1.0
    rows = []
    for name, layouts in sides.items():
        apart = f"{nearest(layouts, training) / scale:.3f}" if training is not None else ""
        rows.append((name, f"{auc(known, [squares(a) for a in layouts]):.3f}", apart))
    table(("layouts", "AUC", "distance to the nearest training layout"), rows)


if __name__ == "__main__":
    main()

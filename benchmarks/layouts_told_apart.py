"""Can a small network tell layouts from real ones, and are they copies of training layouts?

    python benchmarks/layouts_told_apart.py data/held-out FOLDER ... [--training data/colon]

FOLDER holds NAME.geojson for each picture of the first dataset, as `layouts_in_regions.py` writes
them. A small network sees statistics of squares of 128 micrometres: how many nuclei of each type
there are, how many lie within several distances of each other, and how far the nearest one is. It
is trained on half of the pictures, real and made, and judged on the others by the area under the
ROC curve (AUC): 0.5 means that it cannot tell them apart. Random points and shuffled types show
what it can see.

With ``--training``, the last column says whether layouts lie nearer to the training pictures than
to as many others: the median, over squares of 96 micrometres, of the distance to the nearest square
of a training picture, divided by that of a held-out picture (not its own). It is relative to the
same ratio of the real held-out pictures: copies would be far below 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from layouts import (
    COARSE,
    CONNECTIVE,
    EPITHELIAL,
    INFLAMMATORY,
    Layout,
    hard_core,
    read_made,
    read_real,
    shuffled,
)
from measure import machine, table
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from torch import nn

from nasdm_wsi.annotations.types import TYPES

SIDE = 128.0  # micrometres of a square
LEAST_PUBLISHED = 0.6  # share of a square
LEAST_NUCLEI = 8
GROUPS = ((EPITHELIAL,), (CONNECTIVE,), INFLAMMATORY)
REACHES = (6.0, 9.0, 13.0, 20.0, 30.0)  # micrometres
STEPS, BATCH, REPEATS = 600, 64, 3
CELL = 2.0  # micrometres per pixel of the pictures of which distances are measured
BLUR, GRAIN, SPAN = 4.0, 8, 12  # micrometres, micrometres per pixel, pixels a side


def squares(layout: Layout) -> np.ndarray:
    """Return the statistics of all squares of which enough is published, float32 (n, features)."""
    step = int(SIDE / COARSE)
    found = []
    for y in range(0, layout.published.shape[0] - step + 1, step // 2):
        for x in range(0, layout.published.shape[1] - step + 1, step // 2):
            share = layout.published[y : y + step, x : x + step].mean()
            low = np.array([y, x]) * COARSE
            inside = ((layout.centres >= low) & (layout.centres < low + SIDE)).all(axis=1)
            if share >= LEAST_PUBLISHED and inside.sum() >= LEAST_NUCLEI:
                found.append(features(layout.centres[inside], layout.types[inside], share))
    return np.array(found, np.float32).reshape(len(found), -1)


def features(centres: np.ndarray, types: np.ndarray, share: float) -> np.ndarray:
    """Return numbers that describe a square: counts, pairs within distances, nearest distances."""
    trees = [centres[np.isin(types, group)] for group in GROUPS]
    counts = np.bincount(types, minlength=len(TYPES))[1:] / share
    out = [np.log1p(counts)]
    for i, a in enumerate(trees):
        for b in trees[i:]:
            if len(a) and len(b):
                pairs = cKDTree(a).count_neighbors(cKDTree(b), REACHES)
                pairs = np.maximum(pairs - (len(a) if a is b else 0), 0)
                out.append(np.log1p(pairs / (len(a) * len(b)) * 1000))
            else:
                out.append(np.zeros(len(REACHES)))
    for points in (*trees, centres):
        near = cKDTree(points).query(points, 2)[0][:, 1] if len(points) > 2 else np.zeros(1)
        out.append(np.percentile(np.minimum(near, 40), (5, 25, 50, 75, 95)) / 10)
    return np.concatenate(out)


def auc(real: Sequence[np.ndarray], made: Sequence[np.ndarray]) -> float:
    """Return the AUC on pictures that the network has not seen; both sides are by picture."""
    areas = []
    for repeat in range(REPEATS):
        order = np.random.default_rng(repeat).permutation(len(real))
        for fold in (0, 1):
            train, test = order[fold::2], order[1 - fold :: 2]
            network = trained([real[i] for i in train], [made[i] for i in train], seed=repeat)
            ones, zeros = (np.concatenate([side[i] for i in test]) for side in (made, real))
            areas.append(area_under_curve(network(zeros), network(ones)))
    return float(np.mean(areas))


def trained(real: list[np.ndarray], made: list[np.ndarray], *, seed: int):
    """Return a function that scores squares, trained to tell two sides apart."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    sides = [torch.from_numpy(np.concatenate(side)) for side in (real, made)]
    both = torch.cat(sides)
    mean, spread = both.mean(0), both.std(0) + 1e-3
    network = nn.Sequential(nn.Linear(both.shape[1], 32), nn.SiLU(), nn.Linear(32, 1))
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.1)
    answers = torch.cat([torch.zeros(BATCH // 2), torch.ones(BATCH // 2)])
    for _ in range(STEPS):
        drawn = [side[torch.from_numpy(rng.integers(len(side), size=BATCH // 2))] for side in sides]
        scores = network((torch.cat(drawn) - mean) / spread)[:, 0]
        loss = F.binary_cross_entropy_with_logits(scores, answers)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def score(squares: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network((torch.from_numpy(squares) - mean) / spread)[:, 0].numpy()

    return score


def area_under_curve(zeros: np.ndarray, ones: np.ndarray) -> float:
    """Return the share of pairs, one of each side, whose scores are in the right order."""
    zeros = np.sort(zeros)
    below = np.searchsorted(zeros, ones, "left") + np.searchsorted(zeros, ones, "right")
    return float(below.mean() / 2 / len(zeros))


# Distances to other layouts


def grains(layout: Layout, stride: int) -> np.ndarray:
    """Return blurred densities of the published squares, float32 (n, 6, span, span)."""
    step, grain = int(CELL / COARSE), int(GRAIN / CELL)
    h, w = (n // step // grain * grain for n in layout.published.shape)
    fine = np.zeros((len(TYPES), h, w), np.float32)
    y, x = np.minimum((layout.centres / CELL).astype(int), (h - 1, w - 1)).T
    np.add.at(fine, (layout.types, y, x), 1)
    fine[1:] = [gaussian_filter(plane, BLUR / CELL) for plane in fine[1:]]
    fine[0] = layout.published[: h * step : step, : w * step : step]
    coarse = fine.reshape(len(fine), h // grain, grain, w // grain, grain).mean(axis=(2, 4))
    if min(coarse.shape[1:]) < SPAN:
        return np.empty((0, len(TYPES) - 1, SPAN, SPAN), np.float32)
    cuts = sliding_window_view(coarse, (SPAN, SPAN), axis=(1, 2))[:, ::stride, ::stride]
    cuts = np.moveaxis(cuts, 0, 2).reshape(-1, len(TYPES), SPAN, SPAN)
    return cuts[cuts[:, 0].min(axis=(1, 2)) > 0.99, 1:]


def nearest(squares: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distance (n,) of squares, turned and flipped, to the nearest of others."""
    known = others.reshape(len(others), -1)
    lengths = (known**2).sum(axis=1)
    best = np.full(len(squares), np.inf)
    for turn in range(4):
        for flip in (1, -1):
            asked = np.rot90(squares, turn, (2, 3))[..., ::flip].reshape(len(squares), -1)
            apart = lengths - 2 * asked @ known.T + (asked**2).sum(axis=1)[:, None]
            best = np.minimum(best, apart.min(axis=1))
    return np.sqrt(np.maximum(best, 1e-9))


def nearness(side: Sequence[Layout], real: Sequence[Layout], training: Sequence[Layout]) -> float:
    """Return how much nearer the training pictures are than held-out ones: a median ratio."""
    rng = np.random.default_rng(0)
    learnt = np.concatenate([grains(layout, 1) for layout in training])
    unseen = [grains(layout, 1) for layout in real]
    ratios = []
    for k, layout in enumerate(side):
        asked = grains(layout, SPAN // 2)
        others = np.concatenate([part for j, part in enumerate(unseen) if j != k])
        count = min(len(learnt), len(others))
        subsets = [rng.permutation(len(part))[:count] for part in (learnt, others)]
        if len(asked):
            near = nearest(asked, learnt[subsets[0]]), nearest(asked, others[subsets[1]])
            ratios.append(near[0] / near[1])
    return float(np.median(np.concatenate(ratios)))


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
    training = read_real(options.training, ["*"]) if options.training else []
    scale = nearness(real, real, training) if training else 1.0
    rows = []
    for name, layouts in sides.items():
        near = f"{nearness(layouts, real, training) / scale:.3f}" if training else ""
        rows.append((name, f"{auc(known, [squares(a) for a in layouts]):.3f}", near))
    table(("layouts", "AUC", "nearness to training pictures"), rows)


if __name__ == "__main__":
    main()

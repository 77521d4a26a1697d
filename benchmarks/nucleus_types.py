"""Can a classifier read the type of nuclei, in real pictures and in painted ones?

    python benchmarks/nucleus_types.py data/colon-true [--weights FILE] [--classifier FILE]
        [--seeds 0 1 2]

A small convolutional network learns the types from real nuclei that are not held out: squares of
48 pixels around each, with its outline as a fourth plane. It then reads the held-out nuclei, first
in the real pixels and then in pixels painted from their masks. Rows of the tables are the types in
the mask and columns the types that were read, in per cent of the row; counts of several seeds are
added. `--classifier` keeps the trained classifier in a file: if the file exists, nothing is
trained, so that other weights cost only painting and reading.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import machine, table
from scipy import ndimage
from torch import nn

from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.job import default_workers
from nasdm_wsi.model import Painter
from nasdm_wsi.model.checkpoint import SHIPPED
from nasdm_wsi.model.devices import native_precision
from nasdm_wsi.model.evaluation.evaluate import paint
from nasdm_wsi.tools.dataset import UNPUBLISHED, Region, read_regions

SIDE = 48
BATCH = 96  # as many of each type


def views(picture: np.ndarray, region: Region, cut: tuple) -> Iterator[tuple[np.ndarray, int]]:
    """View, uint8 (4, SIDE, SIDE), and type of each nucleus whose square fits into ``cut``."""
    instances, types = region.instances[cut], region.types[cut]
    for k, found in enumerate(ndimage.find_objects(instances), 1):
        if found is None:
            continue
        y, x = ((s.start + s.stop - SIDE) // 2 for s in found)
        window = np.s_[y : y + SIDE, x : x + SIDE]
        if (
            min(y, x) < 0
            or types[window].shape != (SIDE, SIDE)
            or (types[window] == UNPUBLISHED).any()
        ):
            continue
        own = instances[window] == k
        planes = np.concatenate([picture[window], np.uint8(255) * own[..., None]], axis=-1)
        yield planes.transpose(2, 0, 1), int(types[window][own][0])


def nuclei_of(pairs: list[tuple[np.ndarray, int]]) -> tuple[torch.Tensor, np.ndarray]:
    """Views (n, 4, SIDE, SIDE), float32 in [-1, 1], and types (n,)."""
    planes = torch.from_numpy(np.stack([view for view, _ in pairs]))
    return planes.float() / 127.5 - 1, np.array([kind for _, kind in pairs])


def classifier() -> nn.Module:
    """The network, with random weights."""
    torch.manual_seed(0)
    widths = [4, 32, 64, 96, 128]
    layers: list[nn.Module] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Dropout(0.3), nn.Linear(widths[-1] * (SIDE // 16) ** 2, 6)]
    return nn.Sequential(*layers)


def trained(seen: torch.Tensor, kinds: np.ndarray, *, steps: int) -> nn.Module:
    """Train a classifier of nuclei on equally many of each type, rotated, flipped and relit."""
    network, rng = classifier().to(memory_format=torch.channels_last), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    of_type = [np.flatnonzero(kinds == k) for k in range(1, len(TYPES))]
    for _ in range(steps):
        chosen = np.concatenate([rng.choice(those, BATCH // 6) for those in of_type])
        x = torch.rot90(seen[chosen], int(rng.integers(4)), (2, 3))
        x = x.flip(3) if rng.integers(2) else x
        light = 1 + 0.15 * torch.randn(len(x), 3, 1, 1)
        x = torch.cat([1 - (1 - x[:, :3]) * light, x[:, 3:]], dim=1)
        x = x.contiguous(memory_format=torch.channels_last)
        with native_precision(torch.device("cpu")):
            read = network(x)
        loss = F.cross_entropy(read.float(), torch.from_numpy(kinds[chosen]) - 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def confusion(network: nn.Module, seen: torch.Tensor, kinds: np.ndarray) -> np.ndarray:
    """Counts (6, 6): rows are the types in the mask, columns the types that were read."""
    read = np.concatenate([network(part).argmax(1).numpy() for part in seen.split(512)])
    counts = np.zeros((6, 6), int)
    np.add.at(counts, (kinds - 1, read), 1)
    return counts


def known_views(dataset: Path) -> list[tuple[np.ndarray, int]]:
    """The views of all nuclei that are not held out."""
    pairs: list[tuple[np.ndarray, int]] = []
    for region in read_regions(dataset):
        hidden = replace(region, types=np.where(region.usable, region.types, UNPUBLISHED))
        pairs += views(region.image, hidden, np.s_[:, :])
    return pairs


def kept(file: Path | None, dataset: Path, *, steps: int) -> nn.Module:
    """The classifier of a file; if there is none, train it and write the file."""
    if file and file.exists():
        network = classifier()
        network.load_state_dict(torch.load(file, weights_only=True))
        return network.eval()
    network = trained(*nuclei_of(known_views(dataset)), steps=steps)
    if file:
        torch.save(network.state_dict(), file)
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--classifier", type=Path, help="file that keeps the classifier")
    parser.add_argument("--steps", type=int, default=3000, help="of training the classifier")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of painting")
    options = parser.parse_args()
    print(machine("torch"), flush=True)
    torch.set_num_threads(default_workers())
    network = kept(options.classifier, options.dataset, steps=options.steps)
    places = [
        (region, np.s_[y0:y1, x0:x1])
        for region in read_regions(options.dataset)
        for y0, x0, y1, x1 in region.held_out
    ]
    report(network, "real", [[v for r, cut in places for v in views(r.image[cut], r, cut)]])
    painter = Painter(options.weights)
    painted = [
        [v for r, cut in places for v in views(paint(r, cut, painter, seed=seed), r, cut)]
        for seed in options.seeds
    ]
    report(network, "painted", painted)


def report(network: nn.Module, name: str, seeds: list[list[tuple[np.ndarray, int]]]) -> None:
    """Print what the classifier reads in the views of each seed."""
    counts = [confusion(network, *nuclei_of(pairs)) for pairs in seeds]
    means = [100 * (np.diag(c) / c.sum(1)).mean() for c in counts]
    each = ", ".join(f"{mean:.1f}" for mean in means)
    print(f"\n{name}: {each} % are read as what they are, mean of six types")
    total = np.sum(counts, axis=0)
    shares = (100 * total / total.sum(1, keepdims=True)).round(1)
    rows = [(t, int(n.sum()), *s) for t, n, s in zip(TYPES[1:], total, shares, strict=True)]
    table(("mask", "nuclei", *TYPES[1:]), rows)


if __name__ == "__main__":
    main()

"""Training samples: number ``i`` of a prepared dataset is a function of (seed, i) alone.

That makes a resumed run read on where it stopped, and lets any number of processes share the work.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...annotations.raster import edges, one_hot
from ...annotations.types import TYPES
from ...errors import DatasetError
from ...slides.stain import restain
from ...tools.dataset import read_regions, window_sums

TRIES = 64


class Crops(Dataset):
    """Random crops with quarter turns, flips and stain augmentation.

    Item ``i`` is (pixels (3, c, c) float32 in [-1, 1], mask (8, c, c) float32, style (6,) float32).
    Crops touch neither unpublished nor held-out pixels. A share `rare_types` of them is centred
    near a nucleus of a type drawn uniformly from the six; the others are uniform over the area.

    Raises:
        DatasetError: no region has room for a crop.
    """

    def __init__(self, dataset: Path, *, crop: int, rare_types: float = 0.5, seed: int = 0):
        self.crop, self.rare_types, self.seed = crop, rare_types, seed
        self.regions, self.free = [], []
        for region in read_regions(dataset):
            if min(region.types.shape) >= crop:
                # True where a crop may have its corner.
                free = window_sums(region.usable, (crop, crop)) == crop * crop
                if free.any():
                    self.regions.append(region)
                    self.free.append(free)
        if not self.regions:
            raise DatasetError(f"{dataset}: no region has room for a crop of {crop} pixels")
        self.edges = [edges(r.instances) for r in self.regions]
        area = np.array([r.usable.sum() for r in self.regions], float)
        self.share = area / area.sum()
        self.places = [self._places_of(t) for t in range(1, len(TYPES))]

    def _places_of(self, nucleus_type: int) -> np.ndarray:
        """(n, 3): region, y, x of one pixel of each nucleus of the type."""
        rows = []
        for k, region in enumerate(self.regions):
            _, first = np.unique(region.instances, return_index=True)
            first = first[region.types.flat[first] == nucleus_type]
            y, x = np.unravel_index(first, region.types.shape)
            rows.append(np.stack([np.full_like(y, k), y, x], axis=1))
        return np.concatenate(rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, index])
        k, y, x = self._place(rng)
        region, c = self.regions[k], self.crop
        cut = np.s_[y : y + c, x : x + c]
        matrix = stain_matrix(rng)
        pixels = restain(region.image[cut], matrix).transpose(2, 0, 1) / np.float32(127.5) - 1
        planes = one_hot(region.types[cut], self.edges[k][cut])
        mask = np.concatenate([planes, np.ones((1, c, c), np.float32)])
        turn, flip = int(rng.integers(4)), int(rng.integers(2))
        return (
            torch.from_numpy(_turned(pixels, turn, flip)),
            torch.from_numpy(_turned(mask, turn, flip)),
            torch.from_numpy(region.stain.restained(matrix).style),
        )

    def _place(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Region, y, x of a crop that lies wholly in usable pixels."""
        while True:
            rows = self.places[rng.integers(len(self.places))]
            rare = len(rows) > 0 and rng.random() < self.rare_types
            for _ in range(TRIES):
                if rare:
                    k, y, x = rows[rng.integers(len(rows))] - [0, *rng.integers(0, self.crop, 2)]
                else:
                    k = rng.choice(len(self.regions), p=self.share)
                    y, x = (rng.integers(n) for n in self.free[k].shape)
                free = self.free[k]
                if min(y, x) >= 0 and y < free.shape[0] and x < free.shape[1] and free[y, x]:
                    return int(k), int(y), int(x)

    def styles(self, count: int = 512) -> np.ndarray:
        """Style vectors (count, 6) as training meets them: regions by area, restained."""
        rng = np.random.default_rng(self.seed)
        drawn = rng.choice(len(self.regions), size=count, p=self.share)
        return np.stack([self.regions[k].stain.restained(stain_matrix(rng)).style for k in drawn])


class Patches(Dataset):
    """The patches of the paper, as they are: no augmentation (Shrivastava and Fletcher, 2023).

    A grid of `side` pixels with half of them overlapping; the last row and column are moved inward.
    magnification: 20 takes pixels as they are, 10 takes twice the side and halves it. Patches with
    unpublished or held-out pixels are left out. Item ``i`` is as in `Crops`, in an order that is
    shuffled anew each time all have been seen.

    Raises:
        DatasetError: no region has room for a patch.
    """

    def __init__(self, dataset: Path, *, side: int = 128, magnification: int = 20, seed: int = 0):
        self.seed, self.step = seed, {20: 1, 10: 2}[magnification]
        self.span = side * self.step
        self.places = []
        for region in read_regions(dataset):
            usable = region.usable
            # Edges are those of the whole region, so that a patch has them as the slide has.
            around = np.pad(region.instances, self.step, mode="edge")
            for y in _starts(usable.shape[0], self.span):
                for x in _starts(usable.shape[1], self.span):
                    if usable[y : y + self.span, x : x + self.span].all():
                        self.places.append((region, around, y, x))
        if not self.places:
            raise DatasetError(f"{dataset}: no region has room for a patch of {self.span} pixels")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        again, k = divmod(index, len(self))
        order = np.random.default_rng([self.seed, again]).permutation(len(self))
        region, around, y, x = self.places[order[k]]
        cut = np.s_[y : y + self.span, x : x + self.span]
        n = self.span // self.step
        blocks = region.image[cut].reshape(n, self.step, n, self.step, 3)
        pixels = blocks.mean(axis=(1, 3), dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
        wide = np.s_[y : y + self.span + 2 * self.step, x : x + self.span + 2 * self.step]
        edge = edges(around[wide][:: self.step, :: self.step])[1:-1, 1:-1]
        planes = one_hot(region.types[cut][:: self.step, :: self.step], edge)
        mask = np.concatenate([planes, np.ones((1, n, n), np.float32)])
        return (
            torch.from_numpy(np.ascontiguousarray(pixels)),
            torch.from_numpy(mask),
            torch.from_numpy(region.stain.style),
        )


def draws(seed: int, indices: range, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """What training draws for samples: noise level and dropout (n,) in [0, 1), noise (n, *shape).

    As `Crops`, a function of (seed, i): the same however samples are shared among processes.
    """
    levels, drops, noise = [], [], []
    for index in indices:
        rng = np.random.default_rng([seed, index, 1])
        levels.append(rng.random())
        drops.append(rng.random())
        noise.append(rng.standard_normal(shape, np.float32))
    return (
        torch.tensor(levels).clamp(1e-6, 1 - 1e-6),
        torch.tensor(drops),
        torch.from_numpy(np.stack(noise)),
    )


def stain_matrix(rng: np.random.Generator) -> np.ndarray:
    """A random change of stain, (3, 3): amounts by some 20 %, hue by mixing a little, or none."""
    if rng.random() < 0.25:
        return np.eye(3)
    return np.diag(np.exp(rng.normal(0, 0.2, 3))) + rng.normal(0, 0.04, (3, 3)) * (1 - np.eye(3))


def _starts(length: int, span: int) -> list[int]:
    """Where windows of ``span`` begin that overlap by half, the last one moved inward."""
    if length < span:
        return []
    return sorted({*range(0, length - span + 1, span // 2), length - span})


def _turned(planes: np.ndarray, turn: int, flip: int) -> np.ndarray:
    turned = np.rot90(planes, turn, axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if flip else turned)

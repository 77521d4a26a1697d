"""Training samples: number ``i`` of a prepared dataset is a function of (seed, i) alone.

A resumed run therefore continues with the next sample, and any number of processes can share the
work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...annotations.raster import edges, planes_of
from ...annotations.types import PLANES, TYPES
from ...errors import DatasetError
from ...job import PIXELS
from ...slides.stain import restain
from ...tools.dataset import dataset_mpp, read_regions, window_sums
from ..config import TrainingConfig
from ..diffusion import Condition
from ..pixels import to_signal
from .forgetting import only_nuclei, told_in_part
from .maps import Maps
from .region_maps import RegionMaps
from .samples import Sample, turned

TRIES = 64


@dataclass(frozen=True)
class Batch:
    """Samples and the random numbers drawn for them: everything that an objective needs.

    indices: the numbers of the samples. pixels: (n, 3, c, c). condition: the input of the network,
    which is null for samples whose condition is dropped. level: (n,) in (0, 1), quantiles of noise
    levels. noise: (n, 3, c, c), unit Gaussian.
    """

    indices: range
    pixels: Tensor
    condition: Condition
    level: Tensor
    noise: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the same batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory, from which a GPU copies faster."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        told = self.condition
        told = replace(told, planes=change(told.planes), style=change(told.style))
        pixels, level, noise = (change(part) for part in (self.pixels, self.level, self.noise))
        return Batch(self.indices, pixels, told, level, noise)


class Batches(Dataset):
    """A dataset of the batches of any ranges of sample numbers, for a data loader.

    planes: the names of the planes that the network takes; those that no sample has are unknown.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        seed: int,
        dropout: float,
        planes: tuple[str, ...] = PLANES,
    ):
        self.samples, self.seed, self.dropout = samples, seed, dropout
        self.planes = planes

    def __getitem__(self, indices: range) -> Batch:
        drawn = [self.samples[i] for i in indices]
        pixels, planes, style = map(torch.stack, zip(*drawn, strict=True))
        level, drop, noise = draws(self.seed, indices, pixels.shape[1:])
        condition = Condition(planes, style, self.samples.planes).widened(self.planes)
        condition = condition.drop(drop < self.dropout)
        return Batch(indices, pixels, condition, level, noise)


class Crops(Dataset):
    """Random crops with quarter turns, flips and stain augmentation.

    Crops touch neither unpublished nor held-out pixels. A share `rare_types` of them is centred
    near a nucleus of a type drawn uniformly from the six; the others are uniform over the area.
    Rare nuclei are those of published labels, if there are any. Of regions, of pixels and of nuclei
    with pseudo-labels a random part is told (`forgetting`).

    A share `plain` of the crops are like those of an evaluation: uniform over the area with
    published nuclei, if there is any, in their own stain, and with nuclei as the only condition.

    mpp: micrometres per pixel of the samples. planes: the names of their planes.

    Raises:
        DatasetError: no region has room for a crop, or regions have several pixel sizes.
    """

    def __init__(
        self,
        dataset: Path,
        *,
        crop: int,
        rare_types: float = 0.5,
        plain: float = 0.0,
        seed: int = 0,
        planes: tuple[str, ...] = PLANES,
    ):
        self.crop, self.rare_types, self.plain, self.seed = crop, rare_types, plain, seed
        self.planes = planes
        self.mpp = dataset_mpp(dataset)
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
        published = area * [r.nuclei == "published" for r in self.regions]
        self.published = published / published.sum() if published.any() else self.share
        self.places = [self._places_of(t) for t in range(1, len(TYPES))]

    def _places_of(self, nucleus_type: int) -> np.ndarray:
        """Return (n, 3): region, y, x of one pixel of each nucleus of the type."""
        published = [region.nuclei == "published" for region in self.regions]
        rows = [np.empty((0, 3), int)]
        for k, region in enumerate(self.regions):
            if any(published) and not published[k]:
                continue
            _, first = np.unique(region.instances, return_index=True)
            first = first[region.types.flat[first] == nucleus_type]
            y, x = np.unravel_index(first, region.types.shape)
            rows.append(np.stack([np.full_like(y, k), y, x], axis=1))
        return np.concatenate(rows)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        plain = self.plain > 0 and rng.random() < self.plain
        k, y, x = (
            self._place(rng, self.published, rare_types=0.0)
            if plain
            else self._place(rng, self.share, rare_types=self.rare_types)
        )
        region, c = self.regions[k], self.crop
        cut = np.s_[y : y + c, x : x + c]
        matrix = np.eye(3) if plain else stain_matrix(rng)
        image = to_signal(restain(region.image[cut], matrix))
        turn, flip = int(rng.integers(4)), int(rng.integers(2))
        pixels = torch.from_numpy(turned(image, turn, flip))
        known = torch.from_numpy(turned(self._planes(k, cut), turn, flip))
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        planes = (
            only_nuclei(known, self.planes)
            if plain
            else told_in_part(known, pixels, self.planes, nuclei=region.nuclei, generator=generator)
        )
        return Sample(pixels, planes, torch.from_numpy(region.stain.restained(matrix).style))

    def _planes(self, k: int, cut: Any) -> np.ndarray:
        """Return everything that is known of a crop of region ``k``, except its pixels."""
        region, shown = self.regions[k], [name for name in self.planes if name not in PIXELS]
        regions = None if region.regions is None else region.regions[cut]
        drawn = planes_of(shown, region.types[cut], self.edges[k][cut], regions)
        planes = np.zeros((len(self.planes), *drawn.shape[1:]), np.float32)
        planes[[self.planes.index(name) for name in shown]] = drawn
        return planes

    def _place(
        self, rng: np.random.Generator, share: np.ndarray, *, rare_types: float
    ) -> tuple[int, int, int]:
        """Return region, y, x of a crop that lies entirely in usable pixels.

        share: the probability of each region, where the crop is not near a nucleus of a type.
        """
        while True:
            rows = self.places[rng.integers(len(self.places))]
            rare = len(rows) > 0 and rng.random() < rare_types
            for _ in range(TRIES):
                if rare:
                    k, y, x = rows[rng.integers(len(rows))] - [0, *rng.integers(0, self.crop, 2)]
                else:
                    k = rng.choice(len(self.regions), p=share)
                    y, x = (rng.integers(n) for n in self.free[k].shape)
                free = self.free[k]
                if min(y, x) >= 0 and y < free.shape[0] and x < free.shape[1] and free[y, x]:
                    return int(k), int(y), int(x)

    def styles(self, count: int = 512) -> np.ndarray:
        """Draw styles (count, 6) as in training: regions by area, with stain augmentation."""
        rng = np.random.default_rng(self.seed)
        drawn = rng.choice(len(self.regions), size=count, p=self.share)
        return np.stack([self.regions[k].stain.restained(stain_matrix(rng)).style for k in drawn])


class Patches(Dataset):
    """The patches of the paper, without augmentation (Shrivastava and Fletcher, 2023).

    A grid of `side` pixels with half of them overlapping; the last row and column are moved inward.
    magnification: 20 takes pixels as they are, 10 takes twice the side and halves it. Patches with
    unpublished or held-out pixels are left out. Item ``i`` is as in `Crops`, in an order that is
    shuffled again after each pass over all patches.

    Pictures without labels of nuclei are left out.

    mpp: micrometres per pixel of the samples. planes: the names of their planes.

    Raises:
        DatasetError: no region has room for a patch, or regions have several pixel sizes.
    """

    def __init__(self, dataset: Path, *, side: int = 128, magnification: int = 20, seed: int = 0):
        self.seed, self.step = seed, {20: 1, 10: 2}[magnification]
        self.mpp = dataset_mpp(dataset) * self.step
        self.span = side * self.step
        self.planes = PLANES
        self.places = []
        for region in read_regions(dataset):
            if region.nuclei == "none":
                continue
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

    def styles(self, count: int = 512) -> np.ndarray:
        """Return styles (n, 6), n up to ``count``, of the regions of evenly spread patches."""
        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).astype(int)
        return np.stack([self.places[i][0].stain.style for i in chosen])

    def __getitem__(self, index: int) -> Sample:
        again, k = divmod(index, len(self))
        order = np.random.default_rng([self.seed, again]).permutation(len(self))
        region, around, y, x = self.places[order[k]]
        cut = np.s_[y : y + self.span, x : x + self.span]
        n = self.span // self.step
        blocks = region.image[cut].reshape(n, self.step, n, self.step, 3)
        pixels = to_signal(blocks.mean(axis=(1, 3), dtype=np.float32))
        wide = np.s_[y : y + self.span + 2 * self.step, x : x + self.span + 2 * self.step]
        edge = edges(around[wide][:: self.step, :: self.step])[1:-1, 1:-1]
        planes = planes_of(PLANES, region.types[cut][:: self.step, :: self.step], edge)
        return Sample(
            torch.from_numpy(np.ascontiguousarray(pixels)),
            torch.from_numpy(planes),
            torch.from_numpy(region.stain.style),
        )


Samples = Crops | Patches | Maps | RegionMaps


def samples_of(
    dataset: Path, settings: TrainingConfig, seed: int, planes: tuple[str, ...] = PLANES
) -> Samples:
    """Return the samples that the settings select, for a network that takes ``planes``.

    Raises:
        DatasetError: the dataset cannot be used, or has no room for a sample.
    """
    if settings.layouts:
        maps = RegionMaps if settings.layouts == "regions" else Maps
        return maps(dataset, crop=settings.crop, seed=seed)
    if settings.patches:
        return Patches(dataset, side=settings.crop, magnification=settings.magnification, seed=seed)
    return Crops(
        dataset,
        crop=settings.crop,
        rare_types=settings.rare_types,
        plain=settings.plain,
        seed=seed,
        planes=planes,
    )


def draws(seed: int, indices: range, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Draw noise level and dropout (n,) in [0, 1) and noise (n, *shape) for samples.

    Like `Crops`, they are a function of (seed, i), whichever process takes a sample.
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
    """Draw a change of stain, (3, 3): amounts by some 20 % and a slight change of hue, or none."""
    if rng.random() < 0.25:
        return np.eye(3)
    return np.diag(np.exp(rng.normal(0, 0.2, 3))) + rng.normal(0, 0.04, (3, 3)) * (1 - np.eye(3))


def _starts(length: int, span: int) -> list[int]:
    """Return the starts of windows of ``span`` that overlap by half; the last is moved inward."""
    if length < span:
        return []
    return sorted({*range(0, length - span + 1, span // 2), length - span})

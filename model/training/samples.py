"""A training sample of any kind, and what the samples of layouts have in common."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...errors import DatasetError
from ...tools.dataset import Region, dataset_mpp, read_regions


class Sample(NamedTuple):
    """A training picture with its planes.

    pixels: float32 (3, c, c) in [-1, 1]. planes: float32 (p, c, c), as the samples name them.
    style: float32 (6,), the stain of the picture.
    """

    pixels: Tensor
    planes: Tensor
    style: Tensor


class MapCrops(Dataset):
    """Random square crops of maps, with quarter turns and flips.

    The maps are made of pictures with labelled regions. Sample ``i`` is a function of (seed, i).

    Attributes:
        planes: the names of the planes of a sample.
        mpp: micrometres per pixel of the maps.
        maps: what `maps_of` returned for all pictures.

    Raises:
        DatasetError: no picture with labelled regions has room for a crop.
    """

    planes: ClassVar[tuple[str, ...]]
    mpp: ClassVar[float]

    def __init__(self, dataset: Path, *, crop: int, seed: int = 0):
        self.crop, self.seed = crop, seed
        dataset_mpp(dataset)
        self.maps: list[Any] = []
        for region in read_regions(dataset):
            room = min(region.types.shape) * region.mpp / self.mpp >= crop
            if region.regions is not None and room:
                self.maps += self.maps_of(region, region.regions)
        if not self.maps:
            raise DatasetError(
                f"{dataset}: no picture with labelled regions has room for a crop of {crop} "
                f"pixels at {self.mpp:g} micrometres"
            )
        area = np.array([self.area(m) for m in self.maps], float)
        self.share = area / area.sum()

    @abstractmethod
    def maps_of(self, region: Region, regions: np.ndarray) -> list[Any]:
        """Return the map of a picture with the numbers of its regions, or none."""

    @abstractmethod
    def area(self, chosen: Any) -> float:
        """Return how often a map is chosen, as a multiple of any unit: the area that is known."""

    @abstractmethod
    def cut(self, chosen: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return a random crop of a map and of its planes, float32 (3, c, c) and (p, c, c)."""

    def styles(self, count: int = 2) -> np.ndarray:
        """Return zeros: layouts have no stain."""
        return np.zeros((count, 6), np.float32)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        parts = self.cut(self.maps[rng.choice(len(self.maps), p=self.share)], rng)
        turn, flip = int(rng.integers(4)), int(rng.integers(2))
        image, planes = (torch.from_numpy(turned(part, turn, flip)) for part in parts)
        return Sample(image, planes, torch.zeros(6))


def turned(planes: np.ndarray, turn: int, flip: int) -> np.ndarray:
    """Return planes (n, h, w) after quarter turns and, if ``flip``, mirrored."""
    turned = np.rot90(planes, turn, axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if flip else turned)

"""Training samples of layouts: maps of nuclei, with regions and densities as conditions.

The densities are those of the whole picture, for each region by itself: how many nuclei of each
type lie in a square millimetre of it. Pixels that are not published, or held out, are blank in map
and planes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch.utils.data import Dataset

from ...annotations.dense import dense
from ...annotations.types import TYPES
from ...errors import DatasetError
from ...tools.dataset import Region, dataset_mpp, read_regions
from ..layouts.conditions import LEAST_AREA, planes
from ..layouts.encoding import MPP, encode
from ..planes import LAYOUT_PLANES, REGIONS
from .samples import Sample

SMOOTH = 4.0  # micrometres; drawn regions are smoother than labels are
LEAST_PUBLISHED = 0.5  # share of a crop


@dataclass(frozen=True)
class LayoutMap:
    """A picture as a network sees it, at `MPP`.

    image: float32 (3, h, w), the map of nuclei. regions: two versions, as labelled and smoothed,
    uint8 (h, w), 0 where nothing is published. densities: float (regions + 1, types), nuclei in a
    square millimetre.
    """

    image: np.ndarray
    regions: tuple[np.ndarray, np.ndarray]
    densities: np.ndarray

    @classmethod
    def of(cls, region: Region, regions: np.ndarray) -> LayoutMap:
        """Return the map of a picture of a prepared dataset with the numbers of its regions."""
        step = round(MPP / region.mpp)
        h, w = (n // step for n in region.types.shape)
        published = region.usable
        instances, _ = dense(np.where(published, region.instances, 0))
        types = np.where(published, region.types, 0)
        image = encode(instances, types, mpp=region.mpp)
        coarse = published[::step, ::step][:h, :w]
        told = filled(regions[::step, ::step][:h, :w]) * coarse
        smooth = smoothed(told) * coarse
        return cls(image * coarse, (told, smooth), densities(instances, types, told, step))


def filled(regions: np.ndarray) -> np.ndarray:
    """Give each pixel of no known region that of the nearest pixel."""
    regions = np.where(regions > len(REGIONS), 0, regions)
    _, nearest = ndimage.distance_transform_edt(regions == 0, return_indices=True)
    return regions[tuple(nearest)].astype(np.uint8)


def smoothed(regions: np.ndarray) -> np.ndarray:
    """Give each pixel the region that most of its surroundings have."""
    numbers = range(1, len(REGIONS) + 1)
    shares = [ndimage.gaussian_filter((regions == k).astype(np.float32), SMOOTH) for k in numbers]
    return (np.argmax(shares, axis=0) + 1).astype(np.uint8)


def densities(
    instances: np.ndarray, types: np.ndarray, regions: np.ndarray, step: int
) -> np.ndarray:
    """Return nuclei in a square millimetre, float (regions + 1, types), of each region and type."""
    count = int(instances.max(initial=0))
    centres = np.array(ndimage.center_of_mass(instances > 0, instances, range(1, count + 1)))
    centres = centres.reshape(-1, 2)
    _, first = np.unique(instances, return_index=True)
    kinds = types.flat[first[-count:]] if count else np.empty(0, np.uint8)
    y, x = np.minimum((centres / step).astype(int), np.array(regions.shape) - 1).T
    found = np.zeros((len(REGIONS) + 1, len(TYPES)))
    np.add.at(found, (regions[y, x], kinds), 1)
    area = np.bincount(regions.ravel(), minlength=len(found)) * (MPP / 1000) ** 2
    return found / np.maximum(area, LEAST_AREA)[:, None]


class Maps(Dataset):
    """Random crops of maps of nuclei, with quarter turns and flips.

    Pictures without labelled regions or published nuclei are left out. Sample ``i`` is a function
    of (seed, i).

    Raises:
        DatasetError: no picture with labelled regions has room for a crop.
    """

    planes = LAYOUT_PLANES
    mpp = MPP

    def __init__(self, dataset: Path, *, crop: int, seed: int = 0):
        self.crop, self.seed = crop, seed
        dataset_mpp(dataset)
        self.maps = list(self._read(dataset))
        if not self.maps:
            raise DatasetError(
                f"{dataset}: no picture with labelled regions has room for a crop of {crop} "
                f"pixels at {MPP:g} micrometres"
            )
        area = np.array([(m.regions[0] > 0).sum() for m in self.maps], float)
        self.share = area / area.sum()

    def _read(self, dataset: Path) -> Iterator[LayoutMap]:
        for region in read_regions(dataset):
            room = min(region.types.shape) * region.mpp / MPP >= self.crop
            if region.regions is not None and region.nuclei == "published" and room:
                yield LayoutMap.of(region, region.regions)

    def styles(self, count: int = 2) -> np.ndarray:
        """Return zeros: layouts have no stain."""
        return np.zeros((count, 6), np.float32)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        chosen = self.maps[rng.choice(len(self.maps), p=self.share)]
        regions = chosen.regions[rng.integers(2)]
        cut = self._place(rng, regions)
        turn, flip = int(rng.integers(4)), int(rng.integers(2))
        told = planes(regions[cut], chosen.densities)
        image, told = (turned(part, turn, flip) for part in (chosen.image[:, *cut], told))
        return Sample(torch.from_numpy(image), torch.from_numpy(told), torch.zeros(6))

    def _place(self, rng: np.random.Generator, regions: np.ndarray) -> tuple[slice, slice]:
        """Draw a crop of which enough is published."""
        h, w = regions.shape
        while True:
            y, x = (int(rng.integers(n - self.crop + 1)) for n in (h, w))
            cut = slice(y, y + self.crop), slice(x, x + self.crop)
            if (regions[cut] > 0).mean() >= LEAST_PUBLISHED:
                return cut


def turned(planes: np.ndarray, turn: int, flip: int) -> np.ndarray:
    """Return planes (n, h, w) after quarter turns and, if ``flip``, mirrored."""
    turned = np.rot90(planes, turn, axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if flip else turned)

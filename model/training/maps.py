"""Training samples of layouts: maps of nuclei, with regions and densities as conditions.

The densities are those of the whole picture, for each region by itself: how many nuclei of each
type lie in a square millimetre of it. Pixels that are not published, or held out, are blank in map
and planes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ...annotations.dense import dense
from ...annotations.types import TYPES
from ...tools.dataset import Region
from ..layouts.conditions import LEAST_AREA, planes
from ..layouts.encoding import MPP, encode
from ..planes import LAYOUT_PLANES, REGIONS
from .samples import MapCrops

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


class Maps(MapCrops):
    """Random crops of maps of nuclei, as `LayoutMap`; each is used as labelled or smoothed.

    Pictures without published nuclei are left out.
    """

    planes = LAYOUT_PLANES
    mpp = MPP

    def maps_of(self, region: Region, regions: np.ndarray) -> list[LayoutMap]:
        """Return the map of a picture, or none."""
        return [LayoutMap.of(region, regions)] if region.nuclei == "published" else []

    def area(self, chosen: LayoutMap) -> float:
        """Return how many pixels are published."""
        return (chosen.regions[0] > 0).sum()

    def cut(self, chosen: LayoutMap, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return a random crop of which enough is published, and its planes."""
        regions = chosen.regions[rng.integers(2)]
        h, w = regions.shape
        while True:
            y, x = (int(rng.integers(n - self.crop + 1)) for n in (h, w))
            cut = slice(y, y + self.crop), slice(x, x + self.crop)
            if (regions[cut] > 0).mean() >= LEAST_PUBLISHED:
                return chosen.image[:, *cut], planes(regions[cut], chosen.densities)

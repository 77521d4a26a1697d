"""Training samples of layouts: maps of regions, with the kind of tissue as condition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ...tools.dataset import Region, window_sums
from ..layouts.region_map import EPITHELIUM, LUMEN, MPP, MUCUS, STROMA, encode
from ..planes import HISTOLOGIES, TISSUE_KNOWN, TISSUE_PLANES
from .maps import filled
from .samples import MapCrops

CLOSING = 80.0  # micrometres; glands that are closer to each other belong together
FAR = 1000.0  # micrometres
MARGIN = 32.0  # micrometres of other tissue that may be told as gland tissue, at most
LEAST_KNOWN = 0.9  # share of a crop
LEAST_GLAND, LEAST_HOLE = 400.0, 300.0  # square micrometres of glands, and of stroma in them
LEAST_LUMEN, LEAST_MUCUS = 60.0, 20.0
LEAST_GLASS = 3000.0  # square micrometres; a larger white area outside glands is no crack in stroma
WITHIN = 0.5  # share of the border of a lumen that is epithelium


@dataclass(frozen=True)
class RegionMap:
    """A picture as a network sees it, at `MPP`.

    image: float32 (3, h, w), the map of regions. glandular: float32 (h, w), how far a pixel lies
    inside the tissue that has glands, in micrometres. known: bool (h, w), where tissue is labelled.
    histology: one of `HISTOLOGIES`, or empty. places: int (n, 2), where crops of tissue may begin.
    """

    image: np.ndarray
    glandular: np.ndarray
    known: np.ndarray
    histology: str
    places: np.ndarray

    @classmethod
    def of(cls, region: Region, regions: np.ndarray, crop: int) -> RegionMap:
        """Return the map of a picture of a prepared dataset with the numbers of its regions."""
        step = round(MPP / region.mpp)
        labels, known = cleaned(regions, region.mpp)
        image = encode(labels, mpp=region.mpp)
        h, w = image.shape[1:]
        known = (known & region.usable)[: h * step, : w * step]
        known = known.reshape(h, step, w, step).all(axis=(1, 3))
        places = np.argwhere(window_sums(known, (crop, crop)) >= LEAST_KNOWN * crop**2)
        return cls(image, glandular(image[0] > 0), known, region.histology, places)


def glandular(glands: np.ndarray) -> np.ndarray:
    """Return the signed distance in micrometres, positive inside, to the border of gland tissue.

    glands: bool (h, w) at `MPP`. Gland tissue is their closing by a disc of radius `CLOSING`.
    """
    if not glands.any():
        return np.full(glands.shape, -FAR, np.float32)
    rim = int(2 * CLOSING / MPP)
    rim = min(rim, *glands.shape)
    near = ndimage.distance_transform_edt(~np.pad(glands, rim, mode="symmetric")) * MPP <= CLOSING
    outside = ndimage.distance_transform_edt(near) * MPP - CLOSING
    closed = np.minimum(outside, FAR) if not near.all() else np.full(near.shape, FAR)
    beyond = ndimage.distance_transform_edt(closed <= 0) * MPP
    return np.where(closed > 0, closed, -beyond)[rim:-rim, rim:-rim].astype(np.float32)


def cleaned(regions: np.ndarray, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of lumen, epithelium, stroma and mucus, and where there is tissue, (h, w).

    Unknown pixels and specks get the region around them. White areas and mucus outside glands
    become stroma: small ones are cracks; large ones are glass, which is no tissue.
    """
    labels = filled(regions)
    inside = _of_glands(np.isin(labels, (LUMEN, MUCUS)), labels == EPITHELIUM)
    gland = inside | (labels == EPITHELIUM)
    gland = ~_without_specks(~gland, LEAST_HOLE / mpp**2)
    gland = _without_specks(gland, LEAST_GLAND / mpp**2)
    out = np.where(gland, EPITHELIUM, STROMA).astype(np.uint8)
    for number, least in ((LUMEN, LEAST_LUMEN), (MUCUS, LEAST_MUCUS)):
        out[_without_specks(gland & (labels == number), least / mpp**2)] = number
    glass = _without_specks(~gland & (labels == LUMEN), LEAST_GLASS / mpp**2)
    return out, ~glass


def _without_specks(mask: np.ndarray, least: float) -> np.ndarray:
    """Return a mask without connected parts of fewer than ``least`` pixels."""
    numbers, _ = ndimage.label(mask)
    sizes = np.bincount(numbers.ravel())
    return mask & (sizes[numbers] >= least)


def _of_glands(white: np.ndarray, epithelium: np.ndarray) -> np.ndarray:
    """Return the areas of a mask whose border is epithelium for the larger part."""
    numbers, count = ndimage.label(white)
    out = np.zeros(count + 1, bool)
    for number, where in enumerate(ndimage.find_objects(numbers), 1):
        around = tuple(slice(max(side.start - 2, 0), side.stop + 2) for side in where)
        mask = numbers[around] == number
        rim = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=2) & ~mask
        out[number] = epithelium[around][rim].mean() > WITHIN if rim.any() else False
    return out[numbers]


class RegionMaps(MapCrops):
    """Random crops of maps of regions, as `RegionMap`, without those with much glass."""

    planes = TISSUE_PLANES
    mpp = MPP

    def maps_of(self, region: Region, regions: np.ndarray) -> list[RegionMap]:
        """Return the map of a picture, or none."""
        found = RegionMap.of(region, regions, self.crop)
        return [found] if len(found.places) else []

    def area(self, chosen: RegionMap) -> float:
        """Return how many pixels of tissue are labelled."""
        return chosen.known.sum()

    def cut(self, chosen: RegionMap, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return a random crop of tissue, and its planes."""
        y, x = chosen.places[rng.integers(len(chosen.places))]
        cut = slice(y, y + self.crop), slice(x, x + self.crop)
        planes = np.zeros((len(TISSUE_PLANES), self.crop, self.crop), np.float32)
        if chosen.histology:
            # Drawn tissue ends anywhere between glands and what lies beside them.
            within = chosen.glandular[cut] > -rng.uniform(0, MARGIN)
            planes[HISTOLOGIES.index(chosen.histology)] = within
            planes[TISSUE_PLANES.index(TISSUE_KNOWN)] = 1
        return chosen.image[:, *cut], planes

"""Judges of whether the nuclei in a picture are those of its labels."""

from __future__ import annotations

import logging

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label

from ...slides.stain import haematoxylin
from ...tools.dataset import UNPUBLISHED
from ..devices import one_thread
from .matching import Matching
from .segmenter import MPP, Segmenter, decode, load, predict

LEAST_AREA = 20  # pixels of a dark spot to pass for a nucleus
TOLERANCE = 0.1  # relative difference of pixel sizes at which the segmenter still reads

log = logging.getLogger(__name__)


class Agreement:
    """Counts of how often dark spots and annotated nuclei agree.

    A pixel is dark if it has more haematoxylin than Otsu's threshold of the picture. A nucleus is
    found if its mean is dark; a dark spot is correct if it touches a nucleus of the mask.
    """

    def __init__(self) -> None:
        self.found = self.nuclei = self.true = self.spots = 0

    def add(self, picture: np.ndarray, instances: np.ndarray, types: np.ndarray) -> None:
        """Count a picture, uint8 (h, w, 3), with its instances and types (h, w).

        Pixels whose type is not published do not count.
        """
        known = types != UNPUBLISHED
        density = ndimage.gaussian_filter(haematoxylin(picture), 1)
        threshold = threshold_otsu(density[known])
        index = np.unique(instances[instances > 0])
        self.nuclei += len(index)
        self.found += int((ndimage.mean(density, instances, index) > threshold).sum())
        spots = label((density > threshold) & known)
        sizes = np.bincount(spots.ravel())
        touched = np.bincount(spots.ravel(), weights=(instances > 0).ravel())
        big = (sizes >= LEAST_AREA) & (np.arange(len(sizes)) > 0)
        self.spots += int(big.sum())
        self.true += int((touched[big] > 0).sum())

    def figures(self) -> dict[str, float]:
        """Return shares: nuclei that are dark, and dark spots that are nuclei."""
        return {
            "nuclei that are dark": self.found / max(self.nuclei, 1),
            "dark spots that are nuclei": self.true / max(self.spots, 1),
        }


class Reading:
    """What the segmenter finds in pictures, against their labels."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.matching = Matching()

    def add(self, picture: np.ndarray, instances: np.ndarray, types: np.ndarray) -> None:
        """Count a picture, uint8 (h, w, 3), with its instances and types (h, w)."""
        with one_thread:
            found_types, found = decode(predict(picture, self.segmenter))
        self.matching.add(instances, types, found, found_types)

    def figures(self) -> dict[str, float]:
        """Return the figures of `Matching`."""
        return self.matching.figures()


def judges(mpp: float) -> list[Agreement | Reading]:
    """Return new judges of pictures of a pixel size; the segmenter reads only that of its own."""
    if abs(mpp / MPP - 1) < TOLERANCE:
        return [Agreement(), Reading(load())]
    log.warning(
        "the segmenter reads pixels of %g micrometres, but these have %g: its figures are left out",
        MPP,
        mpp,
    )
    return [Agreement()]

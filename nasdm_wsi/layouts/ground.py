"""How likely nuclei are at a place, and their direction, by the regions around it."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy import ndimage

from ..annotations.regions import REGIONS
from ..annotations.types import TYPES
from ..geometry import Box, shape
from .keyed import smooth
from .tissues import Tissue

FIBRES = 128  # length over which fibres change their direction
ALONG = 14  # length over which fibres follow a border
COARSE = 4  # micrometres between the places where the direction of fibres is found
CLUSTER = 32  # diameter of a cluster of cells
# How strongly cells of a type keep together; of other types, the kind of tissue says it. With the
# field below, pair correlations of a type with itself are those of Lizard (benchmarks/layouts.py).
CLUSTERS = {"neutrophil": 1.2, "plasma": 0.9, "eosinophil": 0.8}
INFLAMED = 128  # length over which stroma is more or less inflamed
SMOOTHING = 2.5  # of distances, so that their slopes do not follow single pixels
WRAP = 4.0  # from a gland's wall to the centres of the fibroblasts that wrap it
_DRAW = 2100  # the first of the draws of random numbers in this file

EPITHELIUM, LUMEN, MUCUS, GLASS, MUSCLE = (
    REGIONS.index(name) + 1 for name in ("epithelium", "lumen", "mucus", "glass", "muscle")
)
_GLANDS = (EPITHELIUM, MUCUS, LUMEN, GLASS)


class Ground:
    """The regions in and around a square.

    labels: uint8, numbers of regions at every micrometre of the square grown by a halo.
    box: the square.
    """

    def __init__(self, labels: np.ndarray, box: Box, seed: int):
        halo = (labels.shape[0] - shape(box)[0]) // 2
        self._core = slice(halo, labels.shape[0] - halo), slice(halo, labels.shape[1] - halo)
        self._labels = labels
        self._box = box
        self._seed = seed
        self._fields: dict[tuple[int, int], np.ndarray] = {}
        self._variations: dict[tuple[str, float, float], np.ndarray] = {}

    def habits(self, region: str, kind: str, tissue: Tissue) -> tuple[np.ndarray, np.ndarray]:
        """Return how likely a nucleus of a type lies at each place, and its long axis there.

        Both are float (h, w) of the square. Zero means never.
        """
        if region == "epithelium" and kind == "epithelial":
            return self._rows(tissue), self._across + self._turns(0.16)
        weights = self.variation(region, kind, tissue)
        if kind != "connective":
            return weights * (self._apical > 5), self._turns(np.pi / 2)
        if region == "stroma":  # fibroblasts wrap the glands
            weights = weights + 4 * np.exp(-(((self._outside - WRAP) / 1.5) ** 2))
        return weights, self._fibres + self._turns(0.1 if region == "muscle" else 0.3)

    def variation(self, region: str, kind: str, tissue: Tissue) -> np.ndarray:
        """Return by which factors, (h, w), the density of a type varies by place.

        Cells of a type form clusters, and stroma is inflamed at one place and fibrous at another.
        Over large areas the mean is 1: the density is that of a log-Gaussian Cox process (Moller
        and others 1998), whose pair correlation is the exponential of the covariance of its fields.
        """
        strength = CLUSTERS.get(kind, tissue.clusters)
        inflamed = -0.6 * tissue.varied if kind == "connective" else tissue.varied
        strengths = (kind, strength, inflamed if region == "stroma" else 0.0)
        if strengths not in self._variations:
            logs = strength * self._field(CLUSTER, 1 + TYPES.index(kind)) - strength**2 / 2
            if strengths[2]:
                logs = logs + inflamed * self._field(INFLAMED, 0) - inflamed**2 / 2
            self._variations[strengths] = np.exp(logs)
        return self._variations[strengths]

    def _rows(self, tissue: Tissue) -> np.ndarray:
        """Return how likely an epithelial nucleus lies at each place: in rows along the border."""
        depth = self._basal
        rows = np.zeros(depth.shape)
        for k, row in enumerate(tissue.rows):
            rows += np.exp(-(((depth - row) / tissue.spread) ** 2) / 2) / (1 + k)
        if tissue.solid:  # all of it, as far from a lumen as in the rows
            rows += 0.05 * ((depth > tissue.rows[-1]) & (self._apical > tissue.rows[0]))
        return rows * (self._apical > 3.5) * (rows > 0.04)

    @cached_property
    def _inside(self) -> np.ndarray:
        return np.isin(self._labels, _GLANDS)

    @cached_property
    def _depth(self) -> np.ndarray:
        """Distance to the stroma, in and around the square."""
        return _distance(self._inside)

    @cached_property
    def _basal(self) -> np.ndarray:
        return self._depth[self._core]

    @cached_property
    def _apical(self) -> np.ndarray:
        """Distance to the nearest lumen or glass."""
        return _distance(~np.isin(self._labels, (LUMEN, GLASS)))[self._core]

    @cached_property
    def _outside(self) -> np.ndarray:
        """Distance to the nearest gland."""
        return _distance(~self._inside)[self._core]

    @cached_property
    def _across(self) -> np.ndarray:
        """The direction across the wall of a gland."""
        dy, dx = np.gradient(ndimage.gaussian_filter(self._depth, SMOOTHING))
        return np.arctan2(dy, dx)[self._core]

    @cached_property
    def _fibres(self) -> np.ndarray:
        """The direction of fibres: along borders near them, in slow turns elsewhere."""
        yy, xx, xy = 0.0, 0.0, 0.0
        coarse = self._labels[::COARSE, ::COARSE]
        for mask in (np.isin(coarse, _GLANDS), coarse == MUSCLE):
            dy, dx = np.gradient(ndimage.gaussian_filter(mask.astype(float), 1))
            yy, xx, xy = yy + dy * dy, xx + dx * dx, xy + dx * dy
        # The structure tensor, smoothed: borders that run alike add up.
        yy, xx, xy = (ndimage.gaussian_filter(j, ALONG / COARSE, truncate=3) for j in (yy, xx, xy))
        free = smooth(self._box, step=COARSE, scale=FIBRES, seed=self._seed, draw=_DRAW + 20)
        core = tuple(slice(s.start // COARSE, s.stop // COARSE) for s in self._core)
        # Axes have no sign: they are averaged as angles of twice the size.
        y = -2 * xy[core] + 0.002 * np.sin(1.2 * free)
        x = (yy - xx)[core] + 0.002 * np.cos(1.2 * free)
        return (np.arctan2(y, x) / 2).repeat(COARSE, 0).repeat(COARSE, 1)

    def _field(self, scale: int, number: int) -> np.ndarray:
        if (scale, number) not in self._fields:
            field = smooth(self._box, step=1, scale=scale, seed=self._seed, draw=_DRAW + number)
            self._fields[scale, number] = field
        return self._fields[scale, number]

    def _turns(self, spread: float) -> np.ndarray:
        """Return random turns about 0, one for each micrometre."""
        return spread * self._field(2, 30)


def _distance(mask: np.ndarray) -> np.ndarray:
    """Return the distance of each place of a mask to the nearest outside it."""
    if mask.all():
        return np.full(mask.shape, 1e3)
    return ndimage.distance_transform_edt(mask)

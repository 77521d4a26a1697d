"""Comparison of two labellings of nuclei: overlap, detection, panoptic quality and types."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from ...annotations.types import TYPES
from ...tools.dataset import UNPUBLISHED

REACH = 6.0  # pixels; centroids this close are of the same nucleus
FAR = 99.0  # a distance that no pair has
SMALLEST = 10  # pixels; smaller pieces of nuclei at the border of a picture are not counted


class Matching:
    """Counts of how far the nuclei that were found in pictures are those of their labels.

    A nucleus is detected if one that was found overlaps it by an intersection over union of more
    than a half, or has its centroid within `REACH` pixels; pairs are matched one to one.
    """

    def __init__(self) -> None:
        self.overlap = self.area = self.pairs = self.nuclei = self.found = 0
        self.shared = 0.0  # sum of intersection over union of those above a half
        self.agreeing, self.by_type, self.found_by_type = np.zeros((3, len(TYPES)), int)
        self.confusion = np.zeros((len(TYPES), len(TYPES)), int)  # true by found

    def add(
        self,
        instances: np.ndarray,
        types: np.ndarray,
        found: np.ndarray,
        found_types: np.ndarray,
    ) -> None:
        """Count a picture: labels and what was found, instances and types (h, w) of each.

        Pixels whose type is not published do not count.
        """
        known = types != UNPUBLISHED
        truth, kinds = numbered(instances * known, types)
        other, other_kinds = numbered(found * known, found_types)
        both = np.zeros((len(kinds) + 1, len(other_kinds) + 1))
        np.add.at(both, (truth.ravel(), other.ravel()), 1)
        union = both.sum(1)[1:, None] + both.sum(0)[None, 1:] - both[1:, 1:]
        shared = both[1:, 1:] / np.maximum(union, 1)
        a, b = _pairs(shared, centroids(truth), centroids(other))
        same = kinds[a] == other_kinds[b]
        np.add.at(self.confusion, (kinds[a], other_kinds[b]), 1)
        self.overlap += int(((truth > 0) & (other > 0)).sum())
        self.area += int((truth > 0).sum() + (other > 0).sum())
        self.pairs += len(a)
        self.nuclei += len(kinds)
        self.found += len(other_kinds)
        self.shared += float(shared[shared > 0.5].sum())
        self.agreeing += np.bincount(kinds[a][same], minlength=len(TYPES))
        self.by_type += np.bincount(kinds, minlength=len(TYPES))
        self.found_by_type += np.bincount(other_kinds, minlength=len(TYPES))

    def figures(self) -> dict[str, float]:
        """Return Dice, F1 of detection, panoptic quality, agreement of types, and F1 by type."""
        both = max(self.nuclei + self.found, 1)
        each = 2 * self.agreeing / np.maximum(self.by_type + self.found_by_type, 1)
        by_type = {
            f"{name} F1": float(f1) if n else float("nan")
            for name, f1, n in zip(TYPES[1:], each[1:], self.by_type[1:], strict=True)
        }
        return {
            "nuclei Dice": 2 * self.overlap / max(self.area, 1),
            "detection F1": 2 * self.pairs / both,
            "panoptic quality": 2 * self.shared / both,
            "detected nuclei of the right type": float(self.agreeing.sum() / max(self.pairs, 1)),
            **by_type,
        }


def numbered(instances: np.ndarray, types: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return instances (h, w) as 1 to n without small pieces, and the type (n,) of each."""
    ids, flat = np.unique(instances, return_inverse=True)
    flat = flat.ravel()
    good = (np.bincount(flat) >= SMALLEST) & (ids > 0)
    table = np.where(good, np.cumsum(good), 0)
    out = table[flat].reshape(instances.shape)
    kinds = np.zeros(good.sum() + 1, np.uint8)
    kinds[out.ravel()] = types.ravel()
    return out, kinds[1:]


def centroids(instances: np.ndarray) -> np.ndarray:
    """Return the centroids (n, 2) as y, x of instances 1 to n."""
    index = np.arange(1, int(instances.max(initial=0)) + 1)
    return np.array(ndimage.center_of_mass(instances > 0, instances, index)).reshape(-1, 2)


def _pairs(shared: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match one to one by ``shared`` (n, m), and by centroids (n, 2) and (m, 2) second."""
    gap = np.linalg.norm(a[:, None] - b[None], axis=-1)
    allowed = (gap < REACH) | (shared > 0.5)
    cost = np.where(allowed, np.minimum(gap, FAR) / 100 - shared - 1, 0)
    rows, columns = linear_sum_assignment(cost)
    good = allowed[rows, columns]
    return rows[good], columns[good]

"""The conditions of the network that paints maps of nuclei: regions, and densities in them."""

from __future__ import annotations

import numpy as np

from ..planes import LAYOUT_PLANES, REGIONS

LEAST_AREA = 0.002  # square millimetres; smaller regions say nothing about densities


def amount(density: np.ndarray) -> np.ndarray:
    """Return densities (nuclei in a square millimetre) as a network is given them, 0 to about 1."""
    return (np.log1p(np.asarray(density) / 50) / 5).astype(np.float32)


def planes(regions: np.ndarray, densities: np.ndarray) -> np.ndarray:
    """Return the planes of a network, float32 (`LAYOUT_PLANES`, h, w), of region numbers (h, w).

    densities: float (regions + 1, types), nuclei in a square millimetre.
    """
    out = np.zeros((len(LAYOUT_PLANES), *regions.shape), np.float32)
    for k in range(1, len(REGIONS) + 1):
        out[k - 1] = regions == k
    out[len(REGIONS)] = regions > 0
    wanted = amount(densities)
    wanted[0] = 0
    out[len(REGIONS) + 1 :] = np.moveaxis(wanted[regions][..., 1:], -1, 0)
    return out

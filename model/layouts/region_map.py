"""The map of regions that a network paints: conversion from labels of regions and back.

A map has three channels: glands with all that lies in them, lumens of glands, and mucus in glands.
A value is the signed distance to the border, positive inside, as a share of `REACHES`, from -1 to
1. So the border between two pixels is found where the values between them are 0.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ...annotations.regions import REGIONS

MPP = 4.0
REACHES = (24.0, 16.0, 8.0)  # micrometres; glands, lumens, mucus
LUMEN, EPITHELIUM, STROMA, MUCUS = (
    REGIONS.index(name) + 1 for name in ("lumen", "epithelium", "stroma", "mucus")
)
INSIDE = ((LUMEN, EPITHELIUM, MUCUS), (LUMEN,), (MUCUS,))  # which regions each channel shows


def encode(labels: np.ndarray, *, mpp: float) -> np.ndarray:
    """Return the map, float32 (3, h, w) at `MPP`, of numbers of regions (H, W) at a finer ``mpp``.

    All lumens and mucus count as parts of glands. The remainder of a pixel is cut off.
    """
    step = round(MPP / mpp)
    h, w = (n // step for n in labels.shape)
    labels = labels[: h * step, : w * step]
    fine = np.stack(
        [
            np.clip(mpp * _signed(np.isin(labels, numbers)) / reach, -1, 1)
            for numbers, reach in zip(INSIDE, REACHES, strict=True)
        ]
    )
    return fine.reshape(3, h, step, w, step).mean(axis=(2, 4)).astype(np.float32)


def decode(image: np.ndarray, *, finer: int = 1) -> np.ndarray:
    """Return the numbers of regions, uint8 (finer h, finer w), of a map (3, h, w)."""
    gland, lumen, mucus = (
        ndimage.zoom(channel, finer, order=1, mode="nearest", grid_mode=True) > 0
        for channel in image
    )
    labels = np.where(gland, EPITHELIUM, STROMA).astype(np.uint8)
    labels[gland & lumen] = LUMEN
    labels[gland & mucus] = MUCUS
    return labels


def _signed(mask: np.ndarray) -> np.ndarray:
    """Return distances to the border of a mask in pixels, positive inside."""
    if mask.all() or not mask.any():
        return np.full(mask.shape, np.inf if mask.any() else -np.inf)
    inside = ndimage.distance_transform_edt(mask)
    outside = ndimage.distance_transform_edt(~mask)
    return np.where(mask, inside - 0.5, 0.5 - outside)

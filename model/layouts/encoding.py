"""The map of nuclei that the network paints: conversion from nuclei and back.

A map has three channels. Each stands for two types, one with positive and one with negative values,
so that no blend of two types looks like a third. The size of a value says how far the pixel lies
inside the outline: 0.5 on it, 1 at `REACH` micrometres inside, 0 at as many outside.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.morphology import reconstruction
from skimage.segmentation import expand_labels, watershed

from ...annotations.types import TYPES
from ...layouts.source import Proposals

MPP = 1.0
CHANNELS = 3
REACH = 2.0  # micrometres
OUTLINE = 0.5
# Types that stand for the two directions of each channel: they are seldom mistaken for each other.
AXES = (("epithelial", "lymphocyte"), ("connective", "neutrophil"), ("plasma", "eosinophil"))
# Channel and sign of each type.
_AXIS = np.zeros(len(TYPES), int)
_SIGN = np.zeros(len(TYPES), np.float32)
for _channel, _pair in enumerate(AXES):
    for _name, _sign in zip(_pair, (1, -1), strict=True):
        _AXIS[TYPES.index(_name)], _SIGN[TYPES.index(_name)] = _channel, _sign
SMOOTHING = 0.4  # pixels; keeps a ragged map from splitting one nucleus
PROMINENCE = 0.04  # of the peaks of two nuclei above the saddle between them
LEAST_AREA = 5.0  # square micrometres; smaller specks are no nuclei
FINER = 2  # pixels of decoded outlines in one of the map


def encode(instances: np.ndarray, types: np.ndarray, *, mpp: float) -> np.ndarray:
    """Return the map, float32 (3, h, w) at `MPP`, of labels (H, W) at a finer ``mpp``.

    instances: 0 = none. types: of each pixel. The remainder of a pixel is cut off.
    """
    step = round(MPP / mpp)
    h, w = (n // step * step for n in types.shape)
    instances, types = instances[:h, :w], types[:h, :w]
    owner = expand_labels(instances, REACH / mpp)
    depth = _inside(instances) * mpp
    outside = ndimage.distance_transform_edt(instances == 0) * mpp
    signed = np.where(instances > 0, depth, -outside)
    size = np.clip(OUTLINE + signed / (2 * REACH), 0, 1)
    kinds = _by_instance(instances, types)[owner]
    fine = np.zeros((CHANNELS, h, w), np.float32)
    for channel in range(CHANNELS):
        fine[channel] = np.where(_AXIS[kinds] == channel, _SIGN[kinds] * size, 0)
    return fine.reshape(CHANNELS, h // step, step, w // step, step).mean(axis=(2, 4))


def _inside(instances: np.ndarray) -> np.ndarray:
    """Return how far each pixel of a nucleus is from the nearest pixel of anything else."""
    depth = np.zeros(instances.shape)
    for k, where in enumerate(ndimage.find_objects(instances), 1):
        if where is not None:
            mask = instances[where] == k
            distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
            depth[where][mask] = distance[mask]
    return depth


def _by_instance(instances: np.ndarray, types: np.ndarray) -> np.ndarray:
    table = np.zeros(int(instances.max(initial=0)) + 1, np.uint8)
    table[instances.ravel()] = types.ravel()
    table[0] = 0
    return table


def labels(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return instances int32 (h, w), 1-based, of a map (3, h, w), and the type (n,) of each."""
    instances = np.zeros(image.shape[1:], np.int32)
    strongest = np.abs(image).argmax(axis=0)
    kinds: list[np.ndarray] = []
    count = 0
    for kind in range(1, len(TYPES)):
        own = image[_AXIS[kind]] * _SIGN[kind]
        mask = (own > OUTLINE) & (strongest == _AXIS[kind])
        smooth = ndimage.gaussian_filter(own, SMOOTHING)
        found, n = _split(smooth, mask)
        instances += np.where(found > 0, found + count, 0).astype(np.int32)
        kinds.append(np.full(n, kind, np.uint8))
        count += n
    return instances, np.concatenate(kinds)


def decode(image: np.ndarray) -> Proposals:
    """Return the nuclei of a map (3, h, w), in pixels whose corners are integers.

    Areas and angles are those of the second moments of the part above `OUTLINE`, at twice the
    resolution. Specks are left out.
    """
    instances, types = outlined(image)
    count = len(types)
    rows, columns = np.nonzero(instances)
    y, x = (rows + 0.5) / FINER, (columns + 0.5) / FINER
    number = instances[rows, columns] - 1

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(number, values, count) / np.maximum(pixels, 1)

    pixels = np.bincount(number, minlength=count)
    centres = np.stack([mean(y), mean(x)], axis=1)
    dy, dx = y - centres[number, 0], x - centres[number, 1]
    angles = np.arctan2(2 * mean(dy * dx), mean(dx * dx) - mean(dy * dy)) / 2
    found = Proposals(centres, types, pixels / FINER**2, angles)
    return found.take(found.areas >= LEAST_AREA)


def outlined(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return instances (2 h, 2 w), 1-based, at twice the resolution of a map, and types (n,)."""
    instances, types = labels(image)
    size = np.abs(image).max(axis=0)
    fine = ndimage.zoom(size, FINER, order=1, mode="nearest", grid_mode=True)
    wide = expand_labels(instances.repeat(FINER, axis=0).repeat(FINER, axis=1), FINER)
    return np.where(fine > OUTLINE, wide, 0), types


def _split(size: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the nuclei of a mask (h, w), 1-based, and how many: one for each peak of ``size``.

    A peak rises `PROMINENCE` above every way to a higher one (h-maxima; Soille 2004, section 6.3).
    """
    inside = np.where(mask, size, 0)
    lowered = np.where(mask, size - PROMINENCE, 0)
    flooded = reconstruction(lowered, inside, footprint=np.ones((3, 3)))
    peaks = mask & (inside - flooded >= 0.999 * PROMINENCE)
    markers, count = ndimage.label(peaks, np.ones((3, 3)))
    return watershed(-size, markers, mask=mask), count

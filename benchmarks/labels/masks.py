"""Small tools on masks, bool (h, w), and maps, float (h, w)."""

from __future__ import annotations

import cv2
import numpy as np
from skimage.morphology import disk, remove_small_objects

cv2.setNumThreads(1)


def blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """A map smoothed by a Gaussian of ``sigma`` pixels."""
    return cv2.GaussianBlur(x.astype(np.float32), (0, 0), sigma)


def resize(x: np.ndarray, size: tuple[int, int], how: int = cv2.INTER_LINEAR) -> np.ndarray:
    """A map at another size (w, h)."""
    return cv2.resize(x.astype(np.float32), size, interpolation=how)


def distance(mask: np.ndarray) -> np.ndarray:
    """From each pixel to the nearest of a mask, in pixels; far everywhere if it is empty."""
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)


def erode(mask: np.ndarray, radius: int) -> np.ndarray:
    """A mask without the pixels within ``radius`` of its border."""
    return cv2.erode(mask.astype(np.uint8), disk(radius)) > 0


def grow(mask: np.ndarray, radius: int) -> np.ndarray:
    """A mask with the pixels within ``radius`` of it."""
    return cv2.dilate(mask.astype(np.uint8), disk(radius)) > 0


def opened(mask: np.ndarray, radius: int) -> np.ndarray:
    """A mask without what is thinner than twice ``radius``."""
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disk(radius)) > 0


def closed(mask: np.ndarray, radius: int) -> np.ndarray:
    """A mask with gaps filled that are thinner than twice ``radius``."""
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disk(radius)) > 0


def large(mask: np.ndarray, least: int) -> np.ndarray:
    """A mask without pieces of up to ``least`` pixels."""
    return remove_small_objects(mask, max_size=least)

"""Rules on optical density that tell white space and blood in H&E of colon.

Thresholds were set by hand on Lizard, CoNSeP, GlaS and CRCHistoPhenotypes at 0.5 micrometres a
pixel. Maps are float (h, w), masks bool (h, w); density is -log10(rgb / 255), (h, w, 3), and
``smooth`` the same smoothed by 1.5 pixels. ``kind`` is the set of the picture: what glass and red
look like differs.
"""

from __future__ import annotations

import cv2
import numpy as np
from masks import blur, closed, erode, large, opened
from scipy import ndimage
from skimage.morphology import remove_small_holes


def white_space(
    density: np.ndarray, smooth: np.ndarray, kind: str, near: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """White space, bool (h, w), and the texture it was told by, float (h, w).

    Mucin can be as bright as glass, but glass is even: its density varies (sigma 5 px, over
    bright pixels only) by 0.001-0.004, mucin's by 0.006-0.015. Far from glands, where fat
    lies, more is let through.
    """
    darkest = np.maximum(smooth[..., 0], smooth[..., 1])
    bright = darkest < (0.085 if kind == "glas" else 0.07)
    core = erode(bright, 3).astype(np.float32)
    n = blur(core, 5) + 1e-4
    mean = blur(density[..., 1] * core, 5) / n
    variance = blur(density[..., 1] ** 2 * core, 5) / n - mean**2
    texture = np.sqrt(np.maximum(variance, 0)) + (n < 0.02)
    limit = 0.0065 if kind == "glas" else 0.0052
    limit = np.where(near, limit, 0.013)
    even = bright & (texture < limit)
    glass = 0.025 if kind in ("crc", "consep") else 0.01
    if even.sum() > 200:
        glass = float(np.median(darkest[even]))
    white = even | (bright & (texture < 2.2 * limit) & (darkest < glass + 0.012))
    white |= bright & (n < 0.02) & (darkest < glass + 0.02)
    white = remove_small_holes(large(opened(white, 2), 60), max_size=12)
    pieces, k = ndimage.label(opened(bright, 2))  # one name where it is clear
    share = ndimage.mean(white, pieces, np.arange(k + 1))
    share[0] = 0.5
    white = (white & ~(share < 0.15)[pieces]) | (share > 0.75)[pieces]
    return large(white, 60), texture


def blood(smooth: np.ndarray, density: np.ndarray, excluded: np.ndarray, kind: str) -> np.ndarray:
    """Red cells, bool (h, w): red passes (density r/g low), blue less (b/g high), no fibres.

    Normalised pictures (Lizard) have lost the orange: there only very strong eosin counts.
    """
    red, green, blue = (smooth[..., i] for i in range(3))
    here = (smooth.mean(-1) > 0.08) & ~excluded
    usual = np.median(green[here]) if here.sum() > 2000 else 0.15
    usual_ratio = np.median((red / np.maximum(green, 0.02))[here]) if here.sum() > 2000 else 0.45
    r, b = red / np.maximum(green, 0.02), blue / np.maximum(green, 0.02)
    if kind == "lizard":
        return large(opened((r < 0.33) & (green > max(1.6 * usual, 0.3)), 2), 100)
    if kind == "glas":
        found = (r < min(0.3, 0.75 * usual_ratio)) & (b - r > 0.08)
        return large(opened(found & (green > max(1.3 * usual, 0.2)), 2), 80)
    found = (r < 0.37) & (b - r > 0.17) & (green > max(0.13, 0.7 * usual))
    found = large(opened(closed(found, 1), 2), 60)
    # Muscle is nearly as red, but striped.
    pieces, n = ndimage.label(found)
    index = np.arange(n + 1)
    even = ndimage.mean(stripes(density[..., 1]), pieces, index) < 0.42
    keep = even & (ndimage.mean(b - r, pieces, index) > 0.24)
    keep[0] = False
    kept = keep[pieces]
    if kept.mean() > 0.02 and np.percentile((b - r)[kept], 90) < 0.4:
        return np.zeros_like(kept)  # a whole picture of reddish muscle
    return kept


def stripes(density: np.ndarray) -> np.ndarray:
    """How much a map runs in one direction, from 0 to 1: structure tensor, sigma 7 pixels."""
    g = blur(density, 1)
    gx, gy = cv2.Sobel(g, -1, 1, 0), cv2.Sobel(g, -1, 0, 1)
    xx, xy, yy = (blur(v, 7) for v in (gx * gx, gx * gy, gy * gy))
    return np.sqrt((xx - yy) ** 2 + 4 * xy**2) / (xx + yy + 1e-4)

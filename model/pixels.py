"""The only conversion between 8-bit pixels and the numbers in [-1, 1] that networks use."""

from __future__ import annotations

import numpy as np


def to_signal(image: np.ndarray) -> np.ndarray:
    """Return float32 (3, h, w) in [-1, 1] from pixels (h, w, 3) in [0, 255], of any type."""
    return image.transpose(2, 0, 1) / np.float32(127.5) - 1


def to_image(signal: np.ndarray) -> np.ndarray:
    """Return pixels, uint8 (h, w, 3), from a signal (3, h, w), rounded and clipped to [0, 255]."""
    rgb = np.rint((signal.transpose(1, 2, 0) + 1) * 127.5)
    return np.clip(rgb, 0, 255).astype(np.uint8)

"""How a slide is stained: the style vector, and changing the stain of pixels.

Light through stain follows Beer and Lambert: optical density ``-ln(rgb / 255)`` is linear in the
amounts of stain. The amounts are read with the fixed vectors of Ruifrok and Johnston (Analytical
and Quantitative Cytology and Histology 23, 2001) as scikit-image has them: haematoxylin, eosin
and a residual. White glass has amount zero, so a linear map of the amounts keeps glass white.

The style vector is the mean and the standard deviation of the three amounts over tissue pixels,
six numbers in this order: mean H, E, residual, deviation H, E, residual.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.color import hed_from_rgb, rgb_from_hed

from .errors import SlideError

STYLE_SIZE = 6
# Measured on colon: Lizard as published (normalised), and kinds of stain between laboratories.
STYLES = {
    "lizard": (0.45, 0.32, 0.09, 0.34, 0.09, 0.05),
    "pale": (0.25, 0.20, 0.08, 0.18, 0.07, 0.03),
    "deep": (0.75, 0.46, 0.18, 0.43, 0.17, 0.08),
    "pink": (0.30, 0.34, 0.08, 0.22, 0.09, 0.05),
    "purple": (0.48, 0.19, 0.04, 0.30, 0.07, 0.06),
}
TISSUE_DENSITY = 0.12  # mean optical density over RGB above which a pixel counts as tissue


def optical_density(rgb: np.ndarray) -> np.ndarray:
    """Optical density, float32 (..., 3) and at least 0, of uint8 RGB (..., 3)."""
    return _DENSITY[rgb]


def tissue_mask(rgb: np.ndarray) -> np.ndarray:
    """Bool (...): where uint8 RGB (..., 3) is tissue and not glass."""
    return optical_density(rgb).mean(axis=-1) > TISSUE_DENSITY


def haematoxylin(rgb: np.ndarray) -> np.ndarray:
    """The amount of haematoxylin, float32 (...), of uint8 RGB (..., 3)."""
    return optical_density(rgb) @ hed_from_rgb[:, 0].astype(np.float32)


def restain(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Multiply the stain amounts of uint8 RGB (..., 3) by ``matrix`` (3, 3) from the right."""
    density = optical_density(rgb) @ (hed_from_rgb @ matrix @ rgb_from_hed).astype(np.float32)
    return np.clip(np.rint(255 * np.exp(-density)), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class StainStatistics:
    """Mean (3,) and covariance (3, 3) of the stain amounts over the tissue of a picture."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, rgb: np.ndarray) -> StainStatistics:
        """Measure uint8 RGB (..., 3).

        Raises:
            SlideError: there is next to no tissue in the picture.
        """
        tissue = rgb[tissue_mask(rgb)]
        if len(tissue) < 256:
            raise SlideError("no tissue in the picture: its stain cannot be measured")
        amounts = optical_density(tissue).astype(np.float64) @ hed_from_rgb
        return cls(amounts.mean(axis=0), np.cov(amounts, rowvar=False))

    def restained(self, matrix: np.ndarray) -> StainStatistics:
        """The statistics after `restain` with ``matrix``: exact, without looking at pixels."""
        return StainStatistics(self.mean @ matrix, matrix.T @ self.covariance @ matrix)

    @property
    def style(self) -> np.ndarray:
        """The style vector, float32 (6,)."""
        spread = np.sqrt(np.diag(self.covariance))
        return np.concatenate([self.mean, spread]).astype(np.float32)


def style_vector(rgb: np.ndarray) -> np.ndarray:
    """The style vector, float32 (6,), of uint8 RGB (..., 3)."""
    return StainStatistics.of(rgb).style


_DENSITY = -np.log(np.maximum(np.arange(256), 1) / 255).astype(np.float32)

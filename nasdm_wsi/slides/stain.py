"""Measure the stain of a slide as a style vector, and change the stain of pixels.

Light through stain follows Beer and Lambert: optical density ``-ln(rgb / 255)`` is linear in the
amounts of stain. The amounts are read with the fixed vectors of Ruifrok and Johnston (Analytical
and Quantitative Cytology and Histology 23, 2001), as in scikit-image: haematoxylin, eosin and a
residual. White glass has no stain, so a linear map of the amounts keeps it white.

The style vector is the mean and the standard deviation of the three amounts over tissue pixels,
six numbers in this order: mean H, E, residual, deviation H, E, residual.

Normalisation (`fit_stains`, `normalise`) instead estimates the two stain vectors of the given
pictures, as Vahadane and others do (IEEE Transactions on Medical Imaging 35, 2016), and repaints
the pictures with the stain vectors of a target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from skimage import color

from ..errors import SlideError
from .tissue import clean_tissue, optical_density, tissue_mask

STYLE_SIZE = 6
# Measured on colon: Lizard as published (normalised), and stains that laboratories produce.
STYLES = {
    "lizard": (0.45, 0.32, 0.09, 0.34, 0.09, 0.05),
    "pale": (0.25, 0.20, 0.08, 0.18, 0.07, 0.03),
    "deep": (0.75, 0.46, 0.18, 0.43, 0.17, 0.08),
    "pink": (0.30, 0.34, 0.08, 0.22, 0.09, 0.05),
    "purple": (0.48, 0.19, 0.04, 0.30, 0.07, 0.06),
}


def haematoxylin(rgb: np.ndarray) -> np.ndarray:
    """Return the amount of haematoxylin, float32 (...), of uint8 RGB (..., 3)."""
    return optical_density(rgb) @ color.hed_from_rgb[:, 0].astype(np.float32)


def restain(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Multiply the stain amounts of uint8 RGB (..., 3) by ``matrix`` (3, 3) from the right."""
    change = (color.hed_from_rgb @ matrix @ color.rgb_from_hed).astype(np.float32)
    density = optical_density(rgb) @ change
    return np.clip(np.rint(255 * np.exp(-density)), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class StainStatistics:
    """Mean (3,) and covariance (3, 3) of the stain amounts over the tissue of a picture."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, rgb: np.ndarray) -> StainStatistics:
        """Measure the tissue of pictures at 0.5 mpp, uint8 RGB (..., h, w, 3), or of pixels (n, 3).

        In pictures, folds and the surroundings of ink and of black areas are left out too.

        Raises:
            SlideError: the picture has almost no tissue.
        """
        tissue = rgb[clean_tissue(rgb) if rgb.ndim > 2 else tissue_mask(rgb)]
        if len(tissue) < 256:
            raise SlideError("no tissue in the picture: its stain cannot be measured")
        amounts = optical_density(tissue).astype(np.float64) @ color.hed_from_rgb
        return cls(amounts.mean(axis=0), np.cov(amounts, rowvar=False))

    def restained(self, matrix: np.ndarray) -> StainStatistics:
        """Return the exact statistics after `restain` with ``matrix``, without using the pixels."""
        return StainStatistics(self.mean @ matrix, matrix.T @ self.covariance @ matrix)

    @property
    def style(self) -> np.ndarray:
        """The style vector, float32 (6,)."""
        spread = np.sqrt(np.diag(self.covariance))
        return np.concatenate([self.mean, spread]).astype(np.float32)


def style_vector(rgb: np.ndarray) -> np.ndarray:
    """Return the style vector, float32 (6,), of uint8 RGB (..., 3); see `StainStatistics.of`."""
    return StainStatistics.of(rgb).style


# Normalisation


@dataclass(frozen=True)
class Stains:
    """The two stains of a set of pictures.

    Attributes:
        vectors: (2, 3), unit optical densities of haematoxylin and eosin over RGB.
        strengths: (2,), the 99th percentiles of their amounts in tissue.
    """

    vectors: np.ndarray
    strengths: np.ndarray


def fit_stains(rgb: np.ndarray, *, extract: Callable[[np.ndarray], np.ndarray]) -> Stains:
    """Estimate the stains of pictures from their pooled pixels, uint8 (..., 3).

    ``extract`` maps tissue pixels, uint8 (n, 3), to two vectors: `vahadane` or
    `staintools_vahadane`. Fit once for a whole set or slide: stains that are fitted to each tile
    differ visibly between tiles.

    Raises:
        SlideError: the pictures have almost no tissue.
    """
    tissue = rgb[clean_tissue(rgb) if rgb.ndim > 2 else tissue_mask(rgb)]
    if len(tissue) < 256:
        raise SlideError("no tissue in the pictures: their stains cannot be found")
    vectors = extract(tissue)
    return Stains(vectors, np.percentile(_amounts(optical_density(tissue), vectors, 0.01), 99, 0))


def normalise(rgb: np.ndarray, *, source: Stains, target: Stains) -> np.ndarray:
    """Repaint uint8 RGB (..., 3) with the stains of a target.

    Each pixel keeps its amounts of stain, so structure is preserved; white stays white, and the
    pixels given are not changed.
    """
    amounts = _amounts(optical_density(rgb.reshape(-1, 3)), source.vectors, 0.01)
    density = amounts * (target.strengths / source.strengths) @ target.vectors
    return np.clip(np.rint(255 * np.exp(-density)), 0, 255).astype(np.uint8).reshape(rgb.shape)


def vahadane(tissue: np.ndarray, *, sparsity: float = 0.1, rounds: int = 200) -> np.ndarray:
    """Return two stain vectors (2, 3) of tissue pixels, uint8 (n, 3), by sparse factorisation.

    Minimises ``|V - H W|^2 / 2 + sparsity |H|_1`` over non-negative amounts H and unit rows of W
    (Vahadane and others), by turns; at most 50,000 pixels are used.
    """
    chosen = np.random.default_rng(0).permutation(len(tissue))[:50_000]
    density = optical_density(tissue[chosen]).astype(np.float64)
    stains = color.rgb_from_hed[:2]
    vectors = stains / np.linalg.norm(stains, axis=1, keepdims=True)
    for _ in range(rounds):
        amounts = _amounts(density, vectors, sparsity)
        gram, cross = amounts.T @ amounts, amounts.T @ density
        before = vectors.copy()
        for k in range(2):
            row = np.maximum(vectors[k] + (cross[k] - gram[k] @ vectors) / max(gram[k, k], 1e-9), 0)
            vectors[k] = row / max(np.linalg.norm(row), 1e-9)
        if np.abs(vectors - before).max() < 1e-6:
            break
    return _haematoxylin_first(vectors)


def staintools_vahadane(tissue: np.ndarray) -> np.ndarray:
    """Estimate stain vectors as `vahadane` does, by the package staintools (extra ``staintools``).

    It gets a copy of the tissue alone, because it fails on white and changes its input.

    Raises:
        SlideError: the package is not installed.
    """
    try:
        from staintools.stain_extraction.vahadane_stain_extractor import VahadaneStainExtractor
    except ImportError as error:
        raise SlideError(
            "staintools is not installed, or spams-bin is missing: "
            "pip install 'nasdm-wsi[staintools]'"
        ) from error
    picture = tissue[: len(tissue) // 64 * 64].reshape(-1, 64, 3).copy()
    return _haematoxylin_first(np.asarray(VahadaneStainExtractor.get_stain_matrix(picture)))


BACKENDS = {"vahadane": vahadane, "staintools": staintools_vahadane}


def _amounts(density: np.ndarray, vectors: np.ndarray, sparsity: float) -> np.ndarray:
    """Return the exact lasso: non-negative amounts (n, 2) of two vectors in densities (n, 3)."""
    reach = density @ vectors.T - sparsity
    overlap = float(vectors[0] @ vectors[1])
    both = (reach - overlap * reach[:, ::-1]) / max(1 - overlap**2, 1e-9)
    # Where not both are positive, the one that explains more stands alone.
    alone = np.maximum(np.where(reach >= reach[:, ::-1], reach, 0), 0)
    return np.where((both > 0).all(axis=1, keepdims=True), both, alone)


def _haematoxylin_first(vectors: np.ndarray) -> np.ndarray:
    """Return the vectors with haematoxylin, which absorbs more red relative to green, first."""
    return vectors[np.argsort(-vectors[:, 0] / np.maximum(vectors[:, 1], 1e-9))]

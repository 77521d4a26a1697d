"""Detection of stained tissue among everything else that a slide shows.

Glass transmits nearly all light. Of the light that tissue stained with haematoxylin and eosin
absorbs, green is the largest part, because both stains absorb green strongly (Ruifrok and
Johnston, 2001). Ink, soot, pigment, the edge of a coverslip and black areas absorb no more green
than other colours. In a fold, several layers of tissue lie on top of each other, so that
haematoxylin and eosin are both far denser than elsewhere.
"""

from __future__ import annotations

import numpy as np
import scipy
from skimage import color, filters

BLACK = 60  # darker in all channels than stained tissue: ink, soot, or a hole in the picture
TISSUE_DENSITY = 0.12  # mean optical density over RGB above which a pixel is not glass
GREEN = 0.36  # share of the optical density that green has at least in stained tissue
MARGIN = 15  # pixels; foreign matter spoils a pixel if it covers a tenth of the square around it
LAYERS = 1.6, 2.2  # how often a fold is as dense as the median: everywhere, and somewhere in it
FOLD = 6.0  # pixels; density is smoothed by a Gaussian so wide, because nuclei are no folds


def optical_density(rgb: np.ndarray) -> np.ndarray:
    """Return optical density, float32 (..., 3) and at least 0, of uint8 RGB (..., 3)."""
    return _DENSITY[rgb]


def tissue_mask(rgb: np.ndarray) -> np.ndarray:
    """Return bool (...): where the colours of uint8 RGB (..., 3) are those of stained tissue."""
    density = optical_density(rgb)
    return _covered(density) & ~_foreign(rgb, density)


def clean_tissue(rgb: np.ndarray) -> np.ndarray:
    """Return bool (..., h, w): clean tissue in pictures, uint8 RGB (..., h, w, 3) at 0.5 mpp.

    Foreign matter is left out with its surroundings, where colours blur into each other, and so are
    folds. Single pixels of an unusual colour are noise, which is part of the picture.
    """
    density = optical_density(rgb)
    covered, foreign = _covered(density), _foreign(rgb, density)
    square = (1,) * (foreign.ndim - 2) + (MARGIN, MARGIN)
    near = scipy.ndimage.uniform_filter(foreign.astype(np.float32), square) > 0.1
    tissue = covered & ~near
    return tissue & ~_folds(density, tissue) if tissue.any() else tissue


def _covered(density: np.ndarray) -> np.ndarray:
    return density.mean(axis=-1) > TISSUE_DENSITY


def _foreign(rgb: np.ndarray, density: np.ndarray) -> np.ndarray:
    """Return where something that is neither glass nor stained tissue absorbs the light."""
    colour = density[..., 1] < GREEN * density.sum(axis=-1)
    return _covered(density) & (colour | (rgb.max(axis=-1) < BLACK))


def _folds(density: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Return where haematoxylin and eosin are both as dense as in several layers of tissue."""
    eosin = density @ color.hed_from_rgb[:, 1].astype(np.float32)
    layers = np.minimum(*(_of_median(amount, tissue) for amount in (density.mean(-1), eosin)))
    wide = (0.0,) * (tissue.ndim - 2) + (FOLD, FOLD)
    part = scipy.ndimage.gaussian_filter(tissue.astype(np.float32), wide)
    thick = scipy.ndimage.gaussian_filter(np.where(tissue, layers, 0), wide) / np.maximum(part, 0.5)
    pictures = thick.reshape(-1, *thick.shape[-2:])
    folds = [filters.apply_hysteresis_threshold(p, *LAYERS) for p in pictures]
    return np.stack(folds).reshape(thick.shape)


def _of_median(amount: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    return amount / max(float(np.median(amount[tissue])), TISSUE_DENSITY)


_DENSITY = -np.log(np.maximum(np.arange(256), 1) / 255).astype(np.float32)

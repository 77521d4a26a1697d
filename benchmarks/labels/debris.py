"""Where tissue floats in glands or in white space: it is no epithelium and no stroma.

Masks are bool (h, w) at 0.5 micrometres a pixel; ``inside``: epithelium, with what it encloses;
``white``: glass, lumen; ``pale``: white or mucus.
"""

from __future__ import annotations

import numpy as np
from masks import blur, distance, erode, grow, opened
from scipy import ndimage


def in_glands(
    inside: np.ndarray,
    white: np.ndarray,
    mucus: np.ndarray,
    shell: np.ndarray,
    nuclei: np.ndarray | None,
) -> np.ndarray:
    """Tissue in a gland that hangs on no wall, unless it is large and looks like epithelium.

    shell: SHELL's probabilities (3, h, w) of lumen, epithelium and stroma.
    """
    tissue = inside & ~white & ~mucus
    core = opened(tissue, 2)
    pieces, n = ndimage.label(core)
    found = np.zeros(inside.shape, bool)
    if n:
        index = np.arange(n + 1)
        fixed = np.zeros(n + 1, bool)
        fixed[np.unique(pieces[_walls(inside)])] = True
        area = np.bincount(pieces.ravel(), minlength=n + 1)
        like = ndimage.mean(shell[1], pieces, index) > 0.6
        if nuclei is not None:
            like |= ndimage.mean(nuclei == 2, pieces, index) > 0.15
        floating = ~fixed & ~((area > 1500) & like)
        floating[0] = False
        found |= grow(floating[pieces], 2) & inside
        found |= tissue & ~core & grow(white, 4) & (shell[0] > 0.6)
    loose = blur(white | mucus, 10) > 0.15  # crumbs between white space; cytoplasm is whole
    return found | opened(tissue & loose & (shell[0] > 0.7), 5)


def _walls(inside: np.ndarray) -> np.ndarray:
    """The outer pixels of glands, and all of theirs at the border of the picture."""
    walls = inside & ~erode(np.pad(inside, 1, mode="edge"), 3)[1:-1, 1:-1]
    for side in (np.s_[:2], np.s_[-2:], np.s_[:, :2], np.s_[:, -2:]):
        walls[side] |= inside[side]
    return walls


def islands(inside: np.ndarray, pale: np.ndarray) -> np.ndarray:
    """Pieces of tissue near a gland with pale space nearly all round."""
    solid = opened(~pale, 3)
    pieces, n = ndimage.label(solid)
    if not n:
        return np.zeros(inside.shape, bool)
    area = np.bincount(pieces.ravel(), minlength=n + 1)
    epithelium = np.bincount(pieces[inside], minlength=n + 1)
    rim = solid & ~erode(np.pad(solid, 3, mode="edge"), 3)[3:-3, 3:-3]
    share = _share(pieces, rim, grow(pale, 6))
    beside = ndimage.minimum(distance(inside), pieces, np.arange(n + 1)) < 60
    floating = (area < 30_000) & (epithelium < 0.1 * area) & (share > 0.8) & beside
    floating[0] = False
    return floating[pieces]


def in_closed_glands(inside: np.ndarray, white: np.ndarray, pale: np.ndarray) -> np.ndarray:
    """What looks like stroma inside a closed gland, unless nearly all round is wall."""
    filled = ndimage.binary_fill_holes(inside | white)
    pieces, n = ndimage.label(filled & ~inside & ~white & (distance(inside) < 100))
    if not n:
        return np.zeros(inside.shape, bool)
    area = np.bincount(pieces.ravel(), minlength=n + 1)
    ring = (pieces > 0) & ~erode(pieces > 0, 2)
    debris = (area < 12_000) & (_share(pieces, ring, grow(pale, 4)) > 0.6)
    debris[0] = False
    return debris[pieces]


def _share(pieces: np.ndarray, rim: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Share of the rim of each piece that lies in a mask."""
    n = pieces.max() + 1
    return np.bincount(pieces[rim & mask], minlength=n) / np.maximum(
        np.bincount(pieces[rim], minlength=n), 1
    )

"""Plans of whole slides: real ones that are mirrored, distorted and enlarged, or a given one.

The real plans are those of colorectal cancers of the ORION study (J.-R. Lin and others, Nature
Cancer 2023, CC BY 4.0), smoothed, one cell for 112 micrometres (`orion/LICENSE.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from ..geometry import Box, shape
from .colon import GLASS
from .glands import STEP
from .keyed import generator, smooth

PLANS = Path(__file__).parent / "orion"
CELL = 112  # micrometres
CLASSES = 9  # in the order of `colon.GLASS`, `colon.MUCOSA`, ...
BLUR = 0.8  # of the borders of cells, in cells
LARGEST = 1.6  # how many times a real plan may be enlarged
MARGIN = 0.03  # of glass round the tissue, as a share of the canvas
# The scales at which places are moved against each other, and how far, in micrometres.
_BENDS = ((2048, 420.0), (512, 90.0), (128, 34.0), (32, 9.0))
_DRAW = 2400


class SlidePlan:
    """The plan of a slide.

    Args:
        canvas: height and width in micrometres.
        seed: chooses a real plan, turns and bends it.
        cells: the plan to take instead, uint8 (rows, columns); it is stretched over the canvas.
    """

    def __init__(self, canvas: tuple[float, float], *, seed: int, cells: np.ndarray | None = None):
        self._seed = seed
        self._bends = _BENDS if cells is None else _BENDS[2:]
        rng = generator(seed, _DRAW, 0, 0)
        if cells is None:
            cells = _turned(_real(rng), canvas, rng)
            scale, origin = _placed(cells, canvas, rng)
        else:
            scale, origin = np.array(canvas) / cells.shape, np.zeros(2)
        self._scale, self._origin = scale, origin
        self._shares = {
            kind: ndimage.gaussian_filter((cells == kind).astype(np.float32), BLUR)
            for kind in np.unique(cells).tolist()
        }

    def ground(self, box: Box) -> np.ndarray:
        """Return kinds of ground, uint8, one for every `STEP` micrometres of a box."""
        rows, columns = (side // STEP for side in shape(box))
        y = box[0] + STEP * (np.arange(rows) + 0.5)
        x = box[1] + STEP * (np.arange(columns) + 0.5)
        places = np.stack(np.meshgrid(y, x, indexing="ij"))
        for number, (scale, far) in enumerate(self._bends):
            for axis in (0, 1):
                draw = _DRAW + 1 + 2 * number + axis
                field = smooth(box, step=STEP, scale=scale, seed=self._seed, draw=draw)
                places[axis] += far * field
        cells = (places - self._origin[:, None, None]) / self._scale[:, None, None] - 0.5
        best, out = np.full((rows, columns), -1.0), np.zeros((rows, columns), np.uint8)
        for kind, share in self._shares.items():
            outside = 1.0 if kind == GLASS else 0.0
            here = ndimage.map_coordinates(share, cells, order=1, mode="constant", cval=outside)
            more = here > best
            best[more], out[more] = here[more], kind
        return out


def _real(rng: np.random.Generator) -> np.ndarray:
    files: Sequence[Path] = sorted(PLANS.glob("*.png"))
    with Image.open(files[int(rng.integers(len(files)))]) as image:
        return np.array(image)


def _turned(cells: np.ndarray, canvas: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Return the part of a plan that has tissue, mirrored, its long side along the canvas."""
    rows, columns = np.nonzero(cells)
    cells = cells[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    if (cells.shape[0] > cells.shape[1]) != (canvas[0] > canvas[1]):
        cells = cells.T
    if rng.random() < 0.5:
        cells = cells[::-1]
    return cells[:, ::-1] if rng.random() < 0.5 else cells


def _placed(
    cells: np.ndarray, canvas: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return micrometres a cell, (2,), and where the plan begins on the canvas."""
    room = (1 - 2 * MARGIN) * np.array(canvas)
    scale = min(float((room / cells.shape).min()), LARGEST * CELL)
    scale = max(scale, CELL / LARGEST)  # a smaller canvas shows a part
    left = room - scale * np.array(cells.shape)
    where = np.where(left > 0, 0.5, rng.uniform(0.1, 0.9, 2))
    return np.full(2, scale), MARGIN * np.array(canvas) + left * where

"""A strip of the bowel wall: glass, mucosa, submucosa, muscle, fat, from top to bottom."""

from __future__ import annotations

import numpy as np

from ..geometry import Box, shape
from .colon import ADENOMA, FAT, GLASS, LYMPHOCYTES, MUCOSA, MUSCLE, STROMA, TUMOUR
from .glands import STEP
from .keyed import smooth

LUMEN = 40.0  # depth of the glass above the tissue
MUCOSA_DEPTH = 620.0
SUBMUCOSA = 450.0
MUSCULARIS = 900.0
TUMOUR_DEPTH = 2000.0
SHARE_BELOW = 0.18  # of a canvas that is less deep than a bowel wall: muscle and submucosa
_DRAW = 2300
_KINDS = {"normal": MUCOSA, "adenoma": ADENOMA, "carcinoma": TUMOUR}


class Strip:
    """The plan of a strip.

    height: of the canvas.
    tissue: "normal", "adenoma" or "carcinoma", in place of the mucosa.
    """

    def __init__(self, height: float, *, seed: int, tissue: str = "normal"):
        self._seed, self._kind = seed, _KINDS[tissue]
        below = SHARE_BELOW * height
        self._depth = min(MUCOSA_DEPTH, height - LUMEN - below)
        if tissue == "carcinoma":  # no layer stops it
            self._depth = min(TUMOUR_DEPTH, height)

    def ground(self, box: Box) -> np.ndarray:
        """Return kinds of ground, uint8, one for every `STEP` micrometres of a box."""
        rows, columns = (side // STEP for side in shape(box))
        y = (box[0] + STEP * (np.arange(rows) + 0.5))[:, None]
        top = LUMEN + 10 * self._along(box, 128, 0) + 3 * self._along(box, 32, 7)
        top = top + self._pits(box)
        base = LUMEN + self._depth + 14 * self._along(box, 256, 1)
        if self._kind == TUMOUR:  # invades
            base = base + 60 * self._field(box, 128, 5)
        deep = base + SUBMUCOSA + 30 * self._along(box, 512, 2)
        outer = deep + MUSCULARIS + 40 * self._along(box, 512, 3)
        ground = np.full((rows, columns), FAT, np.uint8)
        for border, kind in ((outer, MUSCLE), (deep, STROMA), (base, self._kind), (top, GLASS)):
            ground[np.broadcast_to(y < border, ground.shape)] = kind
        aggregates = self._field(box, 128, 4) > 2.3
        near = np.abs(y - (base - 40)) < 70
        ground[aggregates & near & np.isin(ground, (self._kind, STROMA))] = LYMPHOCYTES
        return ground

    def _pits(self, box: Box) -> np.ndarray:
        """Return how deep the surface dips where crypts open."""
        if self._kind == TUMOUR:
            return 0 * self._along(box, 32, 6)
        return 38 * np.maximum(self._along(box, 16, 6) - 1.2, 0) ** 1.2

    def _along(self, box: Box, scale: int, number: int) -> np.ndarray:
        line = (0, box[1], STEP, box[3])
        return smooth(line, step=STEP, scale=scale, seed=self._seed, draw=_DRAW + number)

    def _field(self, box: Box, scale: int, number: int) -> np.ndarray:
        return smooth(box, step=STEP, scale=scale, seed=self._seed, draw=_DRAW + number)

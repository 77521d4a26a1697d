"""The slide of which a part is edited, as the known pixels of a job."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import shapely

from ..annotations.raster import Cover
from ..geometry import Box
from ..slides.reading import Slide, open_slide


@dataclass(frozen=True)
class EditedSlide:
    """A slide whose pixels are known except in an area; what `job.Known` asks for.

    Attributes:
        path: of the slide.
        mpp: pixel size at which it is read; None for its own pixels.
        corner: (y, x) of the canvas on the slide, in pixels of ``mpp``.
        area: polygons in canvas pixels; the pixels inside are painted.
        digest: SHA-256 of the file, in hexadecimal digits.
    """

    path: Path
    mpp: float | None
    corner: tuple[int, int]
    area: shapely.Geometry
    digest: str

    def mask(self, box: Box) -> np.ndarray:
        """Return bool (h, w): the pixels outside the area."""
        return ~self._cover.mask(box)

    def pixels(self, box: Box) -> np.ndarray:
        """Return the pixels of the slide, uint8 (h, w, 3); beyond it they are white."""
        slide, lock = self._open
        y, x = self.corner
        place = box[0] + y, box[1] + x, box[2] + y, box[3] + x
        with lock:
            return slide.read(place, mpp=self.mpp or slide.mpp or 1.0)

    def fingerprint(self) -> str:
        """Return the digest of the file, and 16 digits that change when the area does."""
        area = hashlib.sha256(shapely.to_wkb(self.area)).hexdigest()[:16]
        return f"{self.digest} {area}"

    @cached_property
    def _cover(self) -> Cover:
        return Cover(self.area)

    @cached_property
    def _open(self) -> tuple[Slide, Lock]:
        return open_slide(self.path), Lock()

    def __getstate__(self) -> dict[str, Any]:
        # Each process opens the slide for itself.
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

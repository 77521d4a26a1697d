"""Pictures by which notebooks show what they hold."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from .nuclei import PALETTE, Nuclei
from .raster import Conditioning

SIDE = 512  # pixels of a picture's longer side


def png(pixels: np.ndarray) -> bytes:
    """uint8 (h, w, 3) as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def drawing(nuclei: Nuclei) -> np.ndarray:
    """Nuclei in the colours of their types on white, uint8 (h, w, 3); there must be some."""
    y0, x0, y1, x1 = nuclei.extent()
    scale = max(y1 - y0, x1 - x0) / SIDE
    fitted = nuclei.shifted(-y0, -x0).scaled(nuclei.mpp * scale)
    size = max(1, round((y1 - y0) / scale)), max(1, round((x1 - x0) / scale))
    _, types = Conditioning(fitted, size).labels((0, 0, *size))
    return PALETTE[types]

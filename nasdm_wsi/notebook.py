"""Pictures that represent objects in notebooks."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SIDE = 512  # pixels of a picture's longer side


def png(pixels: np.ndarray) -> bytes:
    """Encode pixels, uint8 (h, w, 3), as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()

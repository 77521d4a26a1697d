"""The pictures that go with a slide: the label on its glass, and the macro picture of the glass.

Both say that the slide is synthetic. They do not depend on the name of the file.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LABEL = (400, 400)  # pixels, width and height
MACRO = (1280, 432)
PAPER, INK, WARNING, GLASS, STAGE = "#f4f1e8", "#222222", "#b00020", "#fbfbfd", "#c9ccd2"
_LINES = (  # height of the text in pixels, colour, text
    (58, WARNING, "SYNTHETIC"),
    (38, WARNING, "not for diagnosis"),
    (30, INK, "H&E painted by"),
    (30, INK, "nasdm-wsi"),
)


def label_picture() -> np.ndarray:
    """Return the label, uint8 (h, w, 3)."""
    width, height = LABEL
    picture = Image.new("RGB", LABEL, PAPER)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((8, 8, width - 9, height - 9), outline=INK, width=3)
    y = 70.0
    for size, colour, text in _LINES:
        font = ImageFont.load_default(size)
        draw.text((width / 2, y), text, fill=colour, font=font, anchor="ma")
        y += 1.6 * size
    return np.asarray(picture)


def macro_picture(thumbnail: np.ndarray) -> np.ndarray:
    """Return the glass with its label at the left and the tissue, uint8 (h, w, 3); not to scale.

    ``thumbnail`` is the whole slide, uint8 (h, w, 3), at any resolution.
    """
    width, height = MACRO
    picture = Image.new("RGB", MACRO, STAGE)
    ImageDraw.Draw(picture).rectangle((16, 16, width - 17, height - 17), fill=GLASS)
    picture.paste(Image.fromarray(label_picture()), (16, 16))
    x0, margin = 16 + LABEL[0], 40  # the rest of the glass
    space = width - 16 - x0 - 2 * margin, height - 2 * margin
    tissue = _fitted(Image.fromarray(thumbnail), space)
    x = x0 + margin + (space[0] - tissue.width) // 2
    picture.paste(tissue, (x, (height - tissue.height) // 2))
    return np.asarray(picture)


def _fitted(picture: Image.Image, space: tuple[int, int]) -> Image.Image:
    """Return a picture as large as it can be in a space (width, height)."""
    scale = min(space[0] / picture.width, space[1] / picture.height)
    size = max(1, int(picture.width * scale)), max(1, int(picture.height * scale))
    return picture.resize(size, Image.Resampling.HAMMING)

"""Checks of a canvas, and of the places of nuclei and regions on it.

`docs/checks.md` lists the checks and their limits.
"""

from __future__ import annotations

import numpy as np

from ..errors import PlanError
from .columns import Columns, PolygonTable

# Pixels of the longest side of a canvas: outlines are rasterised in integers that reach little
# farther.
SIDE = 1_000_000
MOST_CANVAS = 20_000_000_000  # pixels: 70 mm x 70 mm at 0.5 micrometres per pixel
FINER = 1.5  # times; with pixels so much finer than the slide's, `size` may count those instead
# A label image may differ that much from the canvas: a share of it, or one pixel of a coarse image.
LABELS_OFF, LABEL_PIXEL = 0.02, 16


def check_canvas(
    size: tuple[int, int], most: int | None, drawn: PolygonTable | None = None
) -> None:
    """Refuse a canvas ``size`` (h, w) of more than ``most`` pixels, or with a side beyond `SIDE`.

    ``most`` is None where the user cannot raise the limit, which is `MOST_CANVAS` then. If the
    canvas was made to contain nuclei or regions that are ``drawn``, in their own pixels, the
    message names the most distant one.

    Raises:
        PlanError: the canvas is too large; the message gives the size and the limit.
    """
    height, width = size
    limit = most or MOST_CANVAS
    if height * width <= limit and max(size) <= SIDE:
        return
    text, remedy = f"a canvas of {width} x {height} pixels ", "give a smaller `size`"
    if max(size) > SIDE:
        text += f"has a side of more than {SIDE:,}: "
    else:
        text += f"is larger than {limit:,} pixels: "
        remedy += ", or a larger `max_canvas`" if most else ""
    if drawn is not None and len(drawn):
        boxes = drawn.boxes()
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        away = centres - np.quantile(centres, 0.5, axis=0, method="lower")
        y, x = centres[np.abs(away).max(1).argmax()]
        text += (
            f"the outline at x {x:.0f}, y {y:.0f} in pixels of {drawn.mpp:g} micrometres lies "
            "farthest from the others; remove it if it is a mistake, or "
        )
    raise PlanError(text + remedy)


def on_canvas(
    nuclei: Columns,
    size: tuple[int, int],
    region: tuple[int, int, int, int],
    *,
    mpp: float,
    own_mpp: float,
) -> list[str]:
    """Return warnings about the places of nuclei on a canvas of ``size`` (h, w) and in its region.

    nuclei: in canvas pixels of ``mpp``. own_mpp: the pixel size at which they were given.

    Raises:
        PlanError: none of them lies on the canvas.
    """
    if not len(nuclei):
        return []
    height, width = size
    boxes = nuclei.boxes()
    on_slide = _touch(boxes, (0, 0, height, width))
    if not on_slide.any():
        raise PlanError(_none_lies("nuclei", boxes, size, f"its pixels of {mpp:g} mpp"))
    warnings = []
    if outside := int((~on_slide).sum()):
        lie = "1 nucleus lies" if outside == 1 else f"{outside:,} nuclei lie"
        warnings.append(
            f"{lie} outside the slide of {width} x {height} "
            f"pixels, of {len(nuclei):,}: check `mpp`, `size` and the origin of the coordinates"
        )
    if not _touch(boxes, region).any():
        warnings.append("no nucleus lies in the `region`: check its numbers")
    # Sizes are in pixels of the slide. In those of finer annotations all nuclei would fit as well.
    reach = boxes[:, 2:].max(0) / size
    factor = mpp / own_mpp
    if factor >= FINER and (reach * factor <= 1.02).all() and (reach * factor).max() > 0.8:
        warnings.append(
            f"the slide has {mpp:g} micrometres per pixel, as the weights ask, and the "
            f"annotations {own_mpp:g}: they fill only {reach[1]:.0%} of its width and "
            f"{reach[0]:.0%} of its height; `size` counts pixels of the slide"
        )
    return warnings


def regions_on_canvas(regions: Columns, size: tuple[int, int], *, alone: bool) -> list[str]:
    """Return warnings about the places of regions on a canvas of ``size`` (h, w), in its pixels.

    Raises:
        PlanError: none of them lies on the canvas, and they are ``alone``, without nuclei.
    """
    boxes = regions.boxes()
    if _touch(boxes, (0, 0, *size)).any():
        return []
    text = _none_lies("regions", boxes, size, "its pixels")
    if alone:
        raise PlanError(text)
    return [text]


def label_image_fits(table: PolygonTable, size: tuple[int, int]) -> list[str]:
    """Return a warning if a table was read from a label image of another size than the canvas.

    table: nuclei or regions, in pixels of the canvas. size: height and width of the canvas, as the
    user gave them.
    """
    if table.image_size is None:
        return []
    height, width = (round(side / table.mpp) for side in table.image_size)
    dy, dx = abs(height - size[0]), abs(width - size[1])
    if max(dy, dx) <= LABEL_PIXEL or max(dy / size[0], dx / size[1]) <= LABELS_OFF:
        return []
    return [
        f"the label image covers {width} x {height} pixels, but the slide has {size[1]} x "
        f"{size[0]}: what lies beyond is cut, and what the image does not cover is unknown; check "
        "its pixel size"
    ]


def _none_lies(what: str, boxes: np.ndarray, size: tuple[int, int], pixels: str) -> str:
    """Return that none of some outlines lies on a canvas, and where they lie, in ``pixels``."""
    height, width = size
    (y0, x0), (y1, x1) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    return (
        f"none of {len(boxes):,} {what} lies on the slide of {width} x {height} pixels: they lie "
        f"at x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f} in {pixels}; check `mpp`, `size` and "
        "the origin of the coordinates"
    )


def _touch(boxes: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Return bool (n,): which boxes overlap a given one."""
    y0, x0, y1, x1 = box
    a, b, c, d = boxes.T
    return (a < y1) & (b < x1) & (c > y0) & (d > x0)

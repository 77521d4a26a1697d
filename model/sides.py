"""The context at the sides of a window: pixels that are read, but whose results nobody wants."""

from __future__ import annotations

from torch import Tensor

Sides = tuple[int, int, int, int]  # numbers of pixels at the top, left, bottom and right
NONE: Sides = (0, 0, 0, 0)


def nearest(sides: Sides, reach: int) -> Sides:
    """Return what lies at most ``reach`` pixels from the pixels inside."""
    top, left, bottom, right = (min(n, reach) for n in sides)
    return top, left, bottom, right


def less(sides: Sides, kept: Sides) -> Sides:
    """Return what is dropped if of ``sides`` only ``kept`` remain."""
    top, left, bottom, right = (n - k for n, k in zip(sides, kept, strict=True))
    return top, left, bottom, right


def without(x: Tensor, sides: Sides, *, cell: int = 1) -> Tensor:
    """Return the view of ``x`` (..., h, w), in cells of ``cell`` pixels, without these sides."""
    top, left, bottom, right = (n // cell for n in sides)
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]

"""Windows of one size as the tensors of a batch, and what is read from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..job import PIXELS, PIXELS_KNOWN, Window
from .diffusion import Condition
from .sides import Sides, less, nearest, without


@dataclass(frozen=True)
class Batch:
    """Windows of one size as tensors, (n, ..., h, w) each.

    x, previous: pixels and their last estimate. tissue: bool. context: how many pixels on each side
    of the tensors are only context.
    """

    windows: Sequence[Window]
    x: Tensor
    previous: Tensor
    tissue: Tensor
    condition: Condition
    context: Sides

    def within(self, reach: int) -> Batch:
        """Drop the context farther than ``reach`` pixels."""
        kept = nearest(self.context, reach)
        if kept == self.context:
            return self
        sides = less(self.context, kept)
        return replace(
            self,
            x=without(self.x, sides),
            previous=without(self.previous, sides),
            tissue=without(self.tissue, sides),
            condition=replace(self.condition, planes=without(self.condition.planes, sides)),
            context=kept,
        )


def stacked(arrays: list[np.ndarray]) -> np.ndarray:
    """Return arrays of one shape as one; a single array is not copied."""
    return np.stack(arrays) if len(arrays) > 1 else arrays[0][None]


def context_of(window: Window) -> Sides:
    """Return how many pixels on each side of a window are only context."""
    (y0, x0, y1, x1), (top, left, bottom, right) = window.wanted, window.box
    return y0 - top, x0 - left, bottom - y1, right - x1


def with_known(estimate: Tensor, condition: Condition) -> Tensor:
    """Return an estimate with the known pixels of the condition in it."""
    known = condition.pick(PIXELS_KNOWN) > 0
    return torch.where(known, condition.pick(*PIXELS[1:]), estimate)

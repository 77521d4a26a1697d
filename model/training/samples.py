"""A training sample of any kind."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Sample(NamedTuple):
    """A training picture with its planes.

    pixels: float32 (3, c, c) in [-1, 1]. planes: float32 (p, c, c), as the samples name them.
    style: float32 (6,), the stain of the picture.
    """

    pixels: Tensor
    planes: Tensor
    style: Tensor

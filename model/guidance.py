"""Classifier-free guidance as a wrapper round a denoiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .diffusion import Condition

Denoise = Callable[[Tensor, Tensor, Condition], Tensor]


def guided(denoise: Denoise, scale: float, *, interval: tuple[float, float]) -> Denoise:
    """Push estimates away from those without a mask, at noise levels inside ``interval`` only.

    ``x0 = x0_c + scale (x0_c - x0_null)``: equation 7 of Shrivastava and Fletcher (2023), which in
    noise and in pixels is the same. The interval is Kynkäänniemi and others' (2024): guidance
    harms at high noise and is idle at low. All samples of a batch share one noise level.
    """
    if scale == 0:
        return denoise

    def denoise_guided(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        x0 = denoise(x, sigma, condition)
        if not interval[0] <= float(sigma[0]) <= interval[1]:
            return x0
        return torch.lerp(denoise(x, sigma, condition.null()), x0, 1 + scale)

    return denoise_guided

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
    harms at high noise and is idle at low. All samples of a batch share one noise level, which is
    what the callable's second argument says. Channels after the third (a variance) are not guided.
    """
    if scale == 0:
        return denoise

    def denoise_guided(x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        out = denoise(x, level, condition)
        if interval[0] <= float(level[0]) <= interval[1]:
            null = denoise(x, level, condition.null())
            out = torch.cat([torch.lerp(null[:, :3], out[:, :3], 1 + scale), out[:, 3:]], dim=1)
        return out

    return denoise_guided

"""Classifier-free guidance as a wrapper round a denoiser."""

from __future__ import annotations

import torch
from torch import Tensor

from .diffusion import Condition, Denoise

INTERVAL = (0.15, 4.0)  # noise levels at which networks are guided


def guided(
    denoise: Denoise, scale: float, *, learnt: float = 0.0, interval: tuple[float, float] = INTERVAL
) -> Denoise:
    """Push estimates away from those without a mask, at noise levels inside ``interval`` only.

    ``x0 = x0_c + scale (x0_c - x0_null)``: equation 7 of Shrivastava and Fletcher (2023), which in
    noise and in pixels is the same. The interval is Kynkäänniemi and others' (2024): guidance
    harms at high noise and is idle at low. The callable's second argument is the noise level of
    each sample. Channels after the third (a variance) are not guided.

    ``learnt`` is the scale that the network gives by itself (`TrainingConfig.guidance`): at that
    scale there is nothing left to do, at any other ``scale`` is still the whole of it.
    """
    push = (1 + scale) / (1 + learnt)
    if push == 1:
        return denoise

    def denoise_guided(x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        out = denoise(x, level, condition)
        inside = (interval[0] <= level) & (level <= interval[1])
        if inside.any():
            null = denoise(x, level, condition.null())
            pushed = torch.lerp(null[:, :3], out[:, :3], push)
            pushed = torch.where(inside[:, None, None, None], pushed, out[:, :3])
            out = torch.cat([pushed, out[:, 3:]], dim=1)
        return out

    return denoise_guided

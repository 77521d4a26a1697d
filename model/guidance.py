"""Classifier-free guidance as a wrapper around a denoiser."""

from __future__ import annotations

import torch
from torch import Tensor

from .diffusion import Condition, Denoise

INTERVAL = (0.15, 4.0)  # noise levels at which networks are guided


def guided(
    denoise: Denoise, scale: float, *, learnt: float = 0.0, interval: tuple[float, float] = INTERVAL
) -> Denoise:
    """Move estimates away from those without a mask, at noise levels inside ``interval`` only.

    ``x0 = x0_c + scale (x0_c - x0_null)``: equation 7 of Shrivastava and Fletcher (2023), which is
    the same for noise and for pixels. The interval follows Kynkäänniemi and others (2024): guidance
    is harmful at high noise levels and has no effect at low ones. The callable's second argument is
    the noise level of each sample. Channels after the third (a variance) are not guided.

    ``learnt`` is the guidance scale distilled into the network (`TrainingConfig.guidance`). At that
    scale the network is used alone; at any other scale, ``scale`` is the full guidance scale.
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

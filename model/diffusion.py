"""Noise levels and preconditioning (Karras and others, 2022, "EDM", Table 1 and Section 5).

A denoiser is any callable ``(x, sigma, condition) -> x0``. Pixels lie in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .local_unet import LocalUNet


@dataclass(frozen=True)
class Condition:
    """What the picture must show.

    mask: (n, 8, h, w), six one-hot types, edges, and a plane that is 1 where the mask is known.
    style: (n, 6), the stain (`nasdm_wsi.stain`).
    """

    mask: Tensor
    style: Tensor

    def null(self) -> Condition:
        """The condition that leaves the nuclei open: the mask is unknown, the style stays."""
        return Condition(torch.zeros_like(self.mask), self.style)

    def drop(self, which: Tensor) -> Condition:
        """Forget the mask of the samples where ``which`` (n,) is true."""
        return Condition(self.mask * ~which[:, None, None, None], self.style)


class Denoiser(nn.Module):
    """EDM preconditioning: ``D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)``."""

    def __init__(self, network: LocalUNet):
        super().__init__()
        self.network = network
        self.sigma_data = network.config.sigma_data

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Expected clean pixels of noisy ``x`` (n, 3, h, w) at noise level ``sigma`` (n,)."""
        s, d = sigma[:, None, None, None], self.sigma_data
        total = (s**2 + d**2).sqrt()
        out = self.network(x / total, sigma.log() / 4, condition.mask, condition.style)
        return d**2 / total**2 * x + s * d / total * out.float()


def denoising_loss(
    denoiser: Denoiser, x0: Tensor, sigma: Tensor, condition: Condition, noise: Tensor
) -> Tensor:
    """EDM's weighted squared error of each sample, (n,); about one before training."""
    d = denoiser.sigma_data
    error = denoiser(x0 + noise * sigma[:, None, None, None], sigma, condition) - x0
    return (sigma**2 + d**2) / (sigma * d) ** 2 * error.square().mean(dim=(1, 2, 3))

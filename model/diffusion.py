"""Denoisers, which wrap a network of either family, and the losses that train them.

A denoiser is any callable ``(x, sigma, condition) -> x0``. Pixels lie in [-1, 1] and are not
scaled: x is x0 plus noise of standard deviation sigma, as in EDM (Karras and others, 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..annotations.types import EDGE, NUCLEI_KNOWN, PLANES
from .ddpm import hybrid_loss, linear_schedule
from .local_unet import LocalUNet
from .planes import PIXELS
from .semantic_unet import SemanticUNet
from .sides import NONE, Sides, without


@dataclass(frozen=True)
class Condition:
    """The conditions of a picture.

    planes: (n, len(names), h, w), the conditioning planes. All of them are zero where nothing is
    known; each group of planes includes one that is 1 where the group is known.
    style: (n, 6), the stain (`nasdm_wsi.slides.stain`).
    names: the names of the planes, in order.
    context: how many pixels on each side are only context, which the estimate leaves out.
    given: the numbers of the planes among those of the network, if all others are zero.
    """

    planes: Tensor
    style: Tensor
    names: tuple[str, ...] = PLANES
    context: Sides = NONE
    given: tuple[int, ...] | None = None

    def pick(self, *names: str) -> Tensor:
        """Return the planes of these names, (n, len(names), h, w), as a view if possible."""
        index = [self.names.index(name) for name in names]
        first, last = index[0], index[-1]
        if index == list(range(first, last + 1)):
            return self.planes[:, first : last + 1]
        return self.planes[:, index]

    def widened(self, names: tuple[str, ...]) -> Condition:
        """Return the condition with exactly these planes; planes that it lacks are unknown."""
        if names == self.names:
            return self
        n, _, h, w = self.planes.shape
        planes = self.planes.new_zeros(n, len(names), h, w)
        planes[:, [names.index(name) for name in self.names]] = self.planes
        return replace(self, planes=planes, names=names)

    def null(self) -> Condition:
        """Return the null condition, which keeps only the known pixels and the style."""
        return self.drop(torch.ones(len(self.planes), dtype=torch.bool, device=self.planes.device))

    def drop(self, which: Tensor) -> Condition:
        """Set the condition to null where ``which`` (n,) is true; known pixels are kept."""
        kept = torch.tensor([name in PIXELS for name in self.names], device=which.device)
        keep = kept | ~which[:, None]
        return replace(self, planes=self.planes * keep[:, :, None, None])


Denoise = Callable[[Tensor, Tensor, Condition], Tensor]


class Denoiser(nn.Module):
    """The `local` family: ``D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)``.

    EDM, Table 1 and Section 5. In training ``ln(sigma)`` is normal with mean `P_MEAN` and
    deviation `P_STD`.
    """

    P_MEAN, P_STD = -0.6, 1.4

    def __init__(self, network: LocalUNet):
        super().__init__()
        self.network = network
        self.sigma_data = network.config.sigma_data

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Expected clean pixels of noisy ``x`` (n, 3, h, w) at noise level ``sigma`` (n,)."""
        s, d = sigma[:, None, None, None], self.sigma_data
        total = (s**2 + d**2).sqrt()
        level, context = sigma.log() / 4, condition.context
        out = self.network(
            x / total, level, condition.planes, condition.style, context, condition.given
        )
        return d**2 / total**2 * without(x, context) + s * d / total * out.float()

    def sigma(self, level: Tensor) -> Tensor:
        """Return the noise level of a quantile ``level`` in (0, 1)."""
        return torch.exp(self.P_MEAN + self.P_STD * torch.special.ndtri(level))

    def loss(self, x0: Tensor, condition: Condition, level: Tensor, noise: Tensor) -> Tensor:
        """EDM's weighted squared error of each sample, (n,); about one before training.

        level: (n,) in (0, 1), the quantile of the noise level; noise: (n, 3, h, w), unit Gaussian.
        """
        sigma = self.sigma(level)
        return self.error(x0 + noise * sigma[:, None, None, None], sigma, condition, x0)

    def error(self, x: Tensor, sigma: Tensor, condition: Condition, target: Tensor) -> Tensor:
        """Return the weighted squared error of estimates of noisy ``x`` against a target, (n,)."""
        error = self(x, sigma, condition) - target
        return self.weight(sigma) * error.square().mean(dim=(1, 2, 3))

    def weight(self, sigma: Tensor) -> Tensor:
        """EDM's weight of squared errors at a noise level."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


class NoisePredictor(nn.Module):
    """The `semantic` family: ``D(x; sigma) = x - sigma eps(x / sqrt(1 + sigma^2); t(sigma))``.

    Between the steps of the schedule t is interpolated in ln(sigma).
    """

    def __init__(self, network: SemanticUNet):
        super().__init__()
        self.network = network
        self.schedule = linear_schedule()

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Expected clean pixels of noisy ``x`` (n, 3, h, w) at noise level ``sigma`` (n,)."""
        t = np.interp(sigma.log().cpu().double(), self.schedule.sigmas.log(), self.schedule.steps)
        s = sigma[:, None, None, None]
        outputs = self.outputs(
            x / (1 + s**2).sqrt(), torch.from_numpy(t).to(x.dtype).to(x.device), condition
        )
        return without(x - s * outputs[:, :3].float(), condition.context)

    def outputs(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the network itself, for the paper's sampler: ``x`` scaled, ``t`` (n,) in steps."""
        return self.network(x, t, self._planes(condition))

    def loss(self, x0: Tensor, condition: Condition, level: Tensor, noise: Tensor) -> Tensor:
        """L_hybrid of each sample, (n,); ``level`` (n,) in (0, 1) picks the step."""
        k = (level * len(self.schedule)).long()
        return hybrid_loss(self.network, self.schedule, x0, k, self._planes(condition), noise)

    def _planes(self, condition: Condition) -> Tensor:
        """Return the planes of the network; the published layout begins with a background."""
        names = [name for name in condition.names if name != NUCLEI_KNOWN]
        nuclei = condition.pick(*names)
        if self.network.config.condition == len(names):
            return nuclei
        types = condition.pick(*(n for n in names if n != EDGE)).sum(dim=1, keepdim=True)
        background = condition.pick(NUCLEI_KNOWN) - types
        return torch.cat([background, nuclei], dim=1)

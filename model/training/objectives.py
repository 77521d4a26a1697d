"""What training minimises: each stage of training is an objective, a wrapper round a denoiser."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import TrainingConfig
from ..diffusion import Denoise, Denoiser, NoisePredictor
from .data import Batch
from .optimisers import Optimisers, network_optimisers


class Objective(nn.Module):
    """The plain loss of a denoiser: to tell the pixels under the noise.

    A module, for that is what DistributedDataParallel wraps. Other objectives bring what they train
    beside the network, and the optimisers for it.
    """

    def __init__(self, denoiser: Denoiser | NoisePredictor):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss of a batch."""
        loss = self.denoiser.loss(batch.pixels, batch.condition, batch.level, batch.noise)
        return loss.mean()

    def optimisers(self, settings: TrainingConfig) -> Optimisers:
        """The optimisers of the network, whose learning rate follows the settings."""
        return network_optimisers(self.denoiser.network, settings)

    def own_modules(self) -> dict[str, nn.Module]:
        """Modules beside the network that are trained, and kept in checkpoints, by name."""
        return {}

    def own_optimisers(self) -> Optimisers:
        """The optimisers of these modules, whose learning rates are their own."""
        return {}


class GuidanceDistillation(Objective):
    """Guidance distillation (Meng and others 2023): to tell what a guided teacher estimates.

    A student gives in one evaluation what guidance makes of two.
    """

    denoiser: Denoiser

    def __init__(self, denoiser: Denoiser, teacher: Denoise):
        super().__init__(denoiser)
        self.teacher = teacher

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss of a batch, against the teacher's estimates in place of the pixels."""
        sigma = self.denoiser.sigma(batch.level)
        x = batch.pixels + batch.noise * sigma[:, None, None, None]
        with torch.no_grad():
            target = self.teacher(x, sigma, batch.condition)
        return self.denoiser.error(x, sigma, batch.condition, target).mean()

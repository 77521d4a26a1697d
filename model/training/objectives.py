"""Objectives: each stage of training minimises one, which is a wrapper around a denoiser."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...job import PIXELS_KNOWN
from ..config import TrainingConfig
from ..diffusion import Denoise, Denoiser, NoisePredictor
from .data import Batch
from .optimisers import Optimisers, network_optimisers


class Objective(nn.Module):
    """The plain loss of a denoiser, which has to predict the pixels without noise.

    It is a module, because DistributedDataParallel wraps modules. Other objectives add the modules
    that they train besides the network, and the optimisers for these.
    """

    def __init__(self, denoiser: Denoiser | NoisePredictor):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch."""
        loss = self.denoiser.loss(batch.pixels, batch.condition, batch.level, batch.noise)
        return loss.mean()

    def optimisers(self, settings: TrainingConfig) -> Optimisers:
        """Return the optimisers of the network, whose learning rate follows the settings."""
        return network_optimisers(self.denoiser.network, settings)

    def own_modules(self) -> dict[str, nn.Module]:
        """Further modules that are trained, and stored in checkpoints, by name."""
        return {}

    def own_optimisers(self) -> Optimisers:
        """Return the optimisers of these modules, which have their own learning rates."""
        return {}


class GuidanceDistillation(Objective):
    """Guidance distillation (Meng and others 2023): the target is a guided teacher's estimate.

    The student needs one evaluation for the result that guidance computes from two.
    """

    denoiser: Denoiser

    def __init__(self, denoiser: Denoiser, teacher: Denoise):
        super().__init__(denoiser)
        self.teacher = teacher

    def forward(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch against the teacher's estimates instead of the pixels."""
        sigma = self.denoiser.sigma(batch.level)
        x = batch.pixels + batch.noise * sigma[:, None, None, None]
        with torch.no_grad():
            target = self.teacher(x, sigma, batch.condition)
        return self.denoiser.error(x, sigma, batch.condition, target).mean()


def known_in_place(picture: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the picture with real pixels where they are known, and the mean error it had there.

    A judge of the picture then sees the border between known and painted pixels.
    """
    if PIXELS_KNOWN not in batch.condition.names:
        return picture, torch.zeros((), device=picture.device)
    known = batch.condition.pick(PIXELS_KNOWN)
    error = (known * (picture - batch.pixels)).abs().sum() / (3 * known.sum() + 1)
    return torch.lerp(picture, batch.pixels, known), error

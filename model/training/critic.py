"""The third stage of training: a critic scores whole pictures, painted as in rendering.

A denoiser trained on the squared error predicts means, and texture painted from means does not look
like that of tissue. In this stage the sampler is unrolled: the last steps, in which texture forms,
are trained by a critic of the final picture. The earlier steps, which determine layout and colour,
are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..config import TrainingConfig
from ..diffusion import Condition, Denoise, Denoiser
from ..evaluation.features import efficientnet_lite, feature_maps
from ..planes import NUCLEI
from ..samplers import SOLVERS, STEPS, cubic_sigmas, solve
from .data import Batch
from .objectives import Objective, known_in_place
from .optimisers import Optimisers, without_momentum
from .patterns import grid_pattern, place_gradients

WIDTH = 32  # channels of the critic's heads
GAIN = 4.0  # spectral normalisation alone leaves the critic too timid
LAYOUT = 8  # pixels a side of the means that have to stay
KEEP = 30.0  # weight of what has to stay, beside the critic's
EVEN = 10_000.0  # weight of patterns that follow the network's grid
RATE = 2e-3  # learning rate of the critic

Features = Callable[[Tensor], list[Tensor]]


class Critic(nn.Module):
    """A critic that scores every cell of feature maps of a frozen network; above zero is real.

    It follows Sauer and others (2021, "Projected GANs converge faster"). It also receives the mask,
    so that a nucleus must look like one of its type. Spectral normalisation (Miyato and others
    2018) prevents it from learning faster than the painter.

    maps: those of some real pictures, (n, c, h, w) each, by which channels are normalised.
    planes: the names of the planes that it receives.
    pixels: whether the first of the maps are the pixels themselves, which it then scores as well.
    """

    def __init__(
        self, maps: list[Tensor], planes: tuple[str, ...] = NUCLEI, *, pixels: bool = False
    ):
        super().__init__()
        self.planes = planes
        self.pixels = _pixel_head(3 + len(planes)) if pixels else None
        self.heads = nn.ModuleList()
        for k, features in enumerate(maps[1:] if pixels else maps):
            self.register_buffer(f"mean{k}", features.mean((0, 2, 3), keepdim=True))
            self.register_buffer(f"std{k}", features.std((0, 2, 3), keepdim=True) + 1e-3)
            self.heads.append(_feature_head(features.shape[1] + len(planes)))

    def forward(self, maps: list[Tensor], planes: Tensor) -> list[Tensor]:
        """Return scores (n, 1, h, w) for each of the maps; planes: (n, p, H, W)."""
        scores = []
        if self.pixels is not None:
            pixels, *maps = maps
            scores.append(GAIN * self.pixels(torch.cat([pixels, planes], dim=1)))
        for k, (features, head) in enumerate(zip(maps, self.heads, strict=True)):
            features = (features - getattr(self, f"mean{k}")) / getattr(self, f"std{k}")
            small = F.adaptive_avg_pool2d(planes, features.shape[2:])
            scores.append(GAIN * head(torch.cat([features, 3 * small], dim=1)))
        return scores


def _feature_head(channels: int) -> nn.Module:
    """Build a head that scores each cell of features from the cell and its neighbours."""
    return nn.Sequential(
        spectral_norm(nn.Conv2d(channels, WIDTH, 3, padding=1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(WIDTH, 1, 1)),
    )


def _pixel_head(channels: int) -> nn.Module:
    """Build a head that scores cells of 2x2 pixels, which are too fine for the features."""
    return nn.Sequential(
        spectral_norm(nn.Conv2d(channels, 48, 3, padding=1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(48, 64, 4, stride=2, padding=1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(64, 64, 3, padding=1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(64, 1, 1)),
    )


class Adversarial(Objective):
    """The third stage of training: a critic scores what the network paints.

    Solver steps at noise levels of ``below`` and more are painted by ``teacher``, a copy of the
    network before this stage, and the loss keeps the network close to it at these levels. Later
    steps are painted by the network. Their picture should score well with the critic, and keep the
    layout and colour of the teacher. The critic does not detect a pattern that repeats with the
    cells of the network's lowest resolution, so a separate term suppresses it. Known pixels must be
    painted as they are; the critic receives the real ones in their place, and thus the border
    between the two.

    steps: numbers of solver steps; each batch is painted in one of them.
    even_places: weight of `place_gradients`.
    """

    denoiser: Denoiser

    def __init__(
        self,
        denoiser: Denoiser,
        teacher: Denoise,
        critic: Critic,
        features: Features,
        below: float,
        *,
        steps: tuple[int, ...] = (STEPS,),
        even_places: float = 0.0,
    ):
        super().__init__(denoiser)
        self.teacher = teacher
        self.critic, self.features = critic, features
        self.below, self.even_places = below, even_places
        self.schedules = [cubic_sigmas(count) for count in steps]

    def optimisers(self, settings: TrainingConfig) -> Optimisers:
        """Return the optimiser of the network, which has no momentum."""
        network = self.denoiser.network
        return {"adam": without_momentum(network.parameters(), settings.learning_rate)}

    def own_modules(self) -> dict[str, nn.Module]:
        """Return the critic."""
        return {"critic": self.critic}

    def own_optimisers(self) -> Optimisers:
        """Return the optimiser of the critic, which learns faster than the network."""
        return {"critic_adam": without_momentum(self.critic.parameters(), RATE)}

    def forward(self, batch: Batch) -> Tensor:
        """Return the sum of the losses of network and critic on a batch.

        The painted picture need not reproduce the pixels of the batch, except the known ones. The
        first level of the batch selects the teacher's step to compare, and the last one the number
        of steps in which the picture is painted.
        """
        condition, planes = batch.condition, batch.condition.pick(*self.critic.planes)
        sigmas = self.schedules[int(batch.level[-1] * len(self.schedules))]
        kept = sum(sigma >= self.below for sigma in sigmas)
        compared = int(batch.level[0] * kept)
        picture, rough, strayed = self._paint(batch.noise, condition, sigmas, kept, compared)
        keep = KEEP * strayed + self._keep(picture, rough)
        picture, off = known_in_place(picture, batch)
        keep = keep + off

        with torch.no_grad():
            real = self._maps(batch.pixels)
        maps = self._maps(picture)
        with torch.autocast(picture.device.type, enabled=False):
            seen = [m.detach().requires_grad_() for m in maps]
            judged_real = self.critic(real, planes)
            judged = self.critic(seen, planes)
            # Which way the maps should go, so that one pass of the critic serves both sides.
            wish = -sum(s.mean() for s in judged) / len(judged)
            ways = torch.autograd.grad(wish, seen, retain_graph=True)
            please = sum(((m - m.detach()) * w).sum() for m, w in zip(maps, ways, strict=True))
            hinge = sum(
                F.relu(1 - r).mean() + F.relu(1 + p).mean()
                for r, p in zip(judged_real, judged, strict=True)
            )
        return hinge + please + keep

    def _keep(self, picture: Tensor, rough: Tensor) -> Tensor:
        """Return the loss of means that differ from the teacher's, and of grid patterns."""
        moved = F.avg_pool2d(picture, LAYOUT) - F.avg_pool2d(rough, LAYOUT)
        loss = KEEP * moved.square().mean()
        loss = loss + EVEN * grid_pattern(picture, self.denoiser.network.grid)
        if self.even_places:
            loss = loss + self.even_places * place_gradients(picture)
        return loss

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        """Return the feature maps of pixels for the critic, float32."""
        maps = [m.float() for m in self.features(pixels)]
        return [pixels, *maps] if self.critic.pixels is not None else maps

    def _paint(
        self, noise: Tensor, condition: Condition, sigmas: list[float], kept: int, compared: int
    ) -> tuple[Tensor, ...]:
        """Return the picture, the teacher's last estimate, and the error against an estimate.

        sigmas: noise levels of the steps, of which the teacher paints the first ``kept``.
        """

        def at(denoise: Denoise, x: Tensor, sigma: float) -> Tensor:
            return denoise(x, torch.full((len(x),), sigma, device=x.device), condition)

        rough, strayed = noise, noise.new_zeros(())

        def estimate(x: Tensor, k: int) -> Tensor:
            nonlocal rough, strayed
            if k >= kept:
                return at(self.denoiser, x, sigmas[k])
            with torch.no_grad():
                rough = at(self.teacher, x, sigmas[k])
            if k == compared:
                off = at(self.denoiser, x, sigmas[k]) - rough
                strayed = self.denoiser.weight(x.new_tensor(sigmas[k])) * off.square().mean()
            return rough

        picture, _ = solve(
            estimate,
            noise * sigmas[0],
            noise,
            solver=SOLVERS["dpmpp_2m"],
            sigmas=sigmas,
            steps=range(len(sigmas) - 1),
        )
        return picture, rough, strayed


def judged(
    denoiser: Denoiser,
    teacher: Denoise,
    real: Tensor,
    below: float,
    *,
    planes: tuple[str, ...] = NUCLEI,
    pixels: bool = False,
    **options: Any,
) -> Adversarial:
    """Return the loss with a new critic on EfficientNet-Lite1, on the device of ``real``.

    real: pixels (n, 3, h, w) of some real pictures. EfficientNet-Lite1 is the choice of Sauer and
    others. `evaluate` uses Lite0, so that it does not measure by the features of the critic.
    planes, pixels: as `Critic` takes them; options: as `Adversarial` does.

    Raises:
        NasdmError: the extra ``evaluate`` is not installed.
    """
    eyes = efficientnet_lite(1).to(real.device, memory_format=torch.channels_last)
    features = partial(feature_maps, eyes)
    maps = features(real)
    critic = Critic([real, *maps] if pixels else maps, planes, pixels=pixels)
    return Adversarial(denoiser, teacher, critic, features, below, **options)

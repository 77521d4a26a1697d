"""The last stage of training: a critic judges whole pictures, painted as in rendering.

A denoiser that has learnt mean squares gives means, and the texture painted from means is not that
of tissue. Here the sampler is unrolled: the last steps, in which texture forms, are learnt through
what a critic says of the picture. The steps before, which decide layout and colour, are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..config import TrainingConfig
from ..diffusion import NUCLEI, Condition, Denoise, Denoiser
from ..evaluation.features import efficientnet_lite, feature_maps
from ..samplers import SOLVERS, STEPS, cubic_sigmas, solve
from .data import Batch
from .objectives import Objective
from .optimisers import Optimisers, without_momentum

WIDTH = 32  # channels of the critic's heads
GAIN = 4.0  # spectral normalisation alone leaves the critic too timid
LAYOUT = 8  # pixels a side of the means that have to stay
KEEP = 30.0  # weight of what has to stay, beside the critic's
EVEN = 10_000.0  # weight of patterns that follow the network's grid
SHADES = 16  # from dark to bright, in each of which such patterns are counted
RATE = 2e-3  # learning rate of the critic

Features = Callable[[Tensor], list[Tensor]]


class Critic(nn.Module):
    """Scores every cell of feature maps of a frozen network: above zero is real.

    Sauer and others (2021, "Projected GANs converge faster"). It sees the mask as well, so that a
    nucleus must look like one of its type. Spectral normalisation (Miyato and others 2018) keeps it
    from outrunning the painter.

    maps: those of some real pictures, (n, c, h, w) each, by which channels are normalised.
    """

    def __init__(self, maps: list[Tensor]):
        super().__init__()
        self.heads = nn.ModuleList()
        for k, features in enumerate(maps):
            self.register_buffer(f"mean{k}", features.mean((0, 2, 3), keepdim=True))
            self.register_buffer(f"std{k}", features.std((0, 2, 3), keepdim=True) + 1e-3)
            head = nn.Sequential(
                spectral_norm(nn.Conv2d(features.shape[1] + len(NUCLEI), WIDTH, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(WIDTH, 1, 1)),
            )
            self.heads.append(head)

    def forward(self, maps: list[Tensor], nuclei: Tensor) -> list[Tensor]:
        """Scores (n, 1, h, w) for each of the maps; nuclei: planes (n, 7, H, W)."""
        scores = []
        for k, (features, head) in enumerate(zip(maps, self.heads, strict=True)):
            features = (features - getattr(self, f"mean{k}")) / getattr(self, f"std{k}")
            planes = F.adaptive_avg_pool2d(nuclei, features.shape[2:])
            scores.append(GAIN * head(torch.cat([features, 3 * planes], dim=1)))
        return scores


class Adversarial(Objective):
    """The last stage of training: a critic judges what the network paints.

    Solver steps from noise levels of ``below`` and more are painted by ``teacher``, which is what
    the network was at first, and the network has to agree with it on them. Later steps are the
    network's own. Their picture shall please the critic, and keep the teacher's layout and colour.
    The critic overlooks a pattern that repeats with the cells of the network's lowest resolution,
    and so the network drifts into one unless it is held from it.
    """

    denoiser: Denoiser

    def __init__(
        self, denoiser: Denoiser, teacher: Denoise, critic: Critic, features: Features, below: float
    ):
        super().__init__(denoiser)
        self.teacher = teacher
        self.critic, self.features = critic, features
        self.sigmas = cubic_sigmas(STEPS)
        self.kept = sum(sigma >= below for sigma in self.sigmas)

    def optimisers(self, settings: TrainingConfig) -> Optimisers:
        """One optimiser of the network, without momentum."""
        network = self.denoiser.network
        return {"adam": without_momentum(network.parameters(), settings.learning_rate)}

    def own_modules(self) -> dict[str, nn.Module]:
        """The critic."""
        return {"critic": self.critic}

    def own_optimisers(self) -> Optimisers:
        """The critic's, which learns faster than the network."""
        return {"critic_adam": without_momentum(self.critic.parameters(), RATE)}

    def forward(self, batch: Batch) -> Tensor:
        """Sum of the losses of both sides on a batch.

        Its pixels are from elsewhere as far as the painted ones are concerned: nothing asks for
        these very pixels. Its first level says which of the teacher's steps is compared.
        """
        condition, nuclei = batch.condition, batch.condition.pick(*NUCLEI)
        compared = int(batch.level[0] * self.kept)
        picture, rough, strayed = self._paint(batch.noise, condition, compared)
        moved = F.avg_pool2d(picture, LAYOUT) - F.avg_pool2d(rough, LAYOUT)
        keep = KEEP * (strayed + moved.square().mean()) + EVEN * grid_pattern(
            picture, self.denoiser.network.grid
        )

        with torch.no_grad():
            real = self._maps(batch.pixels)
        maps = self._maps(picture)
        with torch.autocast(picture.device.type, enabled=False):
            seen = [m.detach().requires_grad_() for m in maps]
            judged_real = self.critic(real, nuclei)
            judged = self.critic(seen, nuclei)
            # Which way the maps should go, so that one pass of the critic serves both sides.
            wish = -sum(s.mean() for s in judged) / len(judged)
            ways = torch.autograd.grad(wish, seen, retain_graph=True)
            please = sum(((m - m.detach()) * w).sum() for m, w in zip(maps, ways, strict=True))
            hinge = sum(
                F.relu(1 - r).mean() + F.relu(1 + p).mean()
                for r, p in zip(judged_real, judged, strict=True)
            )
        return hinge + please + keep

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        """What the critic sees of pixels, float32."""
        return [m.float() for m in self.features(pixels)]

    def _paint(self, noise: Tensor, condition: Condition, compared: int) -> tuple[Tensor, ...]:
        """Picture, the teacher's last estimate, and how far the network is off a teacher's one."""

        def at(denoise: Denoise, x: Tensor, sigma: float) -> Tensor:
            return denoise(x, torch.full((len(x),), sigma, device=x.device), condition)

        rough, strayed = noise, noise.new_zeros(())

        def estimate(x: Tensor, k: int) -> Tensor:
            nonlocal rough, strayed
            sigma = self.sigmas[k]
            if k >= self.kept:
                return at(self.denoiser, x, sigma)
            with torch.no_grad():
                rough = at(self.teacher, x, sigma)
            if k == compared:
                off = at(self.denoiser, x, sigma) - rough
                strayed = self.denoiser.weight(x.new_tensor(sigma)) * off.square().mean()
            return rough

        picture, _ = solve(
            estimate,
            noise * self.sigmas[0],
            noise,
            solver=SOLVERS["dpmpp_2m"],
            sigmas=self.sigmas,
            steps=range(STEPS),
        )
        return picture, rough, strayed


def grid_pattern(pictures: Tensor, cell: int) -> Tensor:
    """Variance of fine texture between places in a cell of a painter's grid, beyond chance.

    Cells are counted with others as dark: what follows the grid in dark nuclei alone, which are
    few, would be lost among the rest. What chance makes of it is taken off (as in an analysis of
    variance), lest texture be punished for being strong.

    pictures: (n, c, h, w), with sides that are multiples of ``cell`` pixels.
    """
    n, c, h, w = pictures.shape

    def cells(x: Tensor) -> Tensor:
        x = x.reshape(n, c, h // cell, cell, w // cell, cell)
        return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, c, cell**2)

    smooth = F.avg_pool2d(pictures, 5, stride=1, padding=2, count_include_pad=False)
    dark_to_bright = cells(pictures.detach()).mean((1, 2)).argsort()
    shades = cells(pictures - smooth)[dark_to_bright].tensor_split(SHADES)
    between = (shade.mean(0).var(-1) - shade.var(0).mean(-1) / len(shade) for shade in shades)
    return torch.stack([variance.mean() for variance in between]).mean()


def judged(denoiser: Denoiser, teacher: Denoise, real: Tensor, below: float) -> Adversarial:
    """The loss with a new critic, which sees through EfficientNet-Lite1, on the device of ``real``.

    real: pixels (n, 3, h, w) of some real pictures. EfficientNet-Lite1 is what Sauer and others
    chose; `evaluate` measures by Lite0, lest the measure be the critic's own.

    Raises:
        NasdmError: the extra ``evaluate`` is not installed.
    """
    eyes = efficientnet_lite(1).to(real.device, memory_format=torch.channels_last)
    features = partial(feature_maps, eyes)
    return Adversarial(denoiser, teacher, Critic(features(real)), features, below)

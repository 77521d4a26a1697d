"""The paper's diffusion: a linear schedule, noise prediction and a learned variance.

Shrivastava and Fletcher (2023), after Ho and others (2020,
"DDPM") and Nichol and Dhariwal (2021, "IDDPM"), whose notation is used here. A network maps ``(x,
t, condition)`` to outputs (n, 6, h, w): the noise, and the variance between its bounds. Pixels lie
in [-1, 1]; schedules are float64 and indexed by k = 0 .. n - 1, the least noise first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LAMBDA = 0.001  # weight of L_vlb in L_hybrid (paper; IDDPM, equation 16)

Network = Callable[[Tensor, Tensor, Any], Tensor]  # the condition is the network's affair


@dataclass(frozen=True)
class Schedule:
    """Noise levels.

    alpha_bar: float64 (n,), the share of signal power left after each step.
    steps: int64 (n,), the steps of the full schedule that these are: the network's t.
    """

    alpha_bar: Tensor
    steps: Tensor

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def alpha_bar_before(self) -> Tensor:
        """The share of signal power before each step."""
        return torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar[:-1]])

    @property
    def beta(self) -> Tensor:
        """Variance that each step adds; the upper bound of the learned variance."""
        return 1 - self.alpha_bar / self.alpha_bar_before

    @property
    def posterior_variance(self) -> Tensor:
        """The lower bound of the learned variance, beta tilde of DDPM equation 7; 0 at k = 0."""
        return self.beta * (1 - self.alpha_bar_before) / (1 - self.alpha_bar)

    @property
    def sigmas(self) -> Tensor:
        """The standard deviations of the noise when the signal is not scaled down, as in EDM."""
        return ((1 - self.alpha_bar) / self.alpha_bar).sqrt()

    def respaced(self, count: int) -> Schedule:
        """Return ``count`` of the steps, evenly spaced from first to last (IDDPM, Section 4)."""
        if not 1 <= count <= len(self):
            raise ValueError(f"{count} steps of {len(self)}")
        chosen = torch.linspace(0, len(self) - 1, count, dtype=torch.float64).round().long()
        return Schedule(self.alpha_bar[chosen], self.steps[chosen])


def linear_schedule(steps: int = 1000) -> Schedule:
    """Return the schedule in which beta rises from 0.0001 to 0.02 (DDPM, Section 4)."""
    beta = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)
    return Schedule((1 - beta).cumprod(0), torch.arange(steps))


def noised(schedule: Schedule, x0: Tensor, k: Tensor, noise: Tensor) -> Tensor:
    """Draw from q(x_k | x_0) (DDPM, equation 4); k has the shape (n,)."""
    return _at(schedule.alpha_bar.sqrt(), k, x0) * x0 + (
        _at((1 - schedule.alpha_bar).sqrt(), k, x0) * noise
    )


def clean(schedule: Schedule, x: Tensor, k: Tensor, eps: Tensor) -> Tensor:
    """Return the x_0 that the noise ``eps`` in x implies (DDPM, equation 15)."""
    return _at((1 / schedule.alpha_bar).sqrt(), k, x) * x - _at(schedule.sigmas, k, x) * eps


def posterior_mean(schedule: Schedule, x0: Tensor, x: Tensor, k: Tensor) -> Tensor:
    """Return the mean of q(x_{k-1} | x_k, x_0) (DDPM, equation 7)."""
    before, here = schedule.alpha_bar_before, schedule.alpha_bar
    of_x0 = schedule.beta * before.sqrt() / (1 - here)
    of_x = (1 - before) * (1 - schedule.beta).sqrt() / (1 - here)
    return _at(of_x0, k, x) * x0 + _at(of_x, k, x) * x


def log_variance(schedule: Schedule, v: Tensor, k: Tensor) -> Tensor:
    """Return the log of the learned variance; v in [-1, 1] goes from its lower to its upper bound.

    IDDPM, equation 15. At k = 0 the lower bound is that of the next step, for its own is zero.
    """
    lower = schedule.posterior_variance
    lower = torch.cat([lower[1:2] if len(lower) > 1 else schedule.beta, lower[1:]]).log()
    share = (v + 1) / 2
    return share * _at(schedule.beta.log(), k, v) + (1 - share) * _at(lower, k, v)


def variational_bound(
    schedule: Schedule, outputs: Tensor, x0: Tensor, x: Tensor, k: Tensor
) -> Tensor:
    """Return the term of L_vlb at k, with the shape (n,), in bits per value.

    KL(q(x_{k-1} | x_k, x_0) || p(x_{k-1} | x_k)), and at k = 0 the negative log likelihood of
    8-bit pixels (DDPM, equations 5 and 13). ``x`` is a draw of q(x_k | x_0).
    """
    eps, v = outputs.chunk(2, dim=1)
    mean = posterior_mean(schedule, clean(schedule, x, k, eps), x, k)
    log_p = log_variance(schedule, v, k)
    true_mean = posterior_mean(schedule, x0, x, k)
    log_q = log_variance(schedule, torch.full_like(v, -1), k)
    kl = (log_p - log_q + (log_q - log_p).exp() + (true_mean - mean) ** 2 * (-log_p).exp() - 1) / 2
    nll = -_log_likelihood(x0, mean, (log_p / 2).exp())
    first = (k == 0)[:, None, None, None]
    return torch.where(first, nll, kl).mean(dim=(1, 2, 3)) / math.log(2)


def hybrid_loss(
    network: Network, schedule: Schedule, x0: Tensor, k: Tensor, condition: Any, noise: Tensor
) -> Tensor:
    """L_hybrid = L_simple + 0.001 L_vlb of each sample, (n,): IDDPM, equation 16.

    L_vlb is a sum over all steps; its term at a uniformly drawn k is an estimate of the sum. It
    trains only the variance, because the gradient of the mean is stopped.
    """
    x = noised(schedule, x0, k, noise)
    outputs = network(x, schedule.steps.to(k.device)[k], condition).float()
    eps, v = outputs.chunk(2, dim=1)
    simple = (eps - noise).square().mean(dim=(1, 2, 3))
    bound = variational_bound(schedule, torch.cat([eps.detach(), v], dim=1), x0, x, k)
    return simple + LAMBDA * len(schedule) * bound


def ancestral_step(schedule: Schedule, x: Tensor, outputs: Tensor, noise: Tensor, k: int) -> Tensor:
    """Draw x_{k-1} from x_k by the paper's sampler: clipped x_0 and learned variance."""
    eps, v = outputs.chunk(2, dim=1)
    at = torch.full((len(x),), k, device=x.device)
    mean = posterior_mean(schedule, clean(schedule, x, at, eps).clamp(-1, 1), x, at)
    return mean if k == 0 else mean + (log_variance(schedule, v, at) / 2).exp() * noise


@torch.no_grad()
def sample_ancestral(
    network: Network,
    noise: Callable[[int], Tensor],
    condition: Any,
    *,
    schedule: Schedule,
) -> Tensor:
    """Return pixels (n, 3, h, w) by ancestral sampling; ``noise(k)`` (n, 3, h, w) is unit Gaussian.

    Sampling starts from ``noise(len(schedule))``.
    """
    x = noise(len(schedule))
    for k in reversed(range(len(schedule))):
        t = schedule.steps[k].to(x.device).expand(len(x))
        x = ancestral_step(schedule, x, network(x, t, condition), noise(k), k)
    return x


def _at(values: Tensor, k: Tensor, like: Tensor) -> Tensor:
    """Return values[k] with the dtype of ``like`` and a shape that broadcasts with it."""
    # The type first: Metal has no float64.
    return values.to(like.dtype).to(like.device)[k][:, None, None, None]


def _log_likelihood(x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Return the log likelihood of 8-bit pixels in [-1, 1] under a Gaussian (DDPM, equation 13)."""
    normal = torch.distributions.Normal(mean, spread)
    above, below = normal.cdf(x + 1 / 255), normal.cdf(x - 1 / 255)
    share = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return share.clamp(min=1e-12).log()

"""Solver steps as plain functions on arrays; a sampler is a schedule and a loop over steps.

The steps keep no state: whoever calls them (a loop here, the mosaic engine elsewhere) keeps the
pixels and the last estimate. They take torch tensors and numpy arrays alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .diffusion import Condition

SIGMA_MIN, SIGMA_MAX, RHO = 0.03, 40.0, 7.0
STEPS = 8  # in which networks of the `local` family paint, if not told otherwise


def karras_sigmas(
    steps: int, *, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO
) -> list[float]:
    """Falling noise levels, ``steps`` of them and a final zero (Karras and others 2022, eq. 5)."""
    a, b = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    ramp = [k / max(steps - 1, 1) for k in range(steps)]
    return [(a + t * (b - a)) ** rho for t in ramp] + [0.0]


def cubic_sigmas(
    steps: int, *, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX
) -> list[float]:
    """Falling noise levels as `karras_sigmas`, but closest where the mask decides what is painted.

    ln(sigma) is a cubic of the step, flattest half way between the ends, at a level of about one.
    """
    middle, half = math.log(sigma_max * sigma_min) / 2, math.log(sigma_max / sigma_min) / 2
    ramp = [2 * k / max(steps - 1, 1) - 1 for k in range(steps)]
    return [math.exp(middle - half * (3 * t + t**3) / 4) for t in ramp] + [0.0]


def ddim_step(x: Any, x0: Any, previous: Any, *, sigmas: list[float], k: int) -> Any:
    """One deterministic step of DDIM (Song and others 2021, equation 12); as `dpmpp_2m_step`."""
    ratio = sigmas[k + 1] / sigmas[k]
    return ratio * x + (1 - ratio) * x0


def dpmpp_2m_step(x: Any, x0: Any, previous: Any, *, sigmas: list[float], k: int) -> Any:
    """One step of DPM-Solver++(2M) (Lu and others 2022, Algorithm 2) from sigmas[k] to sigmas[k+1].

    x: noisy pixels at sigmas[k]; x0: the denoiser's estimate there; previous: the estimate one step
    before, ignored at k = 0. The step to sigma 0 returns the estimate itself.
    """
    if k == 0 or sigmas[k + 1] == 0:
        return ddim_step(x, x0, previous, sigmas=sigmas, k=k)
    ratio = sigmas[k + 1] / sigmas[k]
    h, last = -math.log(ratio), math.log(sigmas[k - 1] / sigmas[k])
    r = h / (2 * last)
    return ratio * x + (1 - ratio) * ((1 + r) * x0 - r * previous)


def sample(
    denoise: Callable[[Tensor, Tensor, Condition], Tensor],
    noise: Tensor,
    condition: Condition,
    *,
    sigmas: list[float],
    step: Callable[..., Any] = dpmpp_2m_step,
) -> Tensor:
    """Pixels (n, 3, h, w) from unit Gaussian ``noise``, by `dpmpp_2m_step` or `ddim_step`."""
    x, previous = noise * sigmas[0], noise
    for k in range(len(sigmas) - 1):
        x0 = denoise(x, torch.full((len(x),), sigmas[k], device=x.device), condition)
        x, previous = step(x, x0, previous, sigmas=sigmas, k=k), x0
    return x

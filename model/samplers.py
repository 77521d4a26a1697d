"""Solver steps as plain functions on arrays; a sampler is a schedule and a loop over steps.

The steps keep no state: the caller of `solve`, for all steps or for those of one phase of the
mosaic, keeps the pixels and the last estimate. All take torch tensors and numpy arrays alike. A new
solver is a function and a line in `SOLVERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .diffusion import Condition

SIGMA_MIN, SIGMA_MAX, RHO = 0.03, 40.0, 7.0
STEPS = 8  # of networks of the `local` family, if their headers do not say otherwise


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
    """Falling noise levels as `karras_sigmas`, but densest where the mask has most influence.

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


def euler_ancestral_step(
    x: Any, x0: Any, previous: Any, *, sigmas: list[float], k: int, noise: Any
) -> Any:
    """Take one ancestral step (Ho and others 2020, equation 7, on pixels that are not scaled).

    The step goes below the next noise level and returns to it with new unit ``noise`` (n, 3, h, w).
    """
    here, there = sigmas[k], sigmas[k + 1]
    up = there * math.sqrt(1 - (there / here) ** 2)
    down = math.sqrt(there**2 - up**2)
    return down / here * x + (1 - down / here) * x0 + up * noise


@dataclass(frozen=True)
class Solver:
    """A solver step and its requirements.

    step: as `dpmpp_2m_step`. history: how many of the last estimates are kept between two steps.
    stochastic: whether the step also takes ``noise``.
    """

    step: Callable[..., Any]
    history: int = 0
    stochastic: bool = False

    @property
    def channels(self) -> int:
        """Channels of a state: the pixels, and the last estimates of them."""
        return 3 * (1 + self.history)


SOLVERS = {
    "ddim": Solver(ddim_step),
    "dpmpp_2m": Solver(dpmpp_2m_step, history=1),
    "euler_ancestral": Solver(euler_ancestral_step, stochastic=True),
}


def solve(
    estimate: Callable[[Any, int], Any],
    x: Any,
    previous: Any,
    *,
    solver: Solver,
    sigmas: list[float],
    steps: Iterable[int],
    noise: Callable[[int], Any] | None = None,
) -> tuple[Any, Any]:
    """Take solver steps: noisy pixels and the last estimate before, to those after.

    estimate: maps noisy pixels and a step to clean pixels. noise: maps a step to unit Gaussian
    noise, for stochastic solvers.

    Raises:
        ValueError: a stochastic solver without ``noise``.
    """
    if solver.stochastic and noise is None:
        raise ValueError("a stochastic solver takes noise")
    for k in steps:
        x0 = estimate(x, k)
        drawn = {"noise": noise(k)} if solver.stochastic and noise else {}
        x, previous = solver.step(x, x0, previous, sigmas=sigmas, k=k, **drawn), x0
    return x, previous


def sample(
    denoise: Callable[[Tensor, Tensor, Condition], Tensor],
    noise: Tensor,
    condition: Condition,
    *,
    sigmas: list[float],
    solver: str = "dpmpp_2m",
    fresh: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Return pixels (n, 3, h, w) from unit Gaussian ``noise``; stochastic ones take ``fresh``."""

    def estimate(x: Tensor, k: int) -> Tensor:
        return denoise(x, torch.full((len(x),), sigmas[k], device=x.device), condition)

    steps = range(len(sigmas) - 1)
    x, _ = solve(
        estimate,
        noise * sigmas[0],
        noise,
        solver=SOLVERS[solver],
        sigmas=sigmas,
        steps=steps,
        noise=fresh,
    )
    return x

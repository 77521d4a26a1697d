"""The unrolled sampler and the term on known pixels, which losses on whole pictures share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...job import PIXELS_KNOWN
from ..samplers import SOLVERS, solve
from .data import Batch


def unrolled(
    estimate: Callable[[Tensor, int], Tensor], noise: Tensor, sigmas: list[float]
) -> Tensor:
    """Return the pixels (n, 3, h, w) that the default solver paints from unit Gaussian ``noise``.

    estimate: maps noisy pixels and a step to clean pixels.
    """
    picture, _ = solve(
        estimate,
        noise * sigmas[0],
        noise,
        solver=SOLVERS["dpmpp_2m"],
        sigmas=sigmas,
        steps=range(len(sigmas) - 1),
    )
    return picture


def known_in_place(picture: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the picture with real pixels where they are known, and the mean error it had there.

    A judge of the picture then sees the border between known and painted pixels.
    """
    if PIXELS_KNOWN not in batch.condition.names:
        return picture, torch.zeros((), device=picture.device)
    known = batch.condition.pick(PIXELS_KNOWN)
    error = (known * (picture - batch.pixels)).abs().sum() / (3 * known.sum() + 1)
    return torch.lerp(picture, batch.pixels, known), error

"""Identify the kind of arithmetic, which the libraries choose by the features of the CPU or GPU.

The choice determines the last bits of a convolution, and with them the bytes of a slide.
"""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .devices import choose_device, one_thread, place

CHANNELS, SIDE = 64, 32


@lru_cache
def arithmetic(device: str, precision: str) -> str:
    """Return a name of the arithmetic of this process: 8 hexadecimal digits.

    The digits are a digest of the results of a few small convolutions, computed on ``device`` in
    ``precision`` as a painter does. This takes some hundredths of a second.

    Raises:
        PlanError: no such device here.
    """
    chosen, dtype = choose_device(device), getattr(torch, precision)
    with (
        torch.inference_mode(),
        one_thread if chosen.type == "cpu" else nullcontext(),
        torch.autocast(chosen.type, dtype, enabled=dtype != torch.float32),
    ):
        result = _convolutions(chosen).float().cpu().contiguous()
    return hashlib.sha256(result.numpy().tobytes()).hexdigest()[:8]


def describe(device: str) -> dict[str, str]:
    """Return the arguments of a painter that say where and how this process computes.

    Raises:
        PlanError: no such device here.
    """
    chosen, precision = place(device)
    kind = arithmetic(chosen, precision)
    return {"device": chosen, "precision": precision, "arithmetic": kind}


def _convolutions(device: torch.device) -> Tensor:
    random = np.random.Generator(np.random.Philox(0))

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(random.standard_normal(shape, np.float32)).to(device)

    x = normal(1, CHANNELS, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    for side in (3, 1, 3):
        kernel = normal(CHANNELS, CHANNELS, side, side) / (side * CHANNELS**0.5)
        x = F.silu(F.group_norm(F.conv2d(x, kernel, padding=side // 2), 8))
    return x

"""The optimisers of a network: AdamW, and Muon for the kernels inside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainingConfig

Optimisers = dict[str, torch.optim.Optimizer]


class KernelMuon(torch.optim.Muon):
    """Muon for kernels of convolutions, each treated as a matrix (out, h w in)."""

    def __init__(self, kernels: list[nn.Parameter], **options: Any):
        self.kernels = kernels
        super().__init__([nn.Parameter(_matrix(kernel)) for kernel in kernels], **options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step along the gradients of the kernels."""
        for kernel, matrix in zip(self.kernels, self.param_groups[0]["params"], strict=True):
            if kernel.grad is not None:
                gradient = kernel.grad.contiguous(memory_format=torch.channels_last)
                matrix.grad = _matrix(gradient)
        return super().step(closure)


def network_optimisers(network: nn.Module, settings: TrainingConfig) -> Optimisers:
    """AdamW for all parameters, as in the paper; with `muon`, Muon for the kernels inside.

    Muon orthogonalises the steps of matrices. In a trial of 100 seconds each on the preset `small`,
    with one seed, the loss was 0.23; with AdamW alone, at the one learning rate tried (1e-3), it
    was 0.36.
    """
    kernels = {
        id(weight): weight
        for name, weight in network.named_parameters()
        if settings.muon and weight.ndim == 4 and not name.startswith(("stem", "head", "fine"))
    }
    adam = torch.optim.AdamW(
        [p for p in network.parameters() if id(p) not in kernels],
        betas=(0.9, 0.99) if settings.muon else (0.9, 0.999),
        weight_decay=settings.weight_decay,
    )
    if not kernels:
        return {"adam": adam}
    muon = KernelMuon(
        list(kernels.values()),
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return {"muon": muon, "adam": adam}


def without_momentum(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """Return AdamW without momentum, which would destabilise adversarial training."""
    # Epsilon as the shipped weights were trained; what it is worth was not tried.
    return torch.optim.AdamW(parameters, rate, betas=(0.0, 0.99), eps=1e-5, weight_decay=0.0)


def _matrix(kernel: Tensor) -> Tensor:
    """Return a convolution's kernel (out, in, h, w), channels last, as a view (out, h w in)."""
    return kernel.detach().permute(0, 2, 3, 1).view(len(kernel), -1)

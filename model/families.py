"""The families of networks, each with one record of everything that is specific to it.

`local` is a U-Net with a finite receptive field: windows are blocks with a halo, and the mosaic
equals one evaluation on the whole canvas. `costs` chooses the plan. `semantic` is
the paper's U-Net, whose output depends on its whole window: windows have the size used in training,
overlap by linear ramps, and are fused after every third of the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ..checkpoints import Sampler
from ..costs import Machine, Work, cheapest
from ..geometry import Plan, Steps
from .config import LocalConfig, SemanticConfig, TrainingConfig
from .diffusion import Denoiser, NoisePredictor
from .local_unet import STYLE_SIZE, LocalUNet, measured_halo
from .samplers import STEPS, cubic_sigmas, karras_sigmas
from .semantic_unet import SemanticUNet

SEMANTIC_PLANES = 8  # six types, edges, and the known plane, for the background


@dataclass(frozen=True)
class Sampling:
    """How a network is used: solver steps, channels of the state, device and precision."""

    steps: int
    channels: int
    device: str
    precision: str


@dataclass(frozen=True)
class Cut:
    """The division of canvases into windows, for a network on a device.

    plan: maps the size (h, w) of a canvas to its plan. halo: pixels of context that a solver step
    uses up. batch: windows that a GPU paints at a time. bytes_per_pixel: memory of one window at
    the peak of an evaluation, measured.
    """

    plan: Callable[[tuple[int, int]], Plan]
    halo: int
    batch: int
    bytes_per_pixel: int


@dataclass(frozen=True)
class Family:
    """The properties of a family of networks.

    denoiser: wraps a network as a denoiser (`diffusion`).
    planes_of: how many conditioning planes a network of a configuration takes.
    sampler: the default sampler of its networks, if a header names no other.
    sigmas: noise levels for a number of steps, falling to zero.
    cut: how canvases are cut for a network and a sampling, with the halo that was measured, if any.
    prepare: sets up a new network for training, from the styles (n, 6) of its samples.
    halo: measures the halo of a trained network; None where windows have no halo.
    sparse: whether a network takes some of its planes, by their numbers, if the others are zero.
    styled: whether pictures follow a style vector. styles: mean and standard deviation, float32
        (6,) each, of the style vectors that a network was trained on.
    """

    name: str
    configuration: type
    network: Callable[[Any], nn.Module]
    denoiser: Callable[[Any], Denoiser | NoisePredictor]
    planes_of: Callable[[Any], int]
    sampler: Sampler
    sigmas: Callable[[int], list[float]]
    cut: Callable[[Any, Sampling, int | None], Cut]
    prepare: Callable[[Any, Callable[[], np.ndarray], TrainingConfig], None]
    halo: Callable[[Any], int | None]
    sparse: bool
    styled: bool
    styles: Callable[[Any], tuple[np.ndarray, np.ndarray]]


# Rates were measured on two cores and, once, on an H100; those of Apple's GPUs are guesses. Memory
# is what most machines have for a worker.
MACHINES = {
    ("cpu", "float32"): Machine(1e11, memory=7e8, disk=1e9, handling=6e-8, share=2e7, least=4),
    ("cpu", "bfloat16"): Machine(3.3e11, memory=7e8, disk=1e9, handling=6e-8, share=2e7, least=4),
    ("mps", "float32"): Machine(2e12, memory=6e9, disk=1e9, handling=6e-8, share=1e9, least=1),
    ("cuda", "float32"): Machine(1e13, memory=15e9, disk=2e9, handling=6e-8, share=1e8, least=1),
    ("cuda", "bfloat16"): Machine(5e13, memory=15e9, disk=2e9, handling=6e-8, share=1e8, least=1),
}


def _local_cut(network: LocalUNet, sampling: Sampling, halo: int | None) -> Cut:
    """Blocks with a halo as wide as the receptive field in use, for each step of a phase."""
    # Of the shipped network; features at half the resolution need most of it.
    bytes_per_pixel = 160 + 5 * network.config.widths[0]
    work = Work(
        steps=sampling.steps,
        operations=network.operations,
        bytes_per_pixel=bytes_per_pixel,
        channels=sampling.channels,
        halo=halo or network.halo,
        reach=network.halo,
        grid=network.grid,
    )
    kind = sampling.device, sampling.precision
    machine = MACHINES.get(kind, MACHINES[sampling.device, "float32"])
    plan = partial(cheapest, work=work, machine=machine)
    return Cut(plan, work.halo, batch=1, bytes_per_pixel=bytes_per_pixel)


def _semantic_cut(network: SemanticUNet, sampling: Sampling, halo: int | None) -> Cut:
    """Windows of 128 pixels every 96, with ramps of 32 between them; a block has 16 of them."""
    plan = partial(Plan, stride=96, margin=16, taper=16, windows=4, phases=_thirds(sampling.steps))
    # Memory of the paper's own network.
    return Cut(plan, halo=0, batch=16, bytes_per_pixel=12_500)


def _thirds(steps: int) -> tuple[Steps, ...]:
    # As few steps as four move too far to be taken before windows are fused.
    runs = np.array_split(range(steps), 3 if steps > 4 else steps)
    return tuple((int(run[0]), int(run[-1]) + 1) for run in runs)


def _prepare_local(
    network: LocalUNet, styles: Callable[[], np.ndarray], settings: TrainingConfig
) -> None:
    drawn = torch.from_numpy(styles())
    network.style_mean.copy_(drawn.mean(0))
    spread = drawn.std(0)
    network.style_std.copy_(torch.where(spread > 0, spread, 1))  # layouts have no stain


def _prepare_semantic(
    network: SemanticUNet, styles: Callable[[], np.ndarray], settings: TrainingConfig
) -> None:
    network.checkpointing = settings.checkpointing


FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="local",
            configuration=LocalConfig,
            network=LocalUNet,
            denoiser=Denoiser,
            planes_of=lambda config: config.planes,
            sampler=Sampler("dpmpp_2m", steps=STEPS, channels=6),
            sigmas=cubic_sigmas,
            cut=_local_cut,
            prepare=_prepare_local,
            halo=measured_halo,
            sparse=True,
            styled=True,
            styles=lambda network: (network.style_mean.numpy(), network.style_std.numpy()),
        ),
        Family(
            name="semantic",
            configuration=SemanticConfig,
            network=SemanticUNet,
            denoiser=NoisePredictor,
            planes_of=lambda config: SEMANTIC_PLANES,
            sampler=Sampler("dpmpp_2m", steps=18, channels=6),
            sigmas=partial(karras_sigmas, sigma_max=157.0),  # of the linear schedule's last step
            cut=_semantic_cut,
            prepare=_prepare_semantic,
            halo=lambda network: None,
            sparse=False,
            styled=False,
            styles=lambda network: (np.zeros(STYLE_SIZE), np.zeros(STYLE_SIZE)),
        ),
    )
}


def build(config: LocalConfig | SemanticConfig) -> nn.Module:
    """Return a new network of a configuration."""
    family = next(f for f in FAMILIES.values() if isinstance(config, f.configuration))
    return family.network(config)


def family_of(network: nn.Module) -> Family:
    """Return the family of a network."""
    return next(f for f in FAMILIES.values() if isinstance(network.config, f.configuration))


def denoiser_of(network: nn.Module) -> Denoiser | NoisePredictor:
    """Wrap a network as the denoiser that it was, or will be, trained as."""
    return family_of(network).denoiser(network)

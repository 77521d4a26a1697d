"""What a network is and how it is trained: frozen dataclasses and the table of presets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LocalConfig:
    """Shape of a network of the `local` family.

    widths: channels at 1/2, 1/4, 1/8, ... of the resolution.
    blocks: residual blocks at each of them (the lowest has them once, the others on both ways).
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    embedding: int = 128
    sigma_data: float = 0.5


@dataclass(frozen=True)
class SemanticConfig:
    """Shape of a network of the `semantic` family (Shrivastava and Fletcher 2023, Section 3).

    width: of the time embedding. widths: channels at full resolution, 1/2, 1/4, ...
    attention: down-sampling factors at which there is attention. blocks: residual blocks a level.
    condition: channels of the mask. outputs: 6 with learned variance, else 3.
    """

    width: int
    widths: tuple[int, ...]
    attention: tuple[int, ...] = (4, 8, 16)
    blocks: int = 2
    condition: int = 7
    outputs: int = 6


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained.

    Noise levels are log-normal, ``ln(sigma) ~ N(sigma_mean, sigma_std)``. The learning rate
    rises over `warmup` images, stays, and falls to zero over the last `decay` of all `images`.
    """

    crop: int = 96
    batch: int = 16
    images: int = 240_000
    learning_rate: float = 2e-3
    warmup: int = 4_000
    decay: float = 0.5
    weight_decay: float = 0.0
    ema: float = 0.999
    condition_dropout: float = 0.1
    rare_types: float = 0.5
    sigma_mean: float = -0.6
    sigma_std: float = 1.4


@dataclass(frozen=True)
class Preset:
    """A network, how it is trained, and what it is for."""

    network: LocalConfig
    training: TrainingConfig
    purpose: str


PRESETS = {
    "tiny": Preset(
        LocalConfig((16, 24), (1, 1), embedding=32),
        TrainingConfig(crop=32, batch=4, images=4_000, warmup=400),
        "tests and trials",
    ),
    "small": Preset(
        LocalConfig((64, 128, 192), (1, 1, 3)),
        TrainingConfig(),
        "ships with the package; trains in hours on two CPU cores",
    ),
    "medium": Preset(
        LocalConfig((96, 192, 384), (2, 2, 4), embedding=256),
        TrainingConfig(crop=128, batch=64, images=6_000_000, learning_rate=5e-4),
        "for a GPU",
    ),
}

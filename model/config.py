"""Configurations of networks and of their training: frozen dataclasses and the table of presets."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..annotations.types import PLANES
from .planes import ALL_PLANES, LAYOUT_PLANES, TISSUE_PLANES

MOST_BLOCKS = 64  # of one width
MOST_LEVELS, MOST_CHANNELS = 8, 8192


def _check_numbers(
    numbers: tuple[int, ...], name: str, *, least: int = 1, most: int = MOST_CHANNELS
) -> None:
    if len(numbers) > MOST_LEVELS or not all(least <= n <= most for n in numbers):
        raise ValueError(f"{name} {numbers}: up to {MOST_LEVELS} numbers from {least} to {most}")


@dataclass(frozen=True)
class LocalConfig:
    """Shape of a network of the `local` family.

    widths: channels at 1/2, 1/4, 1/8, ... of the resolution.
    blocks: residual blocks at each of them (the lowest has them once, the others on both ways).
    sigma_data: standard deviation of the data (EDM). planes: how many conditioning planes it takes.
    fine: channels before a last convolution at full resolution; 0 for none.

    Raises:
        ValueError: values that no network can have, which a damaged header may contain.
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    embedding: int = 128
    sigma_data: float = 0.5
    planes: int = len(PLANES)
    fine: int = 0

    def __post_init__(self) -> None:
        _check_numbers(self.widths, "widths")
        _check_numbers(self.blocks, "blocks", most=MOST_BLOCKS)
        _check_numbers((self.embedding, self.planes), "embedding and planes")
        _check_numbers((self.fine,), "fine", least=0)
        if len(self.widths) != len(self.blocks):
            raise ValueError(f"{len(self.widths)} widths and {len(self.blocks)} numbers of blocks")
        if not 0 < self.sigma_data < 100:
            raise ValueError(f"sigma_data {self.sigma_data}")


@dataclass(frozen=True)
class SemanticConfig:
    """Shape of a network of the `semantic` family (Shrivastava and Fletcher 2023).

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

    def __post_init__(self) -> None:
        _check_numbers((self.width, *self.widths), "width and widths")
        _check_numbers((self.blocks,), "blocks", most=MOST_BLOCKS)
        _check_numbers(self.attention, "attention")
        _check_numbers((self.condition, self.outputs), "condition and outputs")


@dataclass(frozen=True)
class TrainingConfig:
    """The training settings of a network.


    crop: pixels a side. batch: crops at a time on each device; a step takes `accumulate` batches.
    images: crops in all. The learning rate rises over `warmup` images, stays, and falls to zero
    over the last `decay` of all `images`. ema: memory of the averaged network, a step.
    rare_types: share of crops centred near a nucleus of a type drawn uniformly.
    guidance: scale of guidance distillation (`objectives.GuidanceDistillation`); 0 for none. The
    teacher is the network that training starts from.
    critic_below: noise level below which a critic trains the network (`critic`); 0 for none.
    critic_steps: numbers of solver steps in which the network then paints, as often.
    critic_pixels: whether the critic scores the pixels too. even_places: see `critic.Adversarial`.
    distances_below: noise level below which `distances.Distances` trains the network, in place of a
    critic; 0 for none. plain: share of crops as an evaluation has them (`data.Crops`).
    patches: read the paper's patches, at `magnification` 20 or 10, instead of random crops.
    layouts: read maps of "nuclei" (`training.maps`) or of "regions" (`training.region_maps`) in
        place of pictures.
    muon: see `optimisers.network_optimisers`.
    checkpointing: recompute activations in the backward pass.
    """

    crop: int = 96
    batch: int = 16
    accumulate: int = 1
    images: int = 160_000
    learning_rate: float = 2e-3
    warmup: int = 4_000
    decay: float = 0.5
    weight_decay: float = 0.0
    ema: float = 0.999
    condition_dropout: float = 0.1
    rare_types: float = 0.5
    guidance: float = 0.0
    critic_below: float = 0.0
    critic_steps: tuple[int, ...] = (8,)
    critic_pixels: bool = False
    even_places: float = 0.0
    distances_below: float = 0.0
    plain: float = 0.0
    patches: bool = False
    layouts: str = ""
    magnification: int = 20
    muon: bool = True
    checkpointing: bool = False


@dataclass(frozen=True)
class Preset:
    """A network, how it is trained, what it is for, and the names of its planes."""

    network: LocalConfig | SemanticConfig
    training: TrainingConfig
    purpose: str
    planes: tuple[str, ...] = PLANES

    def __post_init__(self) -> None:
        how = self.training
        if isinstance(self.network, LocalConfig) and self.network.planes != len(self.planes):
            raise ValueError(f"{self.network.planes} planes, and {len(self.planes)} names of them")
        if (how.critic_below or how.distances_below) and not how.guidance:
            raise ValueError("training by a critic or by distances needs a teacher: set guidance")
        if how.guidance and not isinstance(self.network, LocalConfig):
            raise ValueError("only networks of the local family learn from a teacher")


# Shrivastava and Fletcher (2023). How long is our choice: 100,000 steps of 160 patches, then
# 20,000.
PAPER = SemanticConfig(256, (256, 256, 512, 768, 1024))
_PAPER_TRAINING = TrainingConfig(
    crop=128,
    batch=40,
    images=16_000_000,
    learning_rate=1e-4,
    warmup=160_000,
    decay=0.0,
    condition_dropout=0.0,
    rare_types=0.0,
    patches=True,
    muon=False,
    checkpointing=True,
)

_SMALL = LocalConfig((64, 128, 192), (1, 1, 3))
_WITH_REGIONS = replace(_SMALL, planes=len(ALL_PLANES), fine=16)
_GUIDED = TrainingConfig(images=22_000, learning_rate=5e-4, warmup=0, decay=1.0, guidance=1.0)
_ADVERSARIAL = TrainingConfig(
    images=28_800,
    learning_rate=1e-4,
    warmup=800,
    ema=0.99,
    guidance=1.0,
    critic_below=1.0,
    muon=False,
)
_ON_GPU = TrainingConfig(crop=128, batch=96, images=6_000_000)

PRESETS = {
    "tiny": Preset(
        LocalConfig((16, 24), (1, 1), embedding=32),
        TrainingConfig(crop=32, batch=4, images=4_000, warmup=400),
        "tests and trials",
    ),
    "tiny-regions": Preset(
        LocalConfig((16, 24), (1, 1), embedding=32, planes=len(ALL_PLANES), fine=8),
        TrainingConfig(crop=32, batch=4, images=4_000, warmup=400),
        "tests and trials, with regions and known pixels as conditions",
        ALL_PLANES,
    ),
    "small": Preset(
        _SMALL,
        TrainingConfig(),
        "for a CPU; trains in two hours on two cores",
    ),
    "small-guided": Preset(
        _SMALL,
        _GUIDED,
        "second stage of small, guidance distillation: give `init`",
    ),
    "small-adversarial": Preset(
        _SMALL,
        _ADVERSARIAL,
        "third stage of small, with a critic: give `init`",
    ),
    "small-regions": Preset(
        _WITH_REGIONS,
        TrainingConfig(),
        "small with regions and known pixels as conditions: the network of the default weights",
        ALL_PLANES,
    ),
    "small-regions-guided": Preset(
        _WITH_REGIONS,
        _GUIDED,
        "second stage of small-regions: give `init`",
        ALL_PLANES,
    ),
    "small-regions-adversarial": Preset(
        _WITH_REGIONS,
        replace(_ADVERSARIAL, critic_steps=(4, 4, 8), critic_pixels=True, even_places=60.0),
        "third stage of small-regions, with a critic: give `init`",
        ALL_PLANES,
    ),
    "small-regions-distances": Preset(
        _WITH_REGIONS,
        replace(
            _ADVERSARIAL,
            images=2_560,
            warmup=320,
            condition_dropout=0.0,
            critic_below=0.0,
            critic_steps=(4,),
            distances_below=10.0,
            even_places=60.0,
            plain=0.75,
        ),
        "fourth stage of small-regions, on statistics of pictures: give `init`",
        ALL_PLANES,
    ),
    "medium": Preset(
        LocalConfig((96, 192, 304), (1, 1, 3), embedding=192, planes=len(ALL_PLANES), fine=16),
        _ON_GPU,
        "as small-regions, with more parameters; for a GPU",
        ALL_PLANES,
    ),
    "layout-nuclei": Preset(
        LocalConfig((32, 80), (1, 3), embedding=64, sigma_data=0.25, planes=len(LAYOUT_PLANES)),
        TrainingConfig(crop=96, batch=16, images=48_000, condition_dropout=0.0, layouts="nuclei"),
        "places the nuclei of layouts; trains in half an hour on one core",
        LAYOUT_PLANES,
    ),
    "layout-regions": Preset(
        LocalConfig(
            (24, 48, 72), (1, 1, 3), embedding=64, sigma_data=0.7, planes=len(TISSUE_PLANES)
        ),
        TrainingConfig(crop=80, batch=16, images=240_000, layouts="regions"),
        "generates glands for layouts; trains in 20 minutes on one core",
        TISSUE_PLANES,
    ),
    "nasdm": Preset(PAPER, _PAPER_TRAINING, "the paper's network, first stage"),
    "nasdm-10x": Preset(
        PAPER, replace(_PAPER_TRAINING, magnification=10), "the first stage at 10x, for comparison"
    ),
    "nasdm-finetune": Preset(
        PAPER,
        replace(
            _PAPER_TRAINING,
            images=3_200_000,
            learning_rate=2e-5,
            condition_dropout=0.2,
        ),
        "the paper's second stage: give `init`, the weights of the first",
    ),
    "nasdm-tiny": Preset(
        SemanticConfig(32, (32, 32, 64), attention=(4,), blocks=1),
        replace(_PAPER_TRAINING, crop=32, batch=4, images=4_000, warmup=400),
        "tests and trials",
    ),
}

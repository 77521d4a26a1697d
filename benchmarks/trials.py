"""Value of each choice in the preset `small`, one at a time and at equal cost.

    python benchmarks/trials.py data/colon -o trials [--images 6400]

Every trial trains from scratch with the same seed until it has spent as many multiplications as
the first one does on ``--images`` crops. The result is the error of estimates of held-out pixels
at four noise levels. Distances between pictures are not used, because grain lowers them in
networks this young. Each trial leaves a line in the folder; the same command resumes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from measure import machine, table
from scenes import Scenes
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nasdm_wsi.annotations.types import EDGE, TYPES
from nasdm_wsi.job import default_workers
from nasdm_wsi.model.config import PRESETS, LocalConfig, TrainingConfig
from nasdm_wsi.model.diffusion import Condition, Denoiser
from nasdm_wsi.model.local_unet import LocalUNet
from nasdm_wsi.model.training import data
from nasdm_wsi.model.training.objectives import Objective
from nasdm_wsi.model.training.trainer import Trainer

LEVELS = (0.1, 0.4, 1.6, 6.4)


class LowNoise(Denoiser):
    """EDM's own distribution of noise levels."""

    P_MEAN, P_STD = -1.2, 1.2


class Target(Denoiser):
    """A denoiser whose network estimates the clean pixels; all noise levels have equal weight."""

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return self._output(x, sigma, condition)

    def loss(self, x0: Tensor, condition: Condition, level: Tensor, noise: Tensor) -> Tensor:
        sigma = self.sigma(level)
        output = self._output(x0 + noise * sigma[:, None, None, None], sigma, condition)
        return (output - self.target(x0, noise)).square().mean(dim=(1, 2, 3))

    def target(self, x0: Tensor, noise: Tensor) -> Tensor:
        return x0

    def _output(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        total = (sigma**2 + self.sigma_data**2).sqrt()[:, None, None, None]
        return self.network(x / total, sigma.log() / 4, condition.planes, condition.style).float()


class NoiseTarget(Target):
    """A denoiser whose network estimates the noise."""

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return x - sigma[:, None, None, None] * self._output(x, sigma, condition)

    def target(self, x0: Tensor, noise: Tensor) -> Tensor:
        return noise


class NoiseWeight(Denoiser):
    """A denoiser with the loss weights of noise estimates."""

    def loss(self, x0: Tensor, condition: Condition, level: Tensor, noise: Tensor) -> Tensor:
        sigma, d = self.sigma(level), self.sigma_data
        return super().loss(x0, condition, level, noise) * d**2 / (sigma**2 + d**2)


class Nuclei(Denoiser):
    """A denoiser whose errors on nuclei and edges count double."""

    def loss(self, x0: Tensor, condition: Condition, level: Tensor, noise: Tensor) -> Tensor:
        sigma, d = self.sigma(level), self.sigma_data
        error = self(x0 + noise * sigma[:, None, None, None], sigma, condition) - x0
        nuclei = condition.pick(*TYPES[1:]).sum(1, keepdim=True).maximum(condition.pick(EDGE))
        squares = (1 + nuclei) * error.square()
        return (sigma**2 + d**2) / (sigma * d) ** 2 * squares.mean(dim=(1, 2, 3))


class Unstyled(Denoiser):
    """A denoiser that is not given the stain."""

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        style = self.network.style_mean.expand_as(condition.style)
        return super().forward(x, sigma, Condition(condition.planes, style))


@dataclass(frozen=True)
class Trial:
    """One trial and what it changes; batches have the crop ``sides`` in turn, with equal pixels."""

    network: LocalConfig
    training: TrainingConfig
    denoiser: type[Denoiser] = Denoiser
    augmented: bool = True
    sides: tuple[int, ...] = (96,)
    seed: int = 0


def trials(images: int) -> dict[str, Trial]:
    """All trials, with as many multiplications as the first has for ``images`` crops."""
    small = PRESETS["small"]
    shape = small.network
    assert isinstance(shape, LocalConfig)
    settings = replace(small.training, images=images, warmup=images // 10)
    base = Trial(shape, settings)
    cost = images * multiplications(base)

    def equal(widths: tuple[int, ...], blocks: tuple[int, ...]) -> Trial:
        trial = replace(base, network=replace(shape, widths=widths, blocks=blocks))
        count = round(cost / multiplications(trial) / settings.batch) * settings.batch
        return replace(trial, training=replace(settings, images=count))

    def of_sides(*sides: int) -> Trial:
        """A trial with as many steps as the first."""
        a_step = sum(batch(settings, side) for side in sides) / len(sides)
        changed = replace(settings, images=round(images // settings.batch * a_step))
        return replace(base, training=changed, sides=sides)

    def trained_with(**changes: float) -> Trial:
        return replace(base, training=replace(settings, **changes))

    return {
        "small": base,
        "small, another seed": replace(base, seed=1),
        "noise levels: ln(sigma) -1.2, 1.2": replace(base, denoiser=LowNoise),
        "target: noise": replace(base, denoiser=NoiseTarget),
        "target: clean pixels": replace(base, denoiser=Target),
        "weights of the noise": replace(base, denoiser=NoiseWeight),
        "wider: 96, 192, 288": equal((96, 192, 288), shape.blocks),
        "narrower: 48, 96, 144": equal((48, 96, 144), shape.blocks),
        "deeper: blocks 2, 2, 3": equal(shape.widths, (2, 2, 3)),
        "wider field: a level at 1/16": equal((*shape.widths, 192), (1, 1, 1, 2)),
        "crops of 64": of_sides(64),
        "crops of 128": of_sides(128),
        "no stain augmentation": replace(base, augmented=False),
        "stain not told": replace(base, denoiser=Unstyled),
        "nuclei and edges count double": replace(base, denoiser=Nuclei),
        "mask never forgotten": trained_with(condition_dropout=0.0),
        "rate does not fall": trained_with(decay=0.0),
        "crops of 64 and of 128 in turn": of_sides(64, 128),
        "rare types not sought": trained_with(rare_types=0.0),
        "every crop at a rare type": trained_with(rare_types=1.0),
    }


def batch(settings: TrainingConfig, side: int) -> int:
    """Crops of another side with as many pixels as the preset's batch."""
    return settings.batch * settings.crop**2 // side**2


def multiplications(trial: Trial) -> int:
    """Multiplications of one crop in the forward pass; training takes three times as many."""
    network, side = LocalUNet(trial.network), trial.training.crop
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(
            torch.zeros(1, 3, side, side),
            torch.zeros(1),
            torch.zeros(1, 8, side, side),
            torch.zeros(1, 6),
        )
    return counter.get_total_flops()


def crops(trial: Trial, dataset: Path) -> list[data.Crops]:
    """The crops of a trial, of each of its sides."""
    rare, seed = trial.training.rare_types, trial.seed
    return [data.Crops(dataset, crop=side, rare_types=rare, seed=seed) for side in trial.sides]


def trained(trial: Trial, samples: Sequence[data.Crops]) -> Denoiser:
    """Train a trial on crops of its sides and give its averaged network."""
    torch.set_num_threads(default_workers())
    torch.manual_seed(trial.seed)
    network, settings = LocalUNet(trial.network), trial.training
    styles = torch.from_numpy(samples[0].styles())
    network.style_mean.copy_(styles.mean(0))
    network.style_std.copy_(styles.std(0))
    objective = Objective(trial.denoiser(network))
    trainer = Trainer(network, objective, settings, device=torch.device("cpu"))
    while trainer.seen < settings.images:
        of_side = samples[trainer.step % len(samples)]
        indices = range(trainer.seen, trainer.seen + batch(settings, of_side.crop))
        dropout = settings.condition_dropout
        trainer.update([data.Batches(of_side, seed=trial.seed, dropout=dropout)[indices]])
    return trial.denoiser(trainer.average)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--images", type=int, default=6_400)
    options = parser.parse_args()
    options.output.mkdir(exist_ok=True)
    scenes, rows = Scenes(options.dataset, grid=16), []
    for number, (name, trial) in enumerate(trials(options.images).items()):
        done = options.output / f"{number:02}-{trial.training.images}.json"
        if not done.exists():
            none = mock.patch.object(data, "stain_matrix", lambda rng: np.eye(3))
            with nullcontext() if trial.augmented else none:
                denoise = trained(trial, crops(trial, options.dataset))
            row = [name, trial.training.images, *(scenes.error(denoise, level) for level in LEVELS)]
            done.write_text(json.dumps(row))
        row = json.loads(done.read_text())
        rows.append([f"{v:.5f}" if isinstance(v, float) else v for v in row])
    print(machine("torch"))
    head = ["trial", "crops", *(f"error at {level}" for level in LEVELS)]
    table(head, rows)


if __name__ == "__main__":
    main()

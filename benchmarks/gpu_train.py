"""Train a preset in a given time on one GPU: three stages by the clock, and float16 weights.

    python benchmarks/gpu_train.py PACK OUT --preset small-regions --seconds 500 [--init WEIGHTS]

The stages are the first three of the shipped network: denoising, guidance distillation, and a
critic. Each writes OUT/PRESET-STAGE.safetensors once a minute and at its end. Without --begin,
weights of the first stage resume that stage, and later ones start that of the critic. The state of
the optimisers is not kept.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from gpu_crops import GpuCrops
from PIL import Image
from torch import nn

from nasdm_wsi.checkpoints import Sampler, Training
from nasdm_wsi.model.checkpoint import load_weights, save_weights
from nasdm_wsi.model.config import PRESETS, TrainingConfig
from nasdm_wsi.model.devices import native_precision
from nasdm_wsi.model.diffusion import Denoiser
from nasdm_wsi.model.families import build, family_of
from nasdm_wsi.model.guidance import guided
from nasdm_wsi.model.pixels import to_image
from nasdm_wsi.model.planes import ALL_PLANES, NUCLEI, REGIONS, REGIONS_KNOWN
from nasdm_wsi.model.samplers import cubic_sigmas, sample
from nasdm_wsi.model.training.critic import judged
from nasdm_wsi.model.training.objectives import GuidanceDistillation, Objective
from nasdm_wsi.model.training.trainer import Trainer

STEPS = (4, 4, 8)  # numbers of solver steps in which the critic sees pictures, as often
EVEN_PLACES = 60.0  # weight of `patterns.place_gradients`
RISE = 0.03  # share of a stage in which the learning rate rises
LEAST = 1e-3  # share of the learning rate with which a stage begins and ends
SAVE_EVERY = 60.0  # seconds
LAST_SAVE = 15.0  # seconds kept for measuring the halo and painting the grid


@dataclass(frozen=True)
class Stage:
    """One stage of training: its share of the time that is left, and how it is trained."""

    name: str
    share: float
    settings: TrainingConfig
    steps: int  # of the solver, which the header names


def stages(crop: int, batch: int) -> list[Stage]:
    """The stages in order; of their settings the number of images does not count."""

    def settings(rate: float, **options: float) -> TrainingConfig:
        return TrainingConfig(crop=crop, batch=batch, learning_rate=rate, **options)

    return [
        Stage("denoise", 0.47, settings(2e-3), 8),
        Stage("guided", 0.16, settings(5e-4, warmup=0, decay=1.0, guidance=1.0), 8),
        Stage(
            "critic",
            1.0,
            settings(1.2e-4, ema=0.995, guidance=1.0, critic_below=1.0, muon=False),
            4,
        ),
    ]


class TimedTrainer(Trainer):
    """A trainer whose learning rate follows the clock, from the end of the first step to ``end``.

    The first step compiles, which may take longer than the learning rate rises.
    """

    begin: float | None = None
    end: float

    @property
    def part(self) -> float:
        """Share of the time that is gone."""
        if self.begin is None:
            return 0.0
        now = time.monotonic()
        return min(1.0, (now - self.begin) / max(self.end - self.begin, 1e-6))

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        part, settings = self.part, self.settings
        rise = part / RISE if settings.warmup else 1.0
        fall = (1 - part) / settings.decay
        return settings.learning_rate * max(LEAST, min(1.0, rise, fall))

    def run(self, crops: GpuCrops, save: Callable[[], None], name: str) -> None:
        """Train until ``end``; there is always a step."""
        saved, losses, start = time.monotonic(), [], time.monotonic()
        while True:
            losses.append(self.update([crops.batch(self.settings.batch)]))
            now = time.monotonic()
            self.begin = self.begin or now
            if now > saved + SAVE_EVERY or now >= self.end:
                save()
                saved = now
                print(
                    f"{name}: {self.step} steps of {self.settings.batch}, {now - start:.0f} s, "
                    f"{self.seen / (now - start):.0f} crops/s, loss {np.mean(losses[-100:]):.4f}",
                    flush=True,
                )
            if now >= self.end:
                return


def objective_of(stage: Stage, network: nn.Module, crops: GpuCrops, compile: bool) -> Objective:
    """What a stage minimises; its teacher is what the network is now."""
    denoiser = Denoiser(network)
    if not stage.settings.guidance:
        return Objective(denoiser)
    own = copy.deepcopy(network).eval().requires_grad_(False)
    if compile:
        own.compile(dynamic=False)
    if not stage.settings.critic_below:
        return GuidanceDistillation(denoiser, guided(Denoiser(own), stage.settings.guidance))
    return judged(
        denoiser,
        Denoiser(own),
        crops.batch(64).pixels,
        stage.settings.critic_below,
        planes=(*NUCLEI, *REGIONS, REGIONS_KNOWN),
        pixels=True,
        steps=STEPS,
        even_places=EVEN_PLACES,
    )


@torch.no_grad()
def grid(network: nn.Module, crops: GpuCrops, count: int = 8) -> Image.Image:
    """Real crops, and below them what the network paints from their planes in 4 and in 8 steps."""
    batch = crops.batch(count)
    rows = [batch.pixels]
    for steps in sorted(set(STEPS)):
        with native_precision(crops.device):
            denoise = Denoiser(network)
            rows.append(sample(denoise, batch.noise, batch.condition, sigmas=cubic_sigmas(steps)))
    pictures = [np.hstack([to_image(picture) for picture in row.cpu().numpy()]) for row in rows]
    return Image.fromarray(np.vstack(pictures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", default="small-regions")
    parser.add_argument("--seconds", type=float, default=500)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--begin", choices=("denoise", "guided", "critic"), help="first stage")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on CUDA")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=96)
    train(parser.parse_args())


def train(options: argparse.Namespace) -> None:
    """Train the stages that are to be done, one after another."""
    deadline = time.monotonic() + options.seconds
    recipe, device = PRESETS[options.preset], torch.device(options.device)
    if recipe.planes != ALL_PLANES:
        raise SystemExit(f"preset {options.preset!r} has no planes of regions")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    compile = device.type == "cuda" if options.compile is None else options.compile

    crops = GpuCrops(options.pack, options.crop, device)
    network = build(recipe.network)
    todo = stages(options.crop, options.batch)
    if options.init:
        given, header = load_weights(options.init)
        network.load_state_dict(given.state_dict())
        todo = todo[-1:] if header.guidance and not options.begin else todo
    else:
        styles = crops.styles(2048).cpu().numpy()
        family_of(network).prepare(network, lambda: styles, todo[0].settings)
    if options.begin:
        names = [stage.name for stage in todo]
        todo = todo[names.index(options.begin) :]
    network.to(device)
    if compile:
        network.compile(dynamic=False)

    for stage in todo:
        left = deadline - LAST_SAVE - time.monotonic()
        objective = objective_of(stage, network, crops, compile)
        trainer = TimedTrainer(network, objective, stage.settings, device=device)
        trainer.end = time.monotonic() + stage.share * max(left, 3.0)
        save = saver(options, stage, trainer)
        trainer.run(crops, save, f"{options.preset} {stage.name}")
        network.load_state_dict(trainer.average.state_dict())
    save(family_of(network).halo(trainer.average))
    grid(trainer.average, crops).save(options.out / f"{options.preset}.jpg", quality=90)


def saver(
    options: argparse.Namespace, stage: Stage, trainer: TimedTrainer
) -> Callable[[int | None], None]:
    """A function that writes the averaged weights of a stage, with their halo if it is measured."""

    def save(halo: int | None = None) -> None:
        save_weights(
            options.out / f"{options.preset}-{stage.name}.safetensors",
            trainer.average,
            planes=ALL_PLANES,
            halo=halo,
            guidance=stage.settings.guidance,
            sampler=Sampler("dpmpp_2m", steps=stage.steps, channels=6),
            training=Training(
                options.preset,
                settings=asdict(stage.settings),
                step=trainer.step,
                seen=trainer.seen,
            ),
        )

    return save


if __name__ == "__main__":
    main()

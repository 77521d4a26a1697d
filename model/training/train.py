"""Training, which the same command resumes after an interruption, to the same weights.

One process trains on a CPU or a GPU. Under torchrun each process takes its share of every batch
and gradients are averaged (DistributedDataParallel); sample i of a run is the same however many
processes share the work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from ...checkpoints import Header, Sampler, Training
from ...errors import CheckpointError, StoppedError
from ...output import check_writable, keep_inputs, output_errors
from ...tools.dataset import MANIFEST
from ..checkpoint import (
    check_shapes,
    checksum,
    header_of,
    load,
    load_weights,
    network_of,
    save,
    save_weights,
    shapes_of,
)
from ..config import PRESETS, TrainingConfig
from ..diffusion import Denoise, Denoiser
from ..families import build, denoiser_of, family_of
from ..guidance import guided
from ..planes import NUCLEI, REGIONS, REGIONS_KNOWN
from .board import open_board, write_curves, write_samples
from .critic import judged
from .data import Batch, Batches, Samples, samples_of
from .distances import statistical
from .objectives import GuidanceDistillation, Objective
from .processes import Warned, processes, rank, world
from .trainer import Trainer

LAST = "last.safetensors"
WEIGHTS = "weights.safetensors"
CRITIC_PLANES = (*NUCLEI, *REGIONS, REGIONS_KNOWN)
REAL = 32  # pictures by which the critic's features are normalised
REAL_OF_DISTANCES = 512  # pictures whose statistics the distances start from

Progress = Callable[[int, int, float], None]

log = logging.getLogger(__name__)


def train(
    dataset: Path,
    out: Path,
    *,
    preset: str = "small",
    images: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    init: Path | None = None,
    compile: bool = False,
    save_every: int = 10_000,
    progress: Progress | None = None,
) -> Path:
    """Train a preset on a prepared dataset and return the path of the averaged weights.

    ``out`` receives last.safetensors (everything needed to resume), weights.safetensors (the
    averaged network, for `render`) and TensorBoard logs with sample grids. If ``out`` holds a
    checkpoint of the same preset and seed, training resumes from there; a run that was stopped and
    resumed equals an uninterrupted one. ``images`` replaces the preset's number of crops; changing
    it between runs moves the decay of the learning rate. A new run starts from the weights ``init``
    if they are given. ``progress(done, total, loss)`` is called after each step.

    Under torchrun every process calls this; the device is then the process' own GPU, or the CPU.
    A first SIGTERM or SIGUSR1 (Slurm's warning before a job is preempted or ends) saves a
    checkpoint and ends training.

    Raises:
        CheckpointError: ``out`` holds a run of another configuration, or a damaged checkpoint.
        DatasetError: the dataset cannot be used.
        StoppedError: one of these signals came; the same call resumes training.
        OutputError: ``out`` holds the dataset or ``init``, or cannot be written.
        NasdmError: TensorBoard is not installed.
    """
    out = Path(out)
    keep_inputs([out / MANIFEST], [Path(dataset) / MANIFEST])  # a run in the dataset's folder
    keep_inputs([out / LAST, out / WEIGHTS], [dataset, init])
    if preset not in PRESETS:
        raise CheckpointError(f"no preset {preset!r}: choose one of {', '.join(PRESETS)}")
    recipe = PRESETS[preset]
    settings = replace(recipe.training, images=images or recipe.training.images)
    facts = Training(preset, seed, str(dataset), settings=asdict(settings))
    with processes(device) as place:
        torch.manual_seed(seed)
        network = build(recipe.network)
        samples = samples_of(dataset, settings, seed, recipe.planes)
        family_of(network).prepare(network, samples.styles, settings)
        teacher = _start_from(init, network, settings, place) if init else None
        if settings.guidance and init:
            facts = replace(facts, teacher=checksum(Path(init)))
        objective = _objective(settings, network, teacher, samples, place)
        trainer = Trainer(network, objective, settings, device=place)
        run = Run(out, trainer, samples, facts, recipe.planes)
        run.resume()
        if compile:
            network.compile()
        run.go(save_every=save_every, progress=progress if rank() == 0 else None)
    return run.weights


def _start_from(
    init: Path, network: nn.Module, settings: TrainingConfig, place: torch.device
) -> Denoise:
    """Copy weights into a new network, and return what they estimate, guided as settings say."""
    given, header = load_weights(Path(init))
    if given.config != network.config:
        raise CheckpointError(
            f"{init} holds weights of a different network: choose the preset of that network"
        )
    network.load_state_dict(given.state_dict())
    return guided(denoiser_of(given.to(place)), settings.guidance, learnt=header.guidance)


def _objective(
    settings: TrainingConfig,
    network: nn.Module,
    teacher: Denoise | None,
    samples: Samples,
    place: torch.device,
) -> Objective:
    """Return the objective of a preset; only this function knows the stages of training."""
    denoiser = denoiser_of(network)
    if not settings.guidance:
        return Objective(denoiser)
    if teacher is None:
        raise CheckpointError("the preset learns from the weights of a teacher: give `init`")
    student = cast(Denoiser, denoiser)  # as `Preset` has checked
    if not settings.critic_below and not settings.distances_below:
        return GuidanceDistillation(student, teacher)
    count = REAL_OF_DISTANCES if settings.distances_below else REAL
    real = torch.stack([samples[i].pixels for i in range(count)]).to(place)
    if settings.distances_below:
        return statistical(
            student,
            real,
            settings.distances_below,
            steps=min(settings.critic_steps),
            even_places=settings.even_places,
        )
    return judged(
        student,
        teacher,
        real,
        settings.critic_below,
        planes=tuple(name for name in CRITIC_PLANES if name in samples.planes),
        pixels=settings.critic_pixels,
        steps=settings.critic_steps,
        even_places=settings.even_places,
    )


@dataclass
class Run:
    """A run of training and its folder.

    facts: the origin of the network, as the checkpoints record it.
    planes: the names of the network's planes.
    """

    folder: Path
    trainer: Trainer
    samples: Samples
    facts: Training
    planes: tuple[str, ...]

    @property
    def last(self) -> Path:
        """The checkpoint from which training resumes."""
        return self.folder / LAST

    @property
    def weights(self) -> Path:
        """The averaged weights."""
        return self.folder / WEIGHTS

    def resume(self) -> None:
        """Resume from the checkpoint in the folder, if there is one.

        Raises:
            CheckpointError: it is damaged, or belongs to another run.
        """
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            check_writable(self.last)
        if not self.last.exists():
            return
        tensors, stopped = load(self.last)
        self._check_same(stopped)
        check_shapes(self.last, self.trainer.expected_shapes(), shapes_of(tensors), "its run")
        at = stopped.training
        self.trainer.restore(tensors, step=at.step, seen=at.seen)
        log.info("resuming at %d of %d crops", at.seen, self.trainer.settings.images)

    def _check_same(self, stopped: Header) -> None:
        before, now, network = stopped.training, self.facts, self.trainer.network
        pairs: dict[str, tuple[Any, Any]] = {
            key: (getattr(before, key), getattr(now, key)) for key in ("preset", "seed", "teacher")
        }
        if stopped.kind != "training":
            raise CheckpointError(f"{self.last} holds weights but no run: choose another folder")
        pairs["network"] = (network_of(stopped, self.last).config, network.config)
        for key, (theirs, ours) in pairs.items():
            if theirs != ours:
                raise CheckpointError(
                    f"{self.last} belongs to another run ({key} {theirs}): choose another folder"
                )

    def go(self, *, save_every: int, progress: Progress | None) -> None:
        """Train until the end.

        Raises:
            StoppedError: a signal announced the end of the job; a checkpoint is saved.
        """
        trainer, images = self.trainer, self.trainer.settings.images
        log_to = open_board(self.folder / "log", trainer.seen) if rank() == 0 else nullcontext()
        with Warned() as warned, log_to as board:
            for batches in self._steps():
                before = trainer.seen
                loss = trainer.update(batches)
                if progress:
                    progress(trainer.seen, images, loss)
                if board:
                    write_curves(board, trainer, loss)
                if trainer.seen // save_every != before // save_every or trainer.seen >= images:
                    self.save()
                    if board:
                        write_samples(board, trainer, self.samples, self.planes)
                if warned.anywhere(trainer.device):
                    self.save()
                    raise StoppedError(
                        f"{trainer.seen} of {images} crops are done; run the same command again "
                        "to resume"
                    )

    def _steps(self) -> Iterator[list[Batch]]:
        """Yield the batches of this process for each step."""
        settings, on_gpu = self.trainer.settings, self.trainer.device.type == "cuda"
        size, micros = settings.batch, settings.accumulate
        own, whole = size * micros, size * micros * world()
        first, end = self.trainer.seen + rank() * own, settings.images + rank() * own
        ranges = [
            range(start + i * size, start + (i + 1) * size)
            for start in range(first, end, whole)
            for i in range(micros)
        ]
        seed = cast(int, self.facts.seed)
        loader: DataLoader[Batch] = DataLoader(
            Batches(
                self.samples,
                seed=seed,
                dropout=settings.condition_dropout,
                planes=self.planes,
            ),
            batch_size=None,
            sampler=ranges,  # type: ignore[arg-type]
            collate_fn=cast(Any, _as_it_is),
            num_workers=8 if on_gpu else 0,
            pin_memory=on_gpu,
        )
        batches = iter(loader)
        for _ in range(len(ranges) // micros):
            yield [next(batches) for _ in range(micros)]

    def save(self) -> None:
        """Write both checkpoints, if this is the first process."""
        if rank() != 0:
            return
        trainer = self.trainer
        settings, family = trainer.settings, family_of(trainer.network)
        finished = trainer.seen >= settings.images
        common: dict[str, Any] = {
            "mpp": self.samples.mpp,
            "planes": self.planes,
            "halo": family.halo(trainer.average) if finished else None,
            "guidance": settings.guidance,
            "sampler": _sampler(family.sampler, settings),
            "training": replace(self.facts, step=trainer.step, seen=trainer.seen),
        }
        save(self.last, trainer.state(), header_of(trainer.network, kind="training", **common))
        save_weights(self.weights, trainer.average, **common)


def _sampler(usual: Sampler, settings: TrainingConfig) -> Sampler:
    """Return the default sampler of a network, with the fewest steps that a critic judged."""
    judged = settings.critic_below or settings.distances_below
    return replace(usual, steps=min(settings.critic_steps)) if judged else usual


def _as_it_is(batch: Batch) -> Batch:
    return batch

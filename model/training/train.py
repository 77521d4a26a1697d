"""Training: the same command again goes on where the last one stopped, to the same weights.

One process trains on a CPU or a GPU. Under torchrun each process takes its share of every batch
and gradients are averaged (DistributedDataParallel); crop i of a run is the same however many
processes share the work.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from ...checkpoints import Header, Training
from ...errors import CheckpointError
from ...tools.dataset import MPP
from ..checkpoint import (
    checksum,
    header_of,
    load,
    load_weights,
    network_of,
    save,
    save_weights,
)
from ..config import PRESETS, Preset, TrainingConfig
from ..diffusion import Condition, Denoise, Denoiser, NoisePredictor
from ..families import build, denoiser_of, family_of
from ..guidance import guided
from ..samplers import karras_sigmas, sample
from .critic import RATE, Adversarial, adversary, judged
from .data import Crops, Patches, draws
from .processes import Warned, no_sync, processes, rank, world

PRECISION = torch.bfloat16  # of the arithmetic; parameters are float32

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
    progress: Callable[[int, int, float], None] | None = None,
) -> Path:
    """Train a preset on a prepared dataset and return the path of the averaged weights.

    ``out`` receives last.safetensors (everything needed to go on), weights.safetensors (the
    averaged network, for `render`) and TensorBoard logs with sample grids. If ``out`` holds a
    checkpoint of the same preset and seed, training goes on from there; a run that was stopped
    and continued equals an unbroken one. ``images`` replaces the preset's number of crops;
    changing it between runs moves the fall of the learning rate. A new run starts from the
    weights ``init`` if they are given. ``progress(done, total, loss)`` is called after each step.

    Under torchrun every process calls this; the device is then the process' own GPU, or the CPU.
    A first SIGTERM or SIGUSR1 (Slurm's warning before a job is preempted or ends) saves a
    checkpoint and ends training.

    Raises:
        CheckpointError: ``out`` holds a run of another configuration, or a damaged checkpoint.
        DatasetError: the dataset cannot be used.
        SystemExit: after one of these signals.
    """
    if preset not in PRESETS:
        raise CheckpointError(f"no preset {preset!r}: choose one of {', '.join(PRESETS)}")
    with processes(device) as place:
        return _train(
            dataset,
            out,
            recipe=PRESETS[preset],
            facts=Training(preset=preset, seed=seed, dataset=str(dataset)),
            images=images,
            place=place,
            init=init,
            compile=compile,
            save_every=save_every,
            progress=progress if rank() == 0 else None,
        )


def _train(
    dataset: Path,
    out: Path,
    *,
    recipe: Preset,
    facts: Training,
    images: int | None,
    place: torch.device,
    init: Path | None,
    compile: bool,
    save_every: int,
    progress: Callable[[int, int, float], None] | None,
) -> Path:
    settings = replace(recipe.training, images=images or recipe.training.images)
    assert facts.seed is not None
    seed = facts.seed
    torch.manual_seed(seed)
    network = build(recipe.network)
    facts = replace(facts, settings=asdict(settings))
    samples = _samples(dataset, settings, seed)
    family_of(network).prepare(network, lambda: samples.styles(), settings)
    teacher = None
    if init is not None:
        given, before = _weights_like(network, Path(init))
        network.load_state_dict(given.state_dict())
        if settings.guidance:
            learnt = before.guidance
            teacher = guided(denoiser_of(given.to(place)), settings.guidance, learnt=learnt)
            facts = replace(facts, teacher=checksum(Path(init)))
    elif settings.guidance:
        raise CheckpointError(f"preset {facts.preset!r} learns from weights: give `init`")
    if settings.critic_below:
        assert teacher
        real = torch.stack([samples[i][0] for i in range(32)]).to(place)
        objective: nn.Module = judged(denoiser_of(network), teacher, real, settings.critic_below)
    else:
        objective = Objective(denoiser_of(network), teacher)
    trainer = Trainer(network, objective, settings, seed=seed, device=place)

    out.mkdir(parents=True, exist_ok=True)
    last, weights = out / "last.safetensors", out / "weights.safetensors"
    if last.exists():
        tensors, stopped = load(last)
        _check_same_run(stopped, facts, network, last)
        trainer.restore(tensors, step=stopped.training.step, seen=stopped.training.seen)
        log.info("resuming at %d of %d crops", trainer.seen, settings.images)
    if compile:
        network.compile()

    def checkpoint() -> None:
        if rank() == 0:
            halo = None
            if trainer.seen >= settings.images:
                halo = family_of(trainer.average).halo(trainer.average)
            common: dict[str, Any] = {
                "halo": halo,
                "guidance": settings.guidance,
                "mpp": MPP * 20 / settings.magnification,
                "training": replace(facts, step=trainer.step, seen=trainer.seen),
            }
            header = header_of(network, kind="training", **common)
            save(last, trainer.state(), header)
            save_weights(weights, trainer.average, **common)

    with Warned() as warned, _board(out / "log", trainer.seen) as board:
        for micros in _batches(samples, settings, start=trainer.seen, device=place):
            before_step = trainer.seen
            loss = trainer.update(micros)
            if progress:
                progress(trainer.seen, settings.images, loss)
            if board and trainer.step % 50 == 0:
                board.add_scalar("loss", loss, trainer.seen)
                board.add_scalar("learning rate", trainer.learning_rate, trainer.seen)
            due = trainer.seen // save_every != before_step // save_every
            if due or trainer.seen >= settings.images:
                checkpoint()
                if board:
                    grid = sample_grid(trainer.average, samples)
                    board.add_image("samples", grid, trainer.seen)
            if warned.anywhere(place):
                checkpoint()
                raise SystemExit(f"stopped at {trainer.seen} crops: the same command goes on")
    return weights


class Objective(nn.Module):
    """The loss as a module, which is what DistributedDataParallel wraps."""

    def __init__(self, denoiser: Denoiser | NoisePredictor, teacher: Denoise | None = None):
        super().__init__()
        self.denoiser = denoiser
        self.options = {"teacher": teacher} if teacher else {}

    def forward(
        self, x0: Tensor, mask: Tensor, style: Tensor, level: Tensor, drop: Tensor, noise: Tensor
    ) -> Tensor:
        """Mean loss of a batch; the mask is forgotten where ``drop`` (n,) is true."""
        condition = Condition(mask, style).drop(drop)
        return self.denoiser.loss(x0, condition, level, noise, **self.options).mean()


class Trainer:
    """Network, average and optimisers, and one step of training towards an objective.

    All randomness of crop ``i`` comes from (seed, i), so nothing but tensors and two counts has to
    be stored.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: nn.Module,
        settings: TrainingConfig,
        *,
        seed: int,
        device: torch.device,
    ):
        self.settings, self.seed, self.device = settings, seed, device
        self.network = network.to(device)
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.objective = objective.to(device)
        if dist.is_initialized():
            self.objective = DistributedDataParallel(self.objective)
        self.modules = {"network": self.network, "average": self.average}
        self.matrices, self.optimizers = _optimizers(network, settings)
        if isinstance(objective, Adversarial):
            self.modules["critic"] = objective.critic
            self.optimizers["critic_adam"] = adversary(objective.critic.parameters(), RATE)
        self.step = self.seen = 0

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        s = self.settings
        rise = (self.seen + s.batch) / s.warmup if s.warmup else 1.0
        fall = (s.images - self.seen) / (s.decay * s.images) if s.decay else 1.0
        return s.learning_rate * max(0.0, min(1.0, rise, fall))

    def update(self, micros: list[tuple[range, list[Tensor]]]) -> float:
        """One step on batches of (crop numbers, [x0, mask, style]); returns this process' loss."""
        self.objective.zero_grad(set_to_none=True)
        total = 0.0
        for last, (indices, tensors) in enumerate(micros, 1 - len(micros)):
            x0, mask, style = tensors
            drawn = draws(self.seed, indices, x0.shape[1:])
            level, drop, noise = (part.to(self.device) for part in drawn)
            with nullcontext() if last == 0 else no_sync(self.objective):
                with torch.autocast(
                    self.device.type, PRECISION, enabled=PRECISION != torch.float32
                ):
                    loss = self.objective(
                        x0, mask, style, level, drop < self.settings.condition_dropout, noise
                    )
                (loss / len(micros)).backward()
            total += loss.item() / len(micros)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for kernel, matrix in self.matrices:
            assert kernel.grad is not None
            matrix.grad = _matrix(kernel.grad.contiguous(memory_format=torch.channels_last))
        for name, optimizer in self.optimizers.items():
            if name != "critic_adam":
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate
            optimizer.step()
        self.step += 1
        self.seen += sum(len(indices) for indices, _ in micros) * world()
        self._update_average()
        return total

    @torch.no_grad()
    def _update_average(self) -> None:
        # A young average would hang on to the start: its memory grows with the number of steps.
        keep = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        ours, theirs = self.average.parameters(), self.network.parameters()
        torch._foreach_lerp_(list(ours), list(theirs), 1 - keep)

    def state(self) -> dict[str, Tensor]:
        """All tensors that training needs to go on."""
        tensors: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            tensors |= {f"{name}.{k}": v.contiguous() for k, v in module.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            for index, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{k}": v.contiguous() for k, v in slots.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor], *, step: int, seen: int) -> None:
        """Take up a `state`."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        for name, module in self.modules.items():
            module.load_state_dict(part(f"{name}."))
        for name, optimizer in self.optimizers.items():
            slots: dict[int, dict[str, Tensor]] = {}
            for place, value in part(f"{name}.").items():
                index, slot = place.split(".")
                slots.setdefault(int(index), {})[slot] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.step, self.seen = step, seen


def _optimizers(
    network: nn.Module, settings: TrainingConfig
) -> tuple[list[tuple[nn.Parameter, nn.Parameter]], dict[str, torch.optim.Optimizer]]:
    """AdamW for all parameters, as in the paper; or Muon for the kernels inside the network.

    Muon orthogonalises the steps of matrices, so kernels come with a view as a matrix. In a trial
    of 100 seconds each on the preset `small`, one seed: loss 0.23, where AdamW alone at its one
    learning rate tried, 1e-3, had 0.36.
    """
    kernels = {
        id(weight): (weight, nn.Parameter(_matrix(weight)))
        for name, weight in network.named_parameters()
        if settings.muon and weight.ndim == 4 and not name.startswith(("stem", "head"))
    }
    if settings.critic_below:
        return [], {"adam": adversary(network.parameters(), settings.learning_rate)}
    adam: torch.optim.Optimizer = torch.optim.AdamW(
        [p for p in network.parameters() if id(p) not in kernels],
        betas=(0.9, 0.99) if settings.muon else (0.9, 0.999),
        weight_decay=settings.weight_decay,
    )
    matrices = list(kernels.values())
    if not matrices:
        return [], {"adam": adam}
    muon = torch.optim.Muon(
        [matrix for _, matrix in matrices],
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return matrices, {"muon": muon, "adam": adam}


def _matrix(kernel: Tensor) -> Tensor:
    """A convolution's kernel (out, in, h, w), channels last, as a view (out, h w in)."""
    return kernel.detach().permute(0, 2, 3, 1).view(len(kernel), -1)


@torch.no_grad()
def sample_grid(network: nn.Module, samples: Dataset, *, columns: int = 8) -> Tensor:
    """Uint8 (3, 2 c, columns c): real crops above, samples from their masks below."""
    device = next(network.parameters()).device
    pixels, mask, style = (
        torch.stack(parts) for parts in zip(*(samples[i] for i in range(columns)), strict=True)
    )
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    condition = Condition(mask.to(device), style.to(device))
    with torch.autocast(device.type, torch.bfloat16):
        drawn = sample(
            denoiser_of(network), noise.to(device), condition, sigmas=karras_sigmas(12)
        ).cpu()
    rows = torch.cat([pixels, drawn], dim=2).permute(1, 2, 0, 3).flatten(2)
    return ((rows.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _samples(dataset: Path, settings: TrainingConfig, seed: int) -> Any:
    if settings.patches:
        return Patches(dataset, side=settings.crop, magnification=settings.magnification, seed=seed)
    return Crops(dataset, crop=settings.crop, rare_types=settings.rare_types, seed=seed)


def _batches(
    samples: Dataset, settings: TrainingConfig, *, start: int, device: torch.device
) -> Iterator[list[tuple[range, list[Tensor]]]]:
    """For each step the batches of this process, with the numbers of their crops."""
    size, micros = settings.batch, settings.accumulate
    own, whole = size * micros, size * micros * world()
    batches = [
        range(first + i * size, first + (i + 1) * size)
        for first in range(start + rank() * own, settings.images + rank() * own, whole)
        for i in range(micros)
    ]
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_sampler=[list(batch) for batch in batches],
        num_workers=8 if device.type == "cuda" else 0,
        pin_memory=device.type == "cuda",
    )
    step = []
    for indices, batch in zip(batches, loader, strict=True):
        step.append((indices, [part.to(device, non_blocking=True) for part in batch]))
        if len(step) == micros:
            yield step
            step = []


@contextmanager
def _board(folder: Path, start: int) -> Iterator[SummaryWriter | None]:
    if rank() != 0:
        yield None
        return
    with SummaryWriter(str(folder), purge_step=start) as board:
        yield board


def _weights_like(network: nn.Module, init: Path) -> tuple[nn.Module, Header]:
    """The network of a file and its header, if it is of the same shape."""
    given, header = load_weights(init)
    if given.config != network.config:
        raise CheckpointError(f"{init} holds another network than the preset's: choose its preset")
    return given, header


def _check_same_run(stopped: Header, facts: Training, network: nn.Module, path: Path) -> None:
    before = stopped.training
    pairs: dict[str, tuple[Any, Any]] = {
        key: (getattr(before, key), getattr(facts, key)) for key in ("preset", "seed", "teacher")
    }
    pairs["network"] = (network_of(stopped, path).config, network.config)
    for key, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise CheckpointError(
                f"{path} belongs to another run ({key} {theirs}): choose another folder"
            )

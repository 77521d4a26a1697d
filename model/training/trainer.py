"""The training loop's state and step, for any objective."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config import TrainingConfig
from ..devices import native_bfloat16
from .data import Batch
from .objectives import Objective
from .processes import no_sync, world

PRECISION = torch.bfloat16  # of arithmetic on devices that have it; parameters are float32
LARGEST_GRADIENT = 1.0  # norm of the network's gradient, to which longer ones are cut


class Trainer:
    """The network, its average and the optimisers, with a training step for an objective.

    All randomness of sample ``i`` comes from (seed, i), so only tensors and two counts have to be
    stored.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        settings: TrainingConfig,
        *,
        device: torch.device,
    ):
        self.settings, self.device = settings, device
        self.network = network.to(device)
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        objective.to(device)
        self.modules = {"network": self.network, "average": self.average, **objective.own_modules()}
        self.scheduled = objective.optimisers(settings)
        self.optimisers = {**self.scheduled, **objective.own_optimisers()}
        self.objective: nn.Module = objective
        if dist.is_initialized():
            self.objective = DistributedDataParallel(objective)
        self.step = self.seen = 0

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        s = self.settings
        rise = (self.seen + s.batch) / s.warmup if s.warmup else 1.0
        fall = (s.images - self.seen) / (s.decay * s.images) if s.decay else 1.0
        return s.learning_rate * max(0.0, min(1.0, rise, fall))

    def update(self, batches: Sequence[Batch]) -> float:
        """One step on the mean gradient of some batches; returns this process' loss."""
        self.objective.zero_grad(set_to_none=True)
        losses = []
        for number, batch in enumerate(batches, 1):
            last = number == len(batches)
            with nullcontext() if last else no_sync(self.objective):
                loss = self._loss(batch.to(self.device))
                (loss / len(batches)).backward()
            losses.append(loss.detach())
        nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        for optimiser in self.scheduled.values():
            for group in optimiser.param_groups:
                group["lr"] = self.learning_rate
        for optimiser in self.optimisers.values():
            optimiser.step()
        self.step += 1
        self.seen += sum(len(batch.indices) for batch in batches) * world()
        self._update_average()
        return torch.stack(losses).mean().item()  # last, for it waits for a GPU

    def _loss(self, batch: Batch) -> Tensor:
        reduced = PRECISION != torch.float32 and native_bfloat16(self.device)
        with torch.autocast(self.device.type, PRECISION, enabled=reduced):
            return self.objective(batch)

    @torch.no_grad()
    def _update_average(self) -> None:
        # A young average would hang on to the start: its memory grows with the number of steps.
        keep = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        ours, theirs = self.average.parameters(), self.network.parameters()
        torch._foreach_lerp_(list(ours), list(theirs), 1 - keep)

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that training needs to resume."""
        tensors: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            tensors |= {f"{name}.{k}": v for k, v in module.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            for index, slots in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{k}": v for k, v in slots.items()}
        return tensors

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors that `state` has after a first step."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name, module in self.modules.items():
            shapes |= {f"{name}.{k}": tuple(v.shape) for k, v in module.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            parameters = [p for group in optimiser.param_groups for p in group["params"]]
            for index, parameter in enumerate(parameters):
                slots = _slots(optimiser, parameter)
                shapes |= {f"{name}.{index}.{slot}": shape for slot, shape in slots.items()}
        return shapes

    def restore(self, tensors: dict[str, Tensor], *, step: int, seen: int) -> None:
        """Restore a `state`, whose tensors have the `expected_shapes`."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        for name, module in self.modules.items():
            module.load_state_dict(part(f"{name}."))
        for name, optimiser in self.optimisers.items():
            slots: dict[int, dict[str, Tensor]] = {}
            for place, value in part(f"{name}.").items():
                index, slot = place.split(".")
                slots.setdefault(int(index), {})[slot] = value
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": slots, "param_groups": groups})
        self.step, self.seen = step, seen


def _slots(optimiser: torch.optim.Optimizer, parameter: Tensor) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the state that an optimiser keeps for a parameter."""
    shape = tuple(parameter.shape)
    if isinstance(optimiser, torch.optim.Muon):
        return {"momentum_buffer": shape}
    return {"step": (), "exp_avg": shape, "exp_avg_sq": shape}

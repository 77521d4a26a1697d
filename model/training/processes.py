"""Training of one network by several processes, and the signals that stop them."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


@contextmanager
def processes(device: str) -> Iterator[torch.device]:
    """Join the processes of torchrun, if there are any, and find the device of this process."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield torch.device(device)
        return
    own = device
    if torch.device(device).type == "cuda":
        own = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(own)
    # Optimisers import this module, whose default arguments keep the process group of the moment.
    # Such a group would outlive `destroy_process_group`, and its threads may abort the process when
    # the interpreter ends.
    importlib.import_module("torch._dynamo")

    dist.init_process_group("nccl" if own.startswith("cuda") else "gloo")
    try:
        yield torch.device(own)
        dist.barrier()  # nobody leaves while another still writes
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Return the rank of this process; rank 0 writes and reports."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def no_sync(objective: nn.Module) -> Any:
    """Return a context without averaging of gradients, for all but the last batch of a step."""
    return objective.no_sync() if dist.is_initialized() else nullcontext()  # type: ignore[operator]


class Warned:
    """A record of the signals that announce the end of a job and of Ctrl-C, which it catches.

    A second Ctrl-C has its usual effect.
    """

    # Slurm sends SIGUSR1, which Windows lacks; there it may be SIGBREAK.
    NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGBREAK")
    SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))

    def __enter__(self) -> Warned:
        self.seen = False
        self.before = {s: signal.signal(s, self._note) for s in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        before = self.before[signal.Signals(number)]
        if self.seen and number == signal.SIGINT and callable(before):
            before(number, frame)
        self.seen = True

    def anywhere(self, device: torch.device) -> bool:
        """Return whether any process was warned; all processes must stop at the same step."""
        if not dist.is_initialized():
            return self.seen
        flag = torch.tensor(float(self.seen), device=device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

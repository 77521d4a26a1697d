"""Where to compute and how: devices by name, their precision, and the threads of a CPU."""

from __future__ import annotations

import threading

import torch

from ..errors import PlanError


def choose_device(name: str) -> torch.device:
    """A device by name; ``auto`` is the first GPU if there is one, Apple's included, else the CPU.

    Raises:
        PlanError: no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise PlanError(f"device {name!r} is not available here: try `device` cpu") from error
    return device


def gpus(device: str) -> int:
    """How many GPUs ``device`` may mean: all of them, one that is numbered, or none."""
    if device == "cpu" or not torch.cuda.is_available():
        return 0
    return torch.cuda.device_count() if device in ("auto", "cuda") else 1


def place(device: str) -> tuple[str, str]:
    """A device by name and the precision to compute in: bfloat16 where it is native, else float32.

    Raises:
        PlanError: no such device here.
    """
    chosen = choose_device(device)
    if chosen.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        native = native and chosen.type == "cpu"
    return str(chosen), "bfloat16" if native else "float32"


class _OneThread:
    """A context in which torch computes with one thread in whichever threads are inside.

    How many threads compute a convolution decides its last bits. The number is a setting of the
    process, and of each thread that has begun to compute: it is changed for those inside, and set
    back when the last one leaves.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            now = torch.get_num_threads()
            if now != 1:
                self._before = self._before or now
                torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._before:
                torch.set_num_threads(self._before)
                self._before = None


one_thread = _OneThread()

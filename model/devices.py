"""Devices by name, the precision of their arithmetic, and the number of threads on a CPU."""

from __future__ import annotations

import os
import threading

import torch

from ..errors import PlanError

# On Linux, let torch ask for huge pages: the features of a window are large, short-lived arrays,
# and with pages of 4 KB the system needs a third as long to provide them as the network to run.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def choose_device(name: str) -> torch.device:
    """Return a device by name; ``auto`` is the first GPU (CUDA or Apple's), else the CPU.

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
    """Return how many GPUs ``device`` may mean: all of them, one that is numbered, or none."""
    if device == "cpu" or not torch.cuda.is_available():
        return 0
    return torch.cuda.device_count() if device in ("auto", "cuda") else 1


def place(device: str) -> tuple[str, str]:
    """Return a device and its precision: bfloat16 if the device computes it natively, else float32.

    Raises:
        PlanError: no such device here.
    """
    chosen = choose_device(device)
    return str(chosen), "bfloat16" if native_bfloat16(chosen) else "float32"


def native_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16; without them, float32 is faster.

    Metal counts as a device without them, because its bfloat16 was not tried.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return has and device.type == "cpu"


def native_precision(device: torch.device) -> torch.autocast:
    """Return a context of arithmetic in the precision that `place` selects for a device."""
    return torch.autocast(device.type, torch.bfloat16, enabled=native_bfloat16(device))


# Held while a GPU computes a window, whose features fill its memory. Meanwhile, other threads
# prepare the next windows and encode tiles.
gpu_turn = threading.Lock()


class _OneThread:
    """A context in which torch computes with one thread, for every thread that has entered it.

    The number of threads that compute a convolution determines its last bits. It is a setting of
    the process and of each thread that has begun to compute. The context changes it for the threads
    inside, and restores it when the last one leaves.
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

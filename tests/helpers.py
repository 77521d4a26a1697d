"""What several tests share: made-up pictures, and what a level of a pyramid should be."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from skimage.draw import disk

# Seconds after which a test takes a program to be stuck. No test depends on them: a busy machine
# needs far less.
PATIENCE = 600
DESCRIPTION = "synthetic & <not> for diagnosis: 0.5 µm, é"
SETTINGS = dict(mpp=0.5, description=DESCRIPTION, tile=64)
SIZES = [(203, 301), (102, 151), (51, 76), (26, 38)]
COLOURS = np.array([[230, 190, 220], *[[90 + 15 * t, 60 + 10 * t, 150] for t in range(1, 7)]])


def tissue(h: int, w: int) -> np.ndarray:
    """Smooth pink with violet discs, uint8 (h, w, 3)."""
    y, x = np.mgrid[:h, :w]
    disc = ((y % 40 - 20) ** 2 + (x % 50 - 25) ** 2 < 120)[..., None]
    pink = np.stack([225 + 10 * np.sin(x / 30), 160 + 15 * np.cos(y / 25), 200 + 0 * x], -1)
    return np.where(disc, [110, 70, 150], pink).astype(np.uint8)


def labelled_tissue(
    size: tuple[int, int], *, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (h, w, 3), instances and types (h, w): round nuclei of all types on pink."""
    rng = np.random.default_rng(seed)
    instances, types = np.zeros(size, np.int32), np.zeros(size, np.uint8)
    number = 0
    for y in range(12, size[0] - 8, 20):
        for x in range(12, size[1] - 8, 20):
            number += 1
            where = disk((y, x), rng.uniform(4, 7), shape=size)
            instances[where], types[where] = number, number % 6 + 1
    image = COLOURS[types] + rng.normal(0, 6, (*size, 3))
    return np.clip(image, 0, 255).astype(np.uint8), instances, types


def mean_of_four(image: np.ndarray) -> np.ndarray:
    """What a level should be, by way of float64."""
    h, w = image.shape[:2]
    even = np.pad(image, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge").astype(float)
    blocks = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, 3)
    return np.floor(blocks.mean(axis=(1, 3)) + 0.5).astype(np.uint8)


def wait_for(
    condition: Callable[[], object],
    process: subprocess.Popen | None = None,
    *,
    every: float = 0.01,
) -> None:
    """Wait until a condition holds, which must be before ``process`` ends.

    every: seconds between two looks.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {process.communicate()}")
        assert time.monotonic() < deadline
        time.sleep(every)


class Failing:
    """An image that breaks off half-way."""

    shape, dtype = (256, 64, 3), np.dtype("u1")

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, rows: slice) -> np.ndarray:
        if rows.start >= 128:
            raise self.error
        return np.zeros((64, 64, 3), np.uint8)


class Terminal:
    """A terminal that nobody looks at: programs write to the file number ``inner``."""

    def __init__(self) -> None:
        import fcntl
        import termios

        self._outer, self.inner = os.openpty()
        fcntl.ioctl(self.inner, termios.TIOCSWINSZ, b"\x18\0\x78\0\0\0\0\0")  # 24 x 120

    def shown(self) -> str:
        """What was written up to now."""
        os.set_blocking(self._outer, False)
        parts = []
        with suppress(BlockingIOError):
            while part := os.read(self._outer, 100_000):
                parts.append(part)
        return b"".join(parts).decode().replace("\r\n", "\n")

    def close(self) -> None:
        os.close(self._outer)
        os.close(self.inner)

"""The TensorBoard logs of a run: loss, learning rate and sample pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ...errors import NasdmError
from ..devices import native_precision
from ..diffusion import Condition
from ..families import denoiser_of
from ..pixels import to_image
from ..samplers import karras_sigmas, sample
from .data import Samples
from .trainer import Trainer

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVERY = 50  # steps between two points of a curve
COLUMNS = 8  # pictures beside each other


@contextmanager
def open_board(folder: Path, start: int) -> Iterator[SummaryWriter]:
    """Open a log writer in ``folder``; entries of an earlier run after ``start`` are dropped.

    Raises:
        NasdmError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise NasdmError(
            "training writes logs with tensorboard, which is not installed: "
            "pip install 'nasdm-wsi[train]'"
        ) from error
    with SummaryWriter(str(folder), purge_step=start) as board:
        yield board


def write_curves(board: SummaryWriter, trainer: Trainer, loss: float) -> None:
    """Write loss and learning rate, every `EVERY` steps."""
    if trainer.step % EVERY == 0:
        board.add_scalar("loss", loss, trainer.seen)
        board.add_scalar("learning rate", trainer.learning_rate, trainer.seen)


def write_samples(
    board: SummaryWriter, trainer: Trainer, samples: Samples, names: tuple[str, ...]
) -> None:
    """Write real pictures above, and samples of the averaged network from their planes below."""
    grid = sample_grid(trainer.average, samples, names)
    board.add_image("samples", grid, trainer.seen, dataformats="HWC")


@torch.no_grad()
def sample_grid(network: nn.Module, samples: Samples, names: tuple[str, ...]) -> np.ndarray:
    """Return uint8 (2 c, COLUMNS c, 3): real crops above, samples from their planes below.

    names: those of the network's planes.
    """
    device = next(network.parameters()).device
    pixels, planes, style = map(
        torch.stack, zip(*(samples[i] for i in range(COLUMNS)), strict=True)
    )
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    condition = Condition(planes.to(device), style.to(device), samples.planes).widened(names)
    with native_precision(device):
        drawn = sample(
            denoiser_of(network), noise.to(device), condition, sigmas=karras_sigmas(12)
        ).cpu()
    rows = [np.hstack([to_image(picture.numpy()) for picture in row]) for row in (pixels, drawn)]
    return np.vstack(rows)

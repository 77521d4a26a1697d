"""Conversion of checkpoints of the published training code to the checkpoints of this package."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints import Training
from ..errors import CheckpointError, OutputError
from ..output import check_writable, keep_inputs
from .checkpoint import check_shapes, header_of, save, shapes_of
from .config import PAPER, SemanticConfig
from .semantic_unet import SemanticUNet, config_of


def convert(source: Path, out: Path, *, overwrite: bool = False) -> SemanticConfig:
    """Convert ``source``, a state of the published network, into a checkpoint of this package.

    ``source`` is a file that ``torch.save`` wrote of the state, plain or averaged (EMA). It is a
    pickle, and only tensors are loaded from it. The function returns the configuration of the
    network, which follows from the shapes of the tensors.

    Raises:
        CheckpointError: no such file, a file with more than tensors, or of another architecture;
            the message gives the first names that differ.
        OutputError: ``out`` exists and ``overwrite`` is not given, is ``source``, or cannot be
            written.
    """
    source, out = Path(source), Path(out)
    if out.suffix != ".safetensors":
        raise OutputError(f"{out}: the output must end in .safetensors")
    keep_inputs([out], [source])
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists: choose another name or give `overwrite`")
    check_writable(out)
    tensors = _read_state(source)
    shapes = shapes_of(tensors)
    try:
        network = _skeleton(config_of(shapes))
    except (KeyError, ValueError, IndexError, ZeroDivisionError):
        network = _skeleton(PAPER)
    check_shapes(source, shapes_of(network.state_dict()), shapes, "the published layout")
    save(out, tensors, header_of(network, training=Training(source=source.name)))
    return network.config


def _read_state(source: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{source} does not exist") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{source} holds more than tensors, or is damaged: nothing was loaded; "
            "save its state_dict alone"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{source} is damaged or not a torch checkpoint") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"{source} is not a state_dict: a mapping of names to tensors is needed"
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}


def _skeleton(config: SemanticConfig) -> SemanticUNet:
    """Build a network whose tensors have no values."""
    with torch.device("meta"):
        return SemanticUNet(config)

"""Checkpoints of the published training code, converted to ours."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, OutputError
from .checkpoint import save
from .config import PAPER, SemanticConfig
from .semantic_unet import SemanticUNet, config_of

NAMED = 3  # differences that an error names


def convert(source: Path, out: Path, *, overwrite: bool = False) -> SemanticConfig:
    """Write the weights in ``source``, a state of the published network, as a checkpoint of ours.

    ``source`` is what ``torch.save`` made of the state, plain or averaged (EMA). It is a pickle:
    nothing but tensors is loaded from it. Returns the shape of the network, read off the tensors.

    Raises:
        CheckpointError: no such file, a file with more than tensors, or of another architecture;
            the first names that differ are told.
        OutputError: ``out`` exists and ``overwrite`` is not given, or cannot be written.
    """
    source, out = Path(source), Path(out)
    if out.suffix != ".safetensors":
        raise OutputError(f"{out}: the output must end in .safetensors")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists: choose another name or give `overwrite`")
    tensors = _read_state(source)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    try:
        config = config_of(shapes)
        expected = _shapes_of(config)
    except (KeyError, ValueError, IndexError, ZeroDivisionError):
        config, expected = PAPER, _shapes_of(PAPER)
    if differ := [n for n in {**expected, **shapes} if expected.get(n) != shapes.get(n)]:
        told = "; ".join(_difference(n, expected.get(n), shapes.get(n)) for n in differ[:NAMED])
        raise CheckpointError(
            f"{source} is no semantic U-Net of the published layout, "
            f"{len(differ)} tensors differ: {told}"
        )
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save(out, contiguous, {"family": "semantic", "network": asdict(config), "source": source.name})
    return config


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
        raise CheckpointError(f"{source} is damaged or no checkpoint of torch") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{source} is no state_dict: a mapping of names to tensors is needed")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}


def _shapes_of(config: SemanticConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {n: tuple(t.shape) for n, t in SemanticUNet(config).state_dict().items()}


def _difference(name: str, expected: tuple | None, found: tuple | None) -> str:
    if found is None:
        return f"{name} is missing"
    if expected is None:
        return f"{name} is not known"
    return f"{name} is {list(found)} in place of {list(expected)}"

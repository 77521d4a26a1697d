"""Checkpoints: safetensors, written atomically, the configuration inside as JSON.

Two kinds share the format. Weights (``weights.safetensors``) hold the averaged network in float16
and are what `render` loads. A training checkpoint (``last.safetensors``) holds everything that
training needs to go on as if it had never stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import CheckpointError, OutputError
from .config import LocalConfig, SemanticConfig
from .local_unet import LocalUNet
from .semantic_unet import SemanticUNet

FORMAT = "nasdm-wsi-1"  # the key of the header; a single one, for safetensors does not sort
FAMILIES: dict[str, tuple[type, type[nn.Module]]] = {
    "local": (LocalConfig, LocalUNet),
    "semantic": (SemanticConfig, SemanticUNet),
}
SHIPPED = Path(__file__).parent / "weights" / "small.safetensors"


def save(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header; the file appears whole or not at all.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        save_file(tensors, part, metadata={FORMAT: json.dumps(header)})
        with open(part, "r+b") as file:  # Windows flushes no file that is open for reading
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error}") from error


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON header of a checkpoint.

    Raises:
        CheckpointError: missing, damaged, or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if FORMAT not in metadata:
                raise CheckpointError(
                    f"{path} is a safetensors file, but no checkpoint of nasdm-wsi"
                )
            return {k: file.get_tensor(k) for k in file.keys()}, json.loads(metadata[FORMAT])
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except (OSError, SafetensorError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} is damaged or no safetensors file ({error}): copy it again"
        ) from error


def save_weights(path: Path, network: nn.Module, facts: dict[str, Any]) -> None:
    """Write a network for rendering; ``facts`` (training, data, ...) travel in the header."""
    state = {k: v.to(torch.float16).contiguous() for k, v in network.state_dict().items()}
    save(path, state, {**shape_of(network), **facts})


def shape_of(network: nn.Module) -> dict[str, Any]:
    """Family and configuration of a network, as they stand in a header."""
    family = next(name for name, (_, kind) in FAMILIES.items() if isinstance(network, kind))
    return {"family": family, "network": asdict(network.config)}  # type: ignore[call-overload]


def load_network(path: str | Path = SHIPPED) -> nn.Module:
    """The network of any weights file, of either family: float32, on the CPU, in eval mode.

    A `semantic` network is called as ``network(x, t, condition)`` with x (n, 3, h, w) in [-1, 1],
    t (n,) in steps of the 1000-step schedule and condition (n, c, h, w); a `local` one as
    `LocalUNet.forward` says.

    Raises:
        CheckpointError: missing, damaged, or of another architecture.
    """
    return load_weights(Path(path))[0]


def load_weights(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """As `load_network`, with the file's header."""
    tensors, header = load(path)
    if header.get("family") not in FAMILIES or "network" not in header:
        raise CheckpointError(f"{path} holds no weights for rendering: use the run's weights file")
    network = network_of(header)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise CheckpointError(f"{path} does not fit its own configuration: {first}") from error
    return network.float().eval().requires_grad_(False), header


def network_of(header: dict[str, Any]) -> nn.Module:
    """A fresh network of the shape a header describes."""
    configuration, network = FAMILIES[header["family"]]
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in header["network"].items()
    }
    return network(configuration(**values))


def checksum(path: Path) -> str:
    """SHA-256 of a file, the first 16 hexadecimal digits: names weights in provenance."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

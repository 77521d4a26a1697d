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
from torch import Tensor

from ..errors import CheckpointError, OutputError
from .config import LocalConfig
from .diffusion import Denoiser
from .local_unet import LocalUNet

FORMAT = "nasdm-wsi-1"
SHIPPED = Path(__file__).parent / "weights" / "small.safetensors"


def save(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header; the file appears whole or not at all.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        save_file(tensors, part, metadata={"format": FORMAT, "header": json.dumps(header)})
        with open(part, "rb") as file:
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
            if metadata.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} is a safetensors file, but no checkpoint of nasdm-wsi"
                )
            return {k: file.get_tensor(k) for k in file.keys()}, json.loads(metadata["header"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except (OSError, SafetensorError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} is damaged or no safetensors file ({error}): copy it again"
        ) from error


def save_weights(path: Path, network: LocalUNet, facts: dict[str, Any]) -> None:
    """Write a network for rendering; ``facts`` (training, data, ...) travel in the header."""
    state = {k: v.to(torch.float16).contiguous() for k, v in network.state_dict().items()}
    save(path, state, {"family": "local", "network": asdict(network.config), **facts})


def load_denoiser(path: Path = SHIPPED) -> tuple[Denoiser, dict[str, Any]]:
    """The denoiser of a weights file, float32, on the CPU, in eval mode, and the file's header.

    Raises:
        CheckpointError: missing, damaged, or of another architecture.
    """
    tensors, header = load(path)
    if header.get("family") != "local" or "network" not in header:
        raise CheckpointError(f"{path} holds no weights for rendering: use the run's weights file")
    network = network_of(header)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise CheckpointError(f"{path} does not fit its own configuration: {first}") from error
    return Denoiser(network.float().eval().requires_grad_(False)), header


def network_of(header: dict[str, Any]) -> LocalUNet:
    """A fresh network of the shape a checkpoint's header describes."""
    shape: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in header["network"].items()
    }
    return LocalUNet(LocalConfig(**shape))


def checksum(path: Path) -> str:
    """SHA-256 of a file, the first 16 hexadecimal digits: names weights in provenance."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

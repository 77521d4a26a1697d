"""Checkpoints: safetensors files with a typed header, which are written completely or not at all.

Two kinds share the format. Weights (``weights.safetensors``) hold the averaged network in float16
and are what `render` loads. A training checkpoint (``last.safetensors``) holds everything that
training needs to resume as if it had never stopped. `nasdm_wsi.checkpoints` describes the header.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checkpoints import KEY, Header, from_json, open_checkpoint, parse_header
from ..errors import CheckpointError
from ..output import whole_or_nothing
from .families import FAMILIES, build, family_of

WEIGHTS = Path(__file__).parent / "weights"  # those in the package
SHIPPED = WEIGHTS / "small.safetensors"  # those that paint if nothing else is asked for
LAYOUT = "layout-"  # begins the names of those that place nuclei or regions, for `layout`
NAMED = 3  # differences that an error names

Shapes = Mapping[str, tuple[int, ...]]


def save(path: Path, tensors: dict[str, Tensor], header: Header) -> None:
    """Write tensors and a header that contains the digest of the tensors.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    header = replace(header, sha256=digest(tensors))
    with whole_or_nothing(path) as part:
        try:
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, part, metadata={KEY: header.text()})
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load(path: Path) -> tuple[dict[str, Tensor], Header]:
    """Return the tensors and the header of a checkpoint.

    Raises:
        CheckpointError: missing, damaged, not of this package, or with tensors that are not finite.
    """
    path = Path(path)
    with open_checkpoint(path, "pt") as file:
        header = parse_header(file.metadata(), path)
        # Copies: a tensor that maps its file would keep Windows from replacing it.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    if header.sha256 is not None and digest(tensors) != header.sha256:
        raise CheckpointError(
            f"{path} is damaged: its tensors are not those that were saved; copy it again"
        )
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{path}: {name} holds {tensor.dtype}, not floating-point numbers"
            )
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinity: take other weights")
    return tensors, header


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and bytes of tensors, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def header_of(network: nn.Module, *, kind: str = "weights", **facts: Any) -> Header:
    """Return the header of a network; ``facts`` are fields that it does not determine."""
    family = family_of(network)
    facts.setdefault("sampler", family.sampler)
    return Header(kind=kind, family=family.name, network=asdict(network.config), **facts)  # type: ignore[call-overload]


def save_weights(path: Path, network: nn.Module, **facts: Any) -> None:
    """Write a network for rendering, in float16; ``facts`` as in `header_of`.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    state = {k: v.to(torch.float16) for k, v in network.state_dict().items()}
    save(path, state, header_of(network, **facts))


def find_weights(weights: str | Path) -> Path:
    """Return the path of a weights file, given as a path or as a name of weights in the package.

    Raises:
        CheckpointError: neither a file nor the name of weights in the package.
    """
    path = Path(weights)
    if path.exists():
        return path
    named = {file.stem: file for file in sorted(WEIGHTS.glob("*.safetensors"))}
    if str(weights) not in named:
        painters = [name for name in named if not name.startswith(LAYOUT)]
        raise CheckpointError(
            f"{weights} does not exist: give a file of weights or a name, {' or '.join(painters)}"
        )
    return named[str(weights)]


def load_network(path: str | Path = SHIPPED) -> nn.Module:
    """Load the network of a weights file of either family: float32, on the CPU, in eval mode.

    A `semantic` network is called as ``network(x, t, condition)`` with x (n, 3, h, w) in [-1, 1],
    t (n,) in steps of the 1000-step schedule and condition (n, c, h, w); a `local` one as
    `LocalUNet.forward` says.

    Raises:
        CheckpointError: missing, damaged, or of another architecture.
    """
    return load_weights(Path(path))[0]


def load_weights(path: Path) -> tuple[nn.Module, Header]:
    """Load a network as `load_network` does, and return the header of the file too."""
    tensors, header = load(path)
    if header.kind != "weights":
        raise CheckpointError(f"{path} holds no weights for rendering: use the run's weights file")
    network = network_of(header, path)
    check_shapes(path, shapes_of(network.state_dict()), shapes_of(tensors))
    network.load_state_dict(tensors)
    return network.float().eval().requires_grad_(False), header


def network_of(header: Header, path: Path) -> nn.Module:
    """Build a new network of the shape that the header of the file ``path`` describes.

    Raises:
        CheckpointError: an unknown family, or a configuration that does not fit the family.
    """
    if header.family not in FAMILIES:
        raise CheckpointError(
            f"{path}: family {header.family!r} is none of {', '.join(FAMILIES)}: update nasdm-wsi"
        )
    try:
        config: Any = from_json(FAMILIES[header.family].configuration, header.network)
    except ValueError as error:
        raise CheckpointError(f"{path}: the header is damaged ({error})") from error
    network = build(config)
    if family_of(network).planes_of(config) != len(header.planes):
        raise CheckpointError(
            f"{path}: the header is damaged (it names {len(header.planes)} planes, "
            f"and its network takes {family_of(network).planes_of(config)})"
        )
    return network


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Return the shapes of tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_shapes(path: Path, expected: Shapes, found: Shapes, what: str = "its header") -> None:
    """Refuse tensors that are missing, unknown or of another shape, and name the first of them.

    Raises:
        CheckpointError: ``found`` in the file ``path`` is not what is ``expected`` of ``what``.
    """
    differ = [n for n in {**expected, **found} if expected.get(n) != found.get(n)]
    if differ:
        named = "; ".join(_difference(n, expected.get(n), found.get(n)) for n in differ[:NAMED])
        raise CheckpointError(f"{path} does not fit {what}, {len(differ)} tensors differ: {named}")


def _difference(name: str, expected: tuple | None, found: tuple | None) -> str:
    if found is None:
        return f"{name} is missing"
    if expected is None:
        return f"{name} is not known"
    return f"{name} is {list(found)} instead of {list(expected)}"


def checksum(path: Path) -> str:
    """Return the first 16 hex digits of a file's SHA-256, which identify weights."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

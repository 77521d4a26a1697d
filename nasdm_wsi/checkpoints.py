"""The typed header of a checkpoint, stored as JSON in the metadata of a safetensors file.

The header records three facts of a model that the engine does not define: its pixel size, the names
of its planes and the number of channels that its solver keeps. Reading a header needs no torch.
"""

from __future__ import annotations

import json
import math
import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open

from .annotations.types import PLANES, TYPES
from .errors import CheckpointError

FORMAT = 2
KEY = "nasdm-wsi"  # of the metadata; a single one, for safetensors does not sort
OLD_KEY = "nasdm-wsi-1"  # of format 1
MPP = 0.5  # at which every network of format 1 paints, unless it was trained at 10x

TYPES_1 = ("neutrophil", "epithelial", "lymphocyte", "plasma", "eosinophil", "connective")
PLANES_1 = (*TYPES_1, "edge", "nuclei known")  # of every network of format 1

TRAINING_FACTS = ("preset", "seed", "dataset", "teacher", "step", "seen", "source")  # of format 1

T = TypeVar("T")


@dataclass(frozen=True)
class Sampler:
    """The default sampler of a network.

    solver: name of a solver step (`model.samplers.SOLVERS`). steps: how many of them.
    channels: of the state that is kept between two steps.
    """

    solver: str
    steps: int
    channels: int


@dataclass(frozen=True)
class Training:
    """The origin of a network.

    settings: those of `model.config.TrainingConfig`. step, seen: optimiser steps and samples.
    teacher: checksum of the weights that a later stage learnt from. source: name of the file that
    was converted, for networks that were trained elsewhere.
    """

    preset: str | None = None
    seed: int | None = None
    dataset: str | None = None
    teacher: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    seen: int = 0
    source: str | None = None


@dataclass(frozen=True)
class Header:
    """The header of a checkpoint.

    kind: "weights" for rendering, or "training", with everything that training needs to resume.
    family, network: name of the family and configuration of the network.
    mpp: micrometres per pixel of the pictures that the network paints.
    types: names of the nucleus types. planes: names of the conditioning planes, in order.
    halo: pixels of context that a block needs on each side, if it was measured.
    guidance: scale of the guidance that is distilled into the network.
    sha256: digest of the tensors; None in files of format 1.
    """

    kind: str
    family: str
    network: dict[str, Any]
    sampler: Sampler
    mpp: float = MPP
    types: tuple[str, ...] = TYPES[1:]
    planes: tuple[str, ...] = PLANES
    halo: int | None = None
    guidance: float = 0.0
    training: Training = field(default_factory=Training)
    sha256: str | None = None
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.kind not in ("weights", "training"):
            raise ValueError(f"kind {self.kind!r} is neither 'weights' nor 'training'")
        if not 0 < self.mpp <= 100:
            raise ValueError(f"a pixel size of {self.mpp} micrometres")
        if not self.planes or len(set(self.planes)) < len(self.planes):
            raise ValueError("no names of planes, or one of them twice")
        if self.halo is not None and not 0 < self.halo <= 4096:
            raise ValueError(f"a halo of {self.halo} pixels")
        if not 0 <= self.guidance <= 100:
            raise ValueError(f"guidance {self.guidance}")

    def text(self) -> str:
        """Return the header as JSON."""
        return json.dumps(asdict(self))


def parse_header(metadata: dict[str, str] | None, path: Path) -> Header:
    """Return the header in the metadata of a safetensors file, also of a file of format 1.

    Raises:
        CheckpointError: no checkpoint of this package, of a newer format, or with a damaged header.
    """
    metadata = metadata or {}
    if not metadata.keys() & {KEY, OLD_KEY}:
        raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of nasdm-wsi")
    try:
        if KEY not in metadata:
            return _converted(json.loads(metadata[OLD_KEY]))
        values = json.loads(metadata[KEY])
        if isinstance(values, dict) and values.get("format", FORMAT) != FORMAT:
            raise ValueError(f"format {values['format']!r} is not {FORMAT}: update nasdm-wsi")
        return from_json(Header, values)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path}: the header is damaged ({_line(reason)})") from error


def read_header(path: Path) -> tuple[Header, dict[str, tuple[int, ...]]]:
    """Return the header of a checkpoint and the shapes of its tensors; their values are not read.

    Raises:
        CheckpointError: missing, damaged, or no checkpoint of this package.
    """
    with open_checkpoint(path, "np") as file:
        header = parse_header(file.metadata(), path)
        return header, {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def open_checkpoint(path: Path, framework: str) -> Any:
    """Return an open safetensors file, for the framework "np" or "pt".

    Raises:
        CheckpointError: missing or damaged.
    """
    try:
        return safe_open(path, framework=framework)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file ({_line(error)}): copy it again"
        ) from error


def from_json(kind: type[T], values: Any) -> T:
    """Build a dataclass from parsed JSON; lists become tuples, and every type is checked.

    Raises:
        ValueError: a field that is missing, unknown or of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{kind.__name__} is not a JSON object")
    hints = typing.get_type_hints(kind)
    if unknown := [name for name in values if name not in hints]:
        raise ValueError(f"{unknown[0]!r} is not known to {kind.__name__}")
    given = {name: _typed(hints[name], value, name) for name, value in values.items()}
    try:
        return kind(**given)
    except TypeError as error:
        absent = [f.name for f in fields(kind) if f.name not in given]  # type: ignore[arg-type]
        raise ValueError(f"{absent[0]!r} is missing in {kind.__name__}") from error


def _typed(hint: Any, value: Any, name: str) -> Any:
    """Return ``value`` if it has the type ``hint``, a type used in these dataclasses."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _typed(arguments[0], value, name)
    if is_dataclass(hint):
        return from_json(hint, value)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_typed(arguments[0], item, name) for item in value)
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if origin is dict and isinstance(value, dict) or type(value) is hint and hint is not float:
        return value
    raise ValueError(f"{name!r} is {_line(value)[:40]!r}, which is not of type {_name_of(hint)}")


def _name_of(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint)


def _converted(old: Any) -> Header:
    """Convert the header of a file of format 1, which has fewer fields and other names."""
    if not isinstance(old, dict):
        raise ValueError("Header is not a JSON object")
    network, settings = old["network"], old.get("training", {})
    if not isinstance(network, dict) or not isinstance(settings, dict):
        raise ValueError("network and training are not JSON objects")
    # Training checkpoints did not name their family.
    family = old.get("family", "local" if "embedding" in network else "semantic")
    if family == "local":
        network = {"planes": len(PLANES_1)} | network
    return from_json(
        Header,
        {
            "kind": "weights" if "family" in old else "training",
            "family": family,
            "network": network,
            "sampler": {"solver": "dpmpp_2m", "steps": 18 if family == "semantic" else 8}
            | {"channels": 6},
            "mpp": 2 * MPP if settings.get("magnification") == 10 else MPP,
            "types": TYPES_1,
            "planes": PLANES_1,
            "halo": old.get("halo"),
            "guidance": settings.get("guidance", 0.0),
            "training": {
                "settings": settings,
                **{key: old[key] for key in TRAINING_FACTS if key in old},
            },
        },
    )


def _line(text: object) -> str:
    """Any text on one line."""
    return " ".join(str(text).split())

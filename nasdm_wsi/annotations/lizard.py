"""Lizard's label files: MATLAB files of instances and their classes.

Lizard: A Large-Scale Dataset for Colonic Nuclear Instance Segmentation and Classification, Graham
et al. 2021.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import AnnotationError
from ..isolated import IsolatedError
from .contents import Contents, Format, Reading, Source
from .dense import dense, distinct
from .labels import from_labels, named, of_image
from .nuclei import Nuclei, check_mpp
from .parsers import MAX_PIXELS, mat_variables
from .types import TYPES

FIELDS = ("inst_map", "id", "class")
MPP = 0.5  # of Lizard


def read_mat(path: str | Path, *, mpp: float = MPP, max_pixels: int = MAX_PIXELS) -> Nuclei:
    """Return the nuclei of a Lizard ``.mat``; ``mpp`` is that of its image.

    Raises:
        AnnotationError: as `read_mat_labels`; no nuclei; an impossible ``mpp``.
    """
    check_mpp(mpp, path)
    nuclei = from_labels(*_read_mat(Path(path), max_pixels), mpp=mpp)
    if not len(nuclei):
        raise AnnotationError(f"{path}: no nuclei found: check that inst_map is filled")
    return nuclei


def read_mat_labels(
    path: str | Path, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, np.ndarray]:
    """Return a Lizard ``.mat`` as instances int32 (h, w), 0 = none, and types uint8 (h, w).

    Reads ``inst_map`` (h, w), ``id`` (n, 1) and ``class`` (n, 1); other fields are ignored.

    Raises:
        AnnotationError: no such file or fields, or nuclei without a type between 1 and 6.
    """
    instances, types_by_id = _read_mat(Path(path), max_pixels)
    return instances, types_by_id[instances]


def _read_mat(path: Path, max_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return instances int32 (h, w) and a table from instance to type, uint8 (largest id + 1,)."""
    if not path.is_file():
        raise AnnotationError(f"{path}: no such file: check the path")
    try:
        fields = mat_variables(path, FIELDS, max_pixels)
        instances = fields.pop("inst_map").astype(np.int32, copy=False)
        ids, types = fields["id"].ravel().astype(np.int64), fields["class"].ravel()
    except KeyError as error:
        raise AnnotationError(
            f"{path}: {error} is missing: Lizard's fields inst_map, id and class are needed"
        ) from error
    except (IsolatedError, TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(
            f"{path}: not a complete MATLAB file ({error}): export it again"
        ) from error
    typed = (
        np.isin(types, range(1, len(TYPES))) & (ids > 0) if ids.shape == types.shape else ids < 0
    )
    if not typed.all():
        raise AnnotationError(
            f"{path}: each id needs one class from 1 to {len(TYPES) - 1}: correct the file"
        )
    if missing := sorted(set(distinct(instances).tolist()) - {0, *ids.tolist()}):
        raise AnnotationError(
            f"{path}: {len(missing)} nuclei of inst_map are missing from id, "
            f"the first is {missing[0]}: correct the file"
        )
    table = np.zeros(max(ids.max(initial=0), 0) + 1, np.uint8)
    table[ids] = types
    return instances, table


def _sniff(source: Source) -> bool:
    return source.magic.startswith(b"MATLAB") or source.path.suffix.lower() == ".mat"


def _read(source: Source, reading: Reading) -> Contents:
    instances, types = _read_mat(source.path, source.max_pixels)
    instances, ids = dense(instances)
    nuclei = named(instances, [TYPES[types[k]] for k in ids], reading)
    return Contents(FORMAT.name, of_image(nuclei, instances.shape), reading.findings)


FORMAT = Format(
    "Lizard labels",
    _sniff,
    _read,
    pixel_size=lambda source, slide_mpp: slide_mpp or MPP,
)

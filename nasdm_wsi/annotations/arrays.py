"""Label images and arrays: instances as numbers, with or without classes.

What an array holds is told by its shape, with tiles first where there are several:

    (h, w)       instances of one class, "nuclei": StarDist, Cellpose, binary masks
    (h, w, 2)    instances and Lizard's classes 1 to 6: Lizard, CoNIC
    (h, w, 6)    instances of each PanNuke class, and background

Tiles are laid out from left to right and from top to bottom in a square as far as it goes, without
gaps, so that the slide can be cut into the same tiles again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from ..errors import AnnotationError
from .classes import UNTYPED, ClassTable, Contents
from .lizard import from_labels, read_mat_labels
from .nuclei import TYPES, Nuclei, check_mpp

PANNUKE = ("Neoplastic", "Inflammatory", "Connective", "Dead", "Epithelial")
# The resolution of those data sets; a label image has that of its picture, which only users know.
LIZARD_MPP, PANNUKE_MPP = 0.5, 0.25
_SHAPES = "choose one of (h, w), (h, w, 2) as of Lizard, (h, w, 6) as of PanNuke, or tiles of these"


def read_labels(path: Path, *, mpp: float | None, classes: ClassTable) -> Contents:
    """The contents of a label image (PNG, TIFF), an array (``.npy``) or a Lizard ``.mat``.

    Each 4-connected piece of an instance becomes a nucleus. ``mpp`` may be left out for the arrays
    of Lizard (0.5) and PanNuke (0.25).

    Raises:
        AnnotationError: a damaged file, or one that holds no labels; ``mpp`` missing or absurd.
    """
    kind, stack = _as_stack(_read(path), path)
    default = {"Lizard": LIZARD_MPP, "PanNuke": PANNUKE_MPP}.get(kind)
    mpp = check_mpp(mpp or default, path)
    columns = math.ceil(math.sqrt(len(stack)))
    height, width = stack.shape[1:3]
    parts = [Nuclei.from_polygons([], [], mpp=mpp)]
    for k, tile in enumerate(stack):
        for instances, names in _layers(np.asarray(tile), kind):
            nuclei = _nuclei(instances, names, mpp, classes)
            parts.append(nuclei.shifted(k // columns * height, k % columns * width))
    kind = {"instances": "label image", "Lizard": "Lizard labels"}.get(kind, "PanNuke masks")
    if len(stack) > 1:
        kind += f", {len(stack)} tiles in rows of {columns}"
    return Contents(str(path), kind, Nuclei.concatenate(parts), classes)


def is_label_image(path: Path) -> bool:
    """Whether a PNG or TIFF is one plane of one channel; a picture of tissue has three."""
    with open(path, "rb") as file:
        head = file.read(26)
    if head.startswith(b"\x89PNG"):
        return head[25:] in (b"\0", b"\3")  # grey, or numbers of a palette
    try:
        with tifffile.TiffFile(path) as tiff:
            return tiff.pages.first.samplesperpixel == 1 and len(tiff.series[0].shape) == 2
    except Exception:  # damaged, or a slide of a kind that tifffile does not know
        return False


def _read(path: Path) -> np.ndarray:
    """The array of a file, perhaps left on disk."""
    with open(path, "rb") as file:
        magic = file.read(8)
    if magic.startswith((b"\x89PNG", b"II", b"MM")) and not is_label_image(path):
        raise AnnotationError(f"{path}: no label image of one channel: {_SHAPES}")
    try:
        if magic.startswith(b"\x93NUMPY"):
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if magic.startswith(b"\x89PNG"):
            with Image.open(path) as image:
                return np.asarray(image)
        if magic.startswith((b"II", b"MM")):
            return tifffile.imread(path)
    except Exception as error:  # three libraries, and each of their codecs has its own
        reason = " ".join(str(error).split())
        raise AnnotationError(
            f"{path}: cannot be read ({reason}): save the labels alone, as PNG, TIFF or .npy"
        ) from error
    return np.stack(read_mat_labels(path), axis=-1)


def _as_stack(array: np.ndarray, path: Path) -> tuple[str, np.ndarray]:
    """What the array is, and as tiles (n, h, w) or (n, h, w, layers)."""
    layers = {2: "Lizard", 6: "PanNuke"}.get(array.shape[-1] if array.ndim in (3, 4) else 0)
    kind = "instances" if array.ndim == 2 else layers
    if kind is None or not array.size:
        size = " x ".join(map(str, array.shape))
        raise AnnotationError(f"{path}: an array of {size} holds no labels: {_SHAPES}")
    if array.dtype.kind not in "buif":
        raise AnnotationError(f"{path}: {array.dtype} is no kind of label: save whole numbers")
    return kind, array[None] if array.ndim < 4 else array


def _layers(tile: np.ndarray, kind: str) -> Iterator[tuple[np.ndarray, Any]]:
    """Instances (h, w), and one class name for all or the type numbers (h, w)."""
    if kind == "instances":
        yield tile, UNTYPED
    elif kind == "Lizard":
        yield tile[..., 0], tile[..., 1]
    else:
        for layer, name in enumerate(PANNUKE):
            yield tile[..., layer], name


def _nuclei(labels: np.ndarray, names: Any, mpp: float, classes: ClassTable) -> Nuclei:
    """The nuclei of one layer, all its instances counted by class."""
    # Numbers may be large and sparse; from here on they are dense, and 0 is background.
    found, instances = np.unique(np.maximum(labels, 0), return_inverse=True)
    instances = instances.reshape(labels.shape) + (found[0] > 0)
    count = int(instances.max())
    if isinstance(names, str):
        each = [names] * count
    else:
        each = [TYPES[k] if k < len(TYPES) else f"class {k}" for k in _commonest(instances, names)]
    numbers = np.array([0, *(max(classes.number(name) or 0, 0) for name in each)])
    return from_labels(instances * (numbers[instances] > 0), numbers, mpp=mpp)


def _commonest(instances: np.ndarray, types: np.ndarray) -> np.ndarray:
    """The type that most pixels of each instance have, instances 1, 2, ... in order."""
    types = types.astype(np.int64)
    base = int(types.max()) + 1
    pairs, counts = np.unique(instances * base + types, return_counts=True)
    pairs = pairs[np.argsort(counts, kind="stable")]
    commonest = np.zeros(int(instances.max()) + 1, np.int64)
    commonest[pairs // base] = pairs % base  # the last one stays
    return commonest[1:]

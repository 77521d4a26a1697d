"""Conversion of labels of any kind to dense numbers, by strips of rows to save memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

STRIP = 1 << 20  # pixels looked at together


def dense(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return instances int32 (h, w), numbered 1, 2, ... without gaps, and the label (n,) of each.

    labels: whole numbers (h, w), large or sparse; 0, negative ones and NaN are background.
    """
    ids = distinct(labels)
    ids = ids[ids > 0]
    instances = np.zeros(labels.shape, np.int32)
    table = None
    if len(ids) and ids[-1] <= labels.size // 2:
        table = np.zeros(int(ids[-1]) + 1, np.int32)
        table[ids.astype(np.int64)] = np.arange(1, len(ids) + 1)
    for rows in strips(labels.shape):
        strip = _positive(labels[rows])
        if table is None:
            number = np.searchsorted(ids, strip, side="right")  # 0 for background
        else:
            number = table[strip if strip.dtype.kind in "iu" else strip.astype(np.int64)]
        instances[rows] = number
    return instances, ids


def distinct(labels: np.ndarray) -> np.ndarray:
    """Return all values (n,) in an array (h, w), in order."""
    found = [np.unique(labels[rows]) for rows in strips(labels.shape)]
    return np.unique(np.concatenate(found)) if found else np.empty(0, labels.dtype)


def _positive(strip: np.ndarray) -> np.ndarray:
    if strip.dtype.kind == "f":
        strip = np.nan_to_num(strip, nan=0.0, posinf=np.inf)
    return np.maximum(strip, 0) if strip.dtype.kind != "b" else strip.astype(np.uint8)


def commonest(instances: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Return the most frequent type of the pixels of each instance 1, 2, ..., in order.

    instances: int (h, w), dense. types: whole numbers (h, w); negative ones and NaN count as 0.

    Raises:
        ValueError: a type does not fit into int32.
    """
    highest = max((float(_positive(types[rows]).max()) for rows in strips(types.shape)), default=0)
    if highest >= 1 << 31:
        raise ValueError(f"{highest:g} is not the number of a type")
    base = int(highest) + 1
    pairs, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for rows in strips(instances.shape):
        inside = instances[rows] > 0
        kinds = _positive(types[rows][inside]).astype(np.int64)
        some, number = np.unique(
            instances[rows][inside] * np.int64(base) + kinds, return_counts=True
        )
        pairs.append(some)
        counts.append(number)
    found, where = np.unique(np.concatenate(pairs), return_inverse=True)
    total = np.bincount(where, np.concatenate(counts), len(found))
    found = found[np.argsort(total, kind="stable")]
    winners = np.zeros(int(instances.max(initial=0)) + 1, np.int64)
    winners[found // base] = found % base  # the last one stays
    return winners[1:]


def strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices of rows that hold about `STRIP` pixels each."""
    rows = max(STRIP // max(shape[1], 1), 1)
    for first in range(0, shape[0], rows):
        yield slice(first, first + rows)

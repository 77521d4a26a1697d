"""Random numbers by seed and place, so that any box alone has those of the whole canvas."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from ..geometry import Box, shape

_OFFSET = 2**31  # there are places left of and above the canvas
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
# The standard deviation of a cubic B-spline field whose coefficients are unit Gaussian noise is
# the integral of the squared spline, 151 / 315, in each direction.
_DEVIATION = 151 / 315


def generator(seed: int, draw: int, row: int, column: int) -> np.random.Generator:
    """Return the generator of one place; each ``draw`` has independent numbers."""
    counter = [0, draw, row + _OFFSET, column + _OFFSET]
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


def uniforms(centres: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return numbers between 0 and 1, float64 (n, count), that depend on points and seed alone.

    centres: float64 (n, 2). The hash is SplitMix64 (Steele and others 2014).
    """
    bits = np.ascontiguousarray(centres + 0.0).view(np.uint64)  # no negative zero
    with np.errstate(over="ignore"):
        state = _mixed(np.uint64(seed) * _GOLDEN + bits[:, 0])
        state = _mixed(state + bits[:, 1])
        steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        hashed = _mixed(state[:, None] + steps)
    return (hashed >> np.uint64(11)) / 2.0**53


def lattice(frame: Box, count: int, *, seed: int, draw: int) -> np.ndarray:
    """Return unit Gaussian numbers, float64 (count, rows, columns), of the places of a lattice.

    frame: first and last rows and columns, (row0, column0, row1, column1), half open.
    """
    rows, columns = np.mgrid[frame[0] : frame[2], frame[1] : frame[3]]
    places = np.stack([rows.ravel(), columns.ravel()], axis=1) + draw / 65536
    shares = np.clip(uniforms(places, count, seed), 2.0**-53, None)
    return ndtri(shares).T.reshape(count, *rows.shape)


def _mixed(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * _MIX[0]
    state = (state ^ (state >> np.uint64(27))) * _MIX[1]
    return state ^ (state >> np.uint64(31))


def smooth(box: Box, *, step: int, scale: int, seed: int, draw: int) -> np.ndarray:
    """Return a smooth Gaussian field about 0 with variance 1: float64 (h / step, w / step).

    It is sampled at the centres of cells of ``step``, of which the box has whole ones, and varies
    over lengths of ``scale``. Both are powers of two, so that all positions are exact.
    """
    firsts, weights = [], []
    for start, side in zip(box[:2], shape(box), strict=True):
        at = (start + step * (np.arange(side // step) + 0.5)) / scale
        first = np.floor(at).astype(int) - 1
        firsts.append(first)
        weights.append(_spline(at - first - 1) / _DEVIATION**0.5)
    (rows, columns), (down, across) = firsts, weights
    y, x = int(rows[0]), int(columns[0])
    frame = (y, x, int(rows[-1]) + 4, int(columns[-1]) + 4)
    values = lattice(frame, 1, seed=seed, draw=draw)[0]
    lines = sum(down[k][:, None] * values[rows - y + k] for k in range(4))
    return sum(across[k] * lines[:, columns - x + k] for k in range(4))


def _spline(t: np.ndarray) -> np.ndarray:
    """Return the four cubic B-spline weights (4, n) at fractions ``t`` of a lattice step."""
    ahead = 1 - t
    middle = [(3 * s**3 - 6 * s**2 + 4) / 6 for s in (t, ahead)]
    return np.stack([ahead**3 / 6, *middle, t**3 / 6])

"""What is measured in a cell of a slide: its tables, and the statistics of their sums.

A table (shifts, n) holds for each shift of the cell the numbers that are summed over cells; a
statistic makes one number of the sums. `seams` describes the measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import jensenshannon

from .seam_lines import MARGIN, NEAR, STEP, Grid

SEGMENTS = 8  # of a line in a cell: the units of the bootstrap
HARMONICS = 8
BINS = np.array([1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45])  # of gradients, in grey levels

Table = np.ndarray
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class View:
    """A cell, with its margins, turned so that its lines run down.

    Attributes:
        lines: ``vertical`` or ``horizontal``, the direction of the lines on the slide.
        at: where the cell begins, in pixels across the lines.
        gradient: (h, w), the difference in luma from the pixel on the left.
        tissue: (h, w), 1 where both of these pixels are tissue.
        sharpness: (h, w), the squared Laplacian of luma.
        stains: (h, w, 2), the amounts of haematoxylin and eosin.
    """

    lines: str
    at: int
    gradient: np.ndarray
    tissue: np.ndarray
    sharpness: np.ndarray
    stains: np.ndarray


def turned(lines: str, at: int, *planes: np.ndarray) -> View:
    """Return a view of planes (h, w, ...): luma, tissue, sharpness and stains, with more margin."""
    luma, tissue, sharpness, stains = (plane[MARGIN:-MARGIN] for plane in planes)
    both = (tissue & np.roll(tissue, 1, axis=1)).astype(np.float32)
    gradient = np.abs(np.diff(luma, axis=1, prepend=luma[:, :1]))
    return View(lines, at, gradient, both, sharpness, stains)


def tables_of(view: View, grid: Grid) -> dict[str, tuple[Statistic, Table]]:
    """Return the tables of a view, by the name of the measure."""
    tables: dict[str, tuple[Statistic, Table]] = {}
    for kind in grid.lines:
        name = f"gradient ratio, {view.lines} {kind} lines"
        tables[name] = _ratio, _gradients(view, grid, kind)
    tables["gradient divergence, lines and middle"] = _divergence, _histograms(view, grid)
    for length in sorted({grid.stride, grid.block}):
        tables[f"gradient power at 1/{length} px"] = _coherence, _waves(view, grid, length)
    tables["sharpness, spread over the window"] = _spread, _sharpness(view, grid)
    for name, table in zip(
        ("haematoxylin", "eosin"), _jumps(view, grid).swapaxes(0, 1), strict=True
    ):
        tables[f"{name} jump across lines"] = _ratio, table
    return tables


def _shifted(at: np.ndarray, grid: Grid) -> np.ndarray:
    """Positions (shifts, n) in a view of the places ``at`` (n,) of a cell, under each shift."""
    return MARGIN + (at + np.arange(0, grid.cell, STEP)[:, None]) % grid.cell


def _gradients(view: View, grid: Grid, kind: str) -> Table:
    """Return (segments, shifts, 4): gradients and weights at lines, and those near them."""
    parts = [
        np.stack([part.sum(axis=0) for part in np.array_split(plane, SEGMENTS)])
        for plane in (view.gradient * view.tissue, view.tissue)
    ]
    table = []
    for at in grid.places(kind):
        line = _shifted(at, grid)
        near = line + np.array(grid.near(at - grid.cell // 2))
        table.append([part[:, at].mean(axis=2) for at in (line, near) for part in parts])
    return np.moveaxis(np.sum(table, axis=0), 0, -1)


def _ratio(sums: np.ndarray) -> np.ndarray:
    line, line_weight, near, near_weight = np.moveaxis(sums, -1, 0)
    return (line / line_weight) / (near / near_weight)


def _bands(plane: np.ndarray, grid: Grid) -> np.ndarray:
    """Return sums over bands STEP pixels wide, the first centred on the start of the cell."""
    start = MARGIN - STEP // 2
    return plane[:, start : start + grid.cell].reshape(len(plane), -1, STEP).sum(axis=(0, 2))


def _rolled(bands: np.ndarray) -> np.ndarray:
    """Return the bands (n, ...) of a cell under each shift, (n, n, ...)."""
    n = len(bands)
    return bands[(np.arange(n) + np.arange(n)[:, None]) % n]


def _histograms(view: View, grid: Grid) -> Table:
    """Return (shifts, 2 bins): histograms of gradients in bands around lines, and in all others."""
    codes, bins = np.digitize(view.gradient, BINS), len(BINS) + 1
    counts = [_bands((codes == code) * view.tissue, grid) for code in range(bins)]
    rolled = _rolled(np.stack(counts, axis=1))
    lines = np.concatenate([grid.places(kind) for kind in grid.lines])
    near = np.isin(np.arange(rolled.shape[1]), np.rint(lines / STEP) % rolled.shape[1])
    return np.concatenate([rolled[:, near].sum(axis=1), rolled[:, ~near].sum(axis=1)], axis=1)


def _divergence(sums: np.ndarray) -> np.ndarray:
    """Return the Jensen-Shannon divergence in bits."""
    near, middle = np.split(sums, 2, axis=-1)
    return jensenshannon(near, middle, base=2, axis=-1) ** 2


def _waves(view: View, grid: Grid, length: int) -> Table:
    """Return (shifts, 3 n): Fourier coefficients of the mean gradient at harmonics of a length.

    The coefficients are real parts, imaginary parts and powers. The sum of the powers of single
    cells is the power at the frequencies around a harmonic; the power of the sum is that at the
    harmonic.
    """
    waves = np.arange(1, HARMONICS + 1)
    waves = waves[waves * STEP < length]
    if length != grid.stride:  # those of the stride are measured with the stride
        waves = waves[waves * grid.stride % length != 0]
    weight = view.tissue.sum(axis=0)
    profile = (view.gradient * view.tissue).sum(axis=0) / np.maximum(weight, 1)
    at = np.arange(grid.cell)
    profile = profile[_shifted(at, grid).reshape(-1, grid.cell)]
    profile = profile / profile[0].mean() - 1
    c = profile @ np.exp(-2j * np.pi * np.outer(at, waves) / length)
    return np.concatenate([c.real, c.imag, np.abs(c) ** 2], axis=1)


def _coherence(sums: np.ndarray) -> np.ndarray:
    """Return the relative power at the harmonics: 1 on average if cells are unrelated."""
    real, imaginary, power = np.split(sums, 3, axis=-1)
    return ((real**2 + imaginary**2) / power).mean(axis=-1)


def _sharpness(view: View, grid: Grid) -> Table:
    """Return (shifts, bands): root of the mean squared Laplacian by position in the window."""
    weight = _bands(view.tissue, grid)
    level = np.sqrt(_bands(view.sharpness * view.tissue, grid) / np.maximum(weight, 1))
    level = np.where(weight > 0, level, level[weight > 0].mean())
    if grid.stride % STEP == 0 and grid.cell % grid.stride == 0:
        level = level.reshape(-1, grid.stride // STEP).mean(axis=0)
    rolled = _rolled(level / level.mean())
    return rolled[np.arange(grid.cell // STEP) % len(rolled)]


def _spread(sums: np.ndarray) -> np.ndarray:
    return sums.std(axis=-1) / sums.mean(axis=-1)


def _jumps(view: View, grid: Grid) -> Table:
    """Return (shifts, 2, 4): for each stain, sum and number of jumps at lines and elsewhere.

    Jumps are between the mean amounts of adjacent tiles, which are half a cell long, along the
    line, and at most NEAR * STEP pixels wide.
    """
    depth = min(NEAR, grid.stride // 2 // STEP) * STEP
    weight = view.tissue[..., None]
    halves = [
        np.concatenate([part.sum(axis=0, keepdims=True) for part in np.array_split(plane, 2)])
        for plane in (view.stains * weight, weight)
    ]
    amounts, weights = (np.pad(h.cumsum(axis=1), ((0, 0), (1, 0), (0, 0))) for h in halves)
    at = MARGIN + np.arange(0, grid.cell, STEP)
    sums = [[c[:, at + d] - c[:, at + d - depth] for d in (0, depth)] for c in (amounts, weights)]
    (a, b), (m, n) = sums
    known = np.minimum(m, n) >= depth * len(view.tissue) / 4  # half of half a cell
    jumps = np.abs(b / np.maximum(n, 1) - a / np.maximum(m, 1)) * known
    jumps, known = jumps.sum(axis=0), np.broadcast_to(known.sum(axis=0), jumps.shape[1:])
    rolled = _rolled(np.stack([jumps, known], axis=2))
    cores = [grid.places(kind) for kind in grid.lines if kind != "ramp"]
    line = np.isin(np.arange(len(at)), np.rint(np.concatenate(cores) / STEP))
    return np.concatenate([rolled[:, line].sum(axis=1), rolled[:, ~line].sum(axis=1)], axis=2)

"""Measure whether a slide shows seams where its windows and blocks meet.

The slide is cut into cells: squares with a block line through the middle, in both directions. A
measure is computed from sums over all cells, laid on top of each other so that their lines
coincide. A permutation test gives the values to expect without seams: each line of the slide is
shifted within its cells by a random multiple of ``STEP`` pixels, which keeps what belongs to the
tissue or to the compression and destroys what belongs to the grid. (The cells along a line are
shifted together, because crypts are longer than a cell.) A measure that exceeds nearly all of these
values indicates a seam. "Nearly all" is corrected for the number of measures, so that about one
slide without seams in twenty is reported as having one.

``STEP`` is the side of a JPEG block where chroma has half the resolution: 16 pixels. JPEG itself
causes gradients between its blocks, and lines of the grid often lie there. On the same pixels of
the example slide, the mean gradient across lines at multiples of 16 that are no block lines,
divided by that across lines 3 to 12 pixels away, was 1.01 without loss and 1.07 at quality 85:
there is no seam, but it would be taken for one. A line is therefore compared only with lines at
multiples of 16 pixels from it. Gradients are those of luma, because decoders do not interpolate
chroma across the edge of a JPEG *tile*: on the same pixels this changed the ratio over all colours
from 0.92 to 0.96, and that of luma only to 0.93.

Axis order is (y, x), a box is (y0, x0, y1, x1), half open, in pixels of level 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import laplace
from scipy.spatial.distance import jensenshannon
from skimage.color import hed_from_rgb

from ..errors import SlideError
from ..geometry import Box, grow
from ..slides.reading import TISSUE_SHARE, Slide, open_slide
from ..slides.tissue import TISSUE_DENSITY, optical_density

STEP = 16
NEAR = 4  # lines on each side, STEP pixels apart, with which a line is compared
MARGIN = (NEAR + 1) * STEP  # pixels of context round a cell
SMALLEST_CELL = 384
LARGEST_CELL = 2048
MOST_PIXELS = 2**26  # that are measured; of larger slides, random cells
SEGMENTS = 8  # of a line in a cell: the units of the bootstrap
HARMONICS = 8
DRAWS = 1999
ALARMS = 0.05  # share of slides without seams that may be reported
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # as in JPEG
BINS = np.array([1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45])  # of gradients, in grey levels


@dataclass(frozen=True)
class Grid:
    """The lines at which a slide may have seams.

    stride, windows, taper: as in `geometry.Plan`.
    origin: (y, x) of a crossing of block lines, in slide pixels; may lie outside the slide.
    """

    stride: int
    windows: int = 1
    taper: int = 0
    origin: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        wide = self.stride >= 2 * STEP and self.block <= LARGEST_CELL
        if not wide or not all(self.near(at) for kind in self.lines.values() for at in kind):
            raise SlideError(
                f"lines every {self.stride} pixels: seams are measured for strides from "
                f"{2 * STEP}, with room between ramps, and blocks up to {LARGEST_CELL}"
            )

    @property
    def block(self) -> int:
        """Side of a block in pixels."""
        return self.stride * self.windows

    @property
    def lines(self) -> dict[str, list[int]]:
        """The distances of each kind of line from a block line, within one block."""
        windows = [k * self.stride for k in range(1, self.windows)]
        ramps = [(at + d) % self.block for at in (0, *windows) for d in (-self.taper, self.taper)]
        kinds = {"block": [0], "window": windows, "ramp": sorted(set(ramps)) if self.taper else []}
        return {kind: at for kind, at in kinds.items() if at}

    def near(self, at: int) -> list[int]:
        """Distances from a line to those it is compared with: whole JPEG blocks, off the grid."""
        lines = [line for kind in self.lines.values() for line in kind]
        steps = [k * STEP for k in range(-NEAR, NEAR + 1)]
        return [
            d for d in steps if all(2 < (at + d - n) % self.block < self.block - 2 for n in lines)
        ]

    @property
    def cell(self) -> int:
        """Side of a cell in pixels: a whole number of JPEG blocks, and nearly of blocks."""
        return self.pitch // (2 * STEP) * 2 * STEP

    @property
    def pitch(self) -> int:
        """Distance in pixels from one cell to the next."""
        return self.block * math.ceil(SMALLEST_CELL / self.block)

    def places(self, kind: str) -> np.ndarray:
        """Places in a cell of the lines of a kind: the first pixel after each."""
        at = np.arange(self.cell)
        beyond = (at - self.cell // 2) % self.block
        return at[np.isin(beyond, self.lines[kind])]

    def cells(self, size: tuple[int, int]) -> list[Box]:
        """Return all cells that fit, with their margins, into a slide of ``size`` (h, w)."""
        starts = []
        for origin, length in zip(self.origin, size, strict=True):
            first = (origin - self.cell // 2 - MARGIN) % self.pitch + MARGIN
            starts.append(range(first, length - self.cell - MARGIN + 1, self.pitch))
        return [(y, x, y + self.cell, x + self.cell) for y in starts[0] for x in starts[1]]


def rendered_grid(description: str) -> Grid | None:
    """Return the grid of a slide that `rendering.render` made, or None for other slides."""
    try:
        facts = json.loads(description[description.index("{") : description.rindex("}") + 1])
        plan, (y0, x0, *_) = facts["plan"], facts["region"]
    except (ValueError, KeyError, TypeError):
        return None
    return Grid(plan["stride"], plan["windows"], plan["taper"], origin=(-y0, -x0))


@dataclass(frozen=True)
class Finding:
    """One measure of a slide.

    Attributes:
        low, high: for gradient ratios, the 95 % bootstrap interval of the value; for other
            measures, the interval that holds 95 % of the values of shifted cells.
        p: the share of shifted cells with a value at least as extreme.
        found: whether ``p`` is significant, corrected for the number of measures.
    """

    name: str
    value: float
    low: float
    high: float
    p: float
    found: bool = False


@np.errstate(invalid="ignore", divide="ignore")  # 0 / 0 is no seam
def measure_seams(path: Path, *, stride: int | None = None, seed: int = 0) -> list[Finding]:
    """Measure the seams of a slide, as the module's docstring describes.

    Memory depends on the size of a cell, not on that of the slide.

    Args:
        path: a slide that `rendering.render` made, or any other with ``stride``.
        stride: distance in pixels of the lines, counted from the slide's corner; by default the
            lines are those of the plan in the slide's description.
        seed: for the choice of cells, the shifts and the bootstrap.

    Raises:
        SlideError: the slide cannot be read, its grid is unknown, or it has too little tissue
            at the lines.
    """
    with open_slide(path) as slide:
        grid = Grid(stride) if stride else rendered_grid(slide.description)
        if grid is None:
            raise SlideError(f"{path} does not say how it was rendered: give `stride`")
        rng = np.random.default_rng(seed)
        cells = [((v.lines, v.at), _tables(v, grid)) for v in _views(slide, grid, rng)]
    if len(cells) < 4:
        raise SlideError(
            f"{path}: too little tissue round lines {grid.block} pixels apart: "
            "at least two squares of that size must hold tissue"
        )
    names = {name for _, tables in cells for name in tables}
    findings = [_finding(name, cells, rng) for name in sorted(names)]
    return [replace(f, found=f.p < ALARMS / len(findings)) for f in findings]


@dataclass(frozen=True)
class _View:
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


def _views(slide: Slide, grid: Grid, rng: np.random.Generator) -> Iterator[_View]:
    """Yield both views of randomly chosen cells that are at least half tissue."""
    most = max(2, MOST_PIXELS // grid.cell**2)
    kept = 0
    for y0, x0, y1, x1 in rng.permutation(grid.cells(slide.size))[: 8 * most].tolist():
        rgb = slide.read(grow((y0, x0, y1, x1), MARGIN), mpp=slide.mpp or 1)
        density = optical_density(rgb)
        n = len(rgb) // STEP
        dense = density.mean(axis=2).reshape(n, STEP, n, STEP).mean(axis=(1, 3)) > TISSUE_DENSITY
        if dense[NEAR + 1 : -NEAR - 1, NEAR + 1 : -NEAR - 1].mean() < TISSUE_SHARE:
            continue
        luma, stains = rgb @ LUMA, density @ hed_from_rgb[:, :2].astype(np.float32)
        planes = luma, dense.repeat(STEP, 0).repeat(STEP, 1), laplace(luma) ** 2, stains
        yield _view("vertical", x0, *planes)
        yield _view("horizontal", y0, *(plane.swapaxes(0, 1) for plane in planes))
        kept += 1
        if kept == most:
            return


def _view(lines: str, at: int, *planes: np.ndarray) -> _View:
    luma, tissue, sharpness, stains = (plane[MARGIN:-MARGIN] for plane in planes)
    both = (tissue & np.roll(tissue, 1, axis=1)).astype(np.float32)
    gradient = np.abs(np.diff(luma, axis=1, prepend=luma[:, :1]))
    return _View(lines, at, gradient, both, sharpness, stains)


# What is measured in a cell. A table (shifts, n) holds for each shift of the cell the numbers that
# are summed over cells; a statistic makes one number of the sums.

Table = np.ndarray
Statistic = Callable[[np.ndarray], np.ndarray]


def _shifted(at: np.ndarray, grid: Grid) -> np.ndarray:
    """Positions (shifts, n) in a view of the places ``at`` (n,) of a cell, under each shift."""
    return MARGIN + (at + np.arange(0, grid.cell, STEP)[:, None]) % grid.cell


def _gradients(view: _View, grid: Grid, kind: str) -> Table:
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


def _histograms(view: _View, grid: Grid) -> Table:
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


def _waves(view: _View, grid: Grid, length: int) -> Table:
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


def _sharpness(view: _View, grid: Grid) -> Table:
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


def _jumps(view: _View, grid: Grid) -> Table:
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


def _tables(view: _View, grid: Grid) -> dict[str, tuple[Statistic, Table]]:
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


# From tables to findings


def _finding(name: str, cells: list, rng: np.random.Generator) -> Finding:
    """Return the finding of one measure; `measure_seams` decides whether it is a seam."""
    statistic = next(tables[name][0] for _, tables in cells if name in tables)
    table = np.stack([tables[name][1] for _, tables in cells if name in tables])
    lines = [line for line, tables in cells if name in tables]
    if table.ndim == 3:
        value, null = statistic(table[:, 0].sum(axis=0)), statistic(_chance(table, lines, rng))
        low, high = np.quantile(null, [0.025, 0.975])
        return Finding(name, float(value), float(low), float(high), _rarity(value, null))
    # A ratio may be too low as well as too high, and there are segments to draw. It compares what
    # lies close by, so that each cell may shift alone: small slides have few lines.
    whole = table.sum(axis=1)
    alone = list(range(len(whole)))
    value, null = statistic(whole[:, 0].sum(axis=0)), statistic(_chance(whole, alone, rng))
    low, high = _interval(table[:, :, 0], statistic, rng)
    p = _rarity(np.abs(np.log(value)), np.abs(np.log(null)))
    return Finding(name, float(value), float(low), float(high), p)


def _chance(tables: np.ndarray, lines: list, rng: np.random.Generator) -> np.ndarray:
    """Return sums (DRAWS, n) of tables (cells, shifts, n) with each line shifted at random."""
    total = np.zeros((DRAWS, tables.shape[2]))
    for line in sorted(set(lines)):
        table = tables[[other == line for other in lines]].sum(axis=0)
        total += table[rng.integers(len(table), size=DRAWS)]
    return total


def _interval(tables: np.ndarray, statistic: Statistic, rng: np.random.Generator) -> np.ndarray:
    """Return the 95 % bootstrap interval over the segments of tables (cells, segments, n)."""
    parts = tables.reshape(-1, tables.shape[-1])
    counts = rng.multinomial(len(parts), np.full(len(parts), 1 / len(parts)), size=DRAWS)
    return np.quantile(statistic(counts @ parts), [0.025, 0.975])


def _rarity(value: np.ndarray, null: np.ndarray) -> float:
    """Return the share of random values at least as large, including the observation itself."""
    as_far = ~(null < value - 1e-9 * abs(value))  # what is equal but for rounding is as far out
    return float((1 + as_far.sum()) / (1 + len(null)))

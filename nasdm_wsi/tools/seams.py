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

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import laplace
from skimage.color import hed_from_rgb

from ..errors import SlideError
from ..geometry import grow
from ..slides.reading import TISSUE_SHARE, Slide, open_slide
from ..slides.tissue import TISSUE_DENSITY, optical_density
from .seam_lines import MARGIN, NEAR, STEP, Grid, rendered_grid
from .seam_measures import Statistic, View, tables_of, turned

MOST_PIXELS = 2**26  # that are measured; of larger slides, random cells
DRAWS = 1999
ALARMS = 0.05  # share of slides without seams that may be reported
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # as in JPEG


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
        cells = [((v.lines, v.at), tables_of(v, grid)) for v in _views(slide, grid, rng)]
    if len(cells) < 4:
        raise SlideError(
            f"{path}: too little tissue around lines {grid.block} pixels apart: "
            "at least two squares of that size must hold tissue"
        )
    names = {name for _, tables in cells for name in tables}
    findings = [_finding(name, cells, rng) for name in sorted(names)]
    return [replace(f, found=f.p < ALARMS / len(findings)) for f in findings]


def _views(slide: Slide, grid: Grid, rng: np.random.Generator) -> Iterator[View]:
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
        yield turned("vertical", x0, *planes)
        yield turned("horizontal", y0, *(plane.swapaxes(0, 1) for plane in planes))
        kept += 1
        if kept == most:
            return


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

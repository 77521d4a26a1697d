"""Judge generated glands by their shapes and distances, against labelled pictures.

    python benchmarks/layout_regions.py data/glands [--weights WEIGHTS] [--pictures FILE.png]

The dataset is one that trains `layout-regions`: pictures with labelled regions and a histology, of
some patients all held out. First, all maps are encoded as the network paints them, and decoded.
Then, for each histology, other sets of windows are compared with the held-out pictures, and in a
second table with all pictures, because the patients held out are few:

    real       as many random pictures against the others: median, 5th and 95th percentile
    training   the pictures that the network was trained on
    network    windows that `LearnedGlands` generates, as many as there are pictures held out, or 12
    rules      windows of the glands that follow rules, likewise
    shuffled   the pictures cut into squares of `TILE` micrometres that change places

    shares      of stroma, epithelium, lumen and mucus: total variation
    neighbours  which region borders which: total variation
    glands      equivalent diameters: Wasserstein distance in micrometres; elongations: likewise
    openings    lumens and mucus in glands: equivalent diameters, likewise
    wall        from the border of an opening to the border of its gland, likewise
    stroma      from a place in the stroma to the nearest gland, likewise
    border      length of the borders of glands in a square millimetre: ratio to the held-out ones
    pairs       two places 8 to 160 micrometres apart are both gland: mean absolute difference

Glands are cut at the sides of the windows, on both sides of a comparison.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from measure import machine, table
from PIL import Image
from scipy import ndimage
from scipy.signal import fftconvolve
from scipy.stats import wasserstein_distance
from skimage.measure import regionprops

from nasdm_wsi.annotations.raster import Drawing
from nasdm_wsi.annotations.regions import PALETTE, REGIONS
from nasdm_wsi.geometry import Box, shape
from nasdm_wsi.layouts.colon import GLANDULAR, STEP, Colon, Glands
from nasdm_wsi.model.layouts.region_map import EPITHELIUM, LUMEN, MUCUS, STROMA, decode, encode
from nasdm_wsi.model.layouts.region_source import WEIGHTS, LearnedGlands
from nasdm_wsi.model.training.region_maps import cleaned
from nasdm_wsi.tools.dataset import read_regions
from nasdm_wsi.tools.sources import HISTOLOGIES

NUMBERS = (LUMEN, EPITHELIUM, STROMA, MUCUS)
PIXEL = 2  # micrometres, in which windows are measured
TILE = 40  # micrometres
WINDOW = (320, 480)  # micrometres, the size of the pictures of GlaS
MADE = 12
DRAWS = 60
LEAST_OPENING = 60.0  # square micrometres
LAGS = np.arange(8, 161, 8) // PIXEL
SEED = 3


@dataclass(frozen=True)
class Windows:
    """Measures of some windows, which add up.

    regions, borders: pixels of each region, and pairs of neighbouring pixels of two regions.
    gland, elongation, opening, wall, stroma: columns of the measures, in micrometres.
    length: pixels of the borders of glands. pairs: (lags, 2), pairs of places in glands, and all.
    """

    regions: np.ndarray
    borders: np.ndarray
    columns: dict[str, np.ndarray]
    length: int
    pairs: np.ndarray

    def __add__(self, other: Windows) -> Windows:
        columns = {k: np.concatenate([v, other.columns[k]]) for k, v in self.columns.items()}
        return Windows(
            self.regions + other.regions,
            self.borders + other.borders,
            columns,
            self.length + other.length,
            self.pairs + other.pairs,
        )


def measured(labels: np.ndarray) -> Windows:
    """Return the measures of a window of numbers of regions (h, w), with pixels of `PIXEL`."""
    gland = labels != STROMA
    opening = np.isin(labels, (LUMEN, MUCUS))
    props = regionprops(ndimage.label(gland)[0])
    openings = np.array([p.area for p in regionprops(ndimage.label(opening)[0])]) * PIXEL**2
    openings = openings[openings >= LEAST_OPENING]
    depth = ndimage.distance_transform_edt(np.pad(gland, 1, mode="edge"))[1:-1, 1:-1] * PIXEL
    away = ndimage.distance_transform_edt(~gland) * PIXEL if gland.any() else np.zeros(gland.shape)
    rim = opening & ~ndimage.binary_erosion(opening, border_value=1)
    borders = np.zeros((len(REGIONS) + 1,) * 2)
    length = 0
    for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        other = a != b
        np.add.at(borders, (np.minimum(a, b)[other], np.maximum(a, b)[other]), 1)
        length += int(((a == STROMA) != (b == STROMA)).sum())
    columns = {
        "gland": np.array([p.equivalent_diameter_area for p in props]) * PIXEL,
        "elongation": np.array([_elongation(p) for p in props if p.area * PIXEL**2 > 400]),
        "opening": np.sqrt(4 * openings / np.pi),
        "wall": depth[rim],
        "stroma": away[~gland][::8],
    }
    regions = np.bincount(labels.ravel(), minlength=len(REGIONS) + 1)
    return Windows(regions, borders, columns, length, _pairs(gland))


def _elongation(props) -> float:
    return props.axis_major_length / max(props.axis_minor_length, 1.0)


def _pairs(gland: np.ndarray) -> np.ndarray:
    """Return for each lag how many pairs of places are both in glands, and how many there are."""
    both = fftconvolve(gland.astype(float), gland[::-1, ::-1].astype(float))
    ones = np.ones(gland.shape)
    all_ = fftconvolve(ones, ones)
    y, x = (np.arange(2 * n - 1) - (n - 1) for n in gland.shape)
    ring = np.rint(np.hypot(y[:, None], x)).astype(int)
    return np.array([[both[ring == lag].sum(), all_[ring == lag].sum()] for lag in LAGS])


def distances(a: Windows, b: Windows) -> list[float]:
    """Return how far windows ``a`` are from the windows ``b``, in the order of `HEAD`."""

    def variation(name: str) -> float:
        p, q = getattr(a, name), getattr(b, name)
        return float(np.abs(p / p.sum() - q / q.sum()).sum() / 2)

    apart = [
        wasserstein_distance(a.columns[k], b.columns[k]) if len(a.columns[k]) else np.nan
        for k in ("gland", "elongation", "opening", "wall", "stroma")
    ]
    border = (a.length / a.regions.sum()) / (b.length / b.regions.sum())
    pairs = np.abs(a.pairs[:, 0] / a.pairs[:, 1] - b.pairs[:, 0] / b.pairs[:, 1]).mean()
    return [variation("regions"), variation("borders"), *map(float, apart), border, float(pairs)]


HEAD = (
    *("shares", "neighbours", "gland diameter", "elongation", "opening diameter"),
    *("wall", "stroma", "border", "pairs"),
)


class Same:
    """A plan with one kind of ground everywhere."""

    def __init__(self, kind: int):
        self._kind = kind

    def ground(self, box: Box) -> np.ndarray:
        """Return the kind."""
        return np.full([side // STEP for side in shape(box)], self._kind, np.uint8)


def generated(source: Colon, count: int) -> list[np.ndarray]:
    """Return the numbers of regions in windows of a source, with pixels of `PIXEL`."""
    height, width = WINDOW
    places = [(height * (k // 4), width * (k % 4)) for k in range(count)]
    boxes = [(y, x, y + height, x + width) for y, x in places]
    return [Drawing(source.regions(box)).labels(box)[1][::PIXEL, ::PIXEL] for box in boxes]


def shuffled(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a window whose squares of `TILE` micrometres have changed places and directions."""
    side = TILE // PIXEL
    h, w = (n // side for n in labels.shape)
    tiles = labels[: h * side, : w * side].reshape(h, side, w, side).swapaxes(1, 2)
    tiles = rng.permutation(tiles.reshape(-1, side, side))
    turned = np.stack([np.rot90(tile, rng.integers(4)) for tile in tiles])
    return turned.reshape(h, w, side, side).swapaxes(1, 2).reshape(h * side, w * side)


def kept(maps: Sequence[tuple[np.ndarray, float]]) -> list[tuple[str, int, str]]:
    """Return for each region its pixels, and the overlap after encoding and decoding."""
    both, either = np.zeros(len(REGIONS) + 1), np.zeros(len(REGIONS) + 1)
    same = total = 0
    for labels, mpp in maps:
        image = encode(labels, mpp=mpp)
        made = decode(image, finer=labels.shape[0] // image.shape[1])
        labels = labels[: made.shape[0], : made.shape[1]]
        same, total = same + int((made == labels).sum()), total + labels.size
        for number in NUMBERS:
            both[number] += ((made == number) & (labels == number)).sum()
            either[number] += ((made == number) | (labels == number)).sum()
    rows = [(REGIONS[n - 1], f"{both[n] / either[n]:.3f}") for n in NUMBERS]
    return [("all (share of the pixels)", f"{same / total:.3f}"), *rows]


def _total(windows: Sequence[Windows]) -> Windows:
    first, *others = windows
    return sum(others, first)


def _row(name: str, values: Sequence[float]) -> tuple[str, ...]:
    return (name, *(f"{value:.3g}" for value in values))


def judge(real: Sequence[Windows], held_out: Sequence[bool], made: dict[str, Windows]) -> None:
    """Print the tables of one histology."""
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(DRAWS):
        order = [real[k] for k in rng.permutation(len(real))]
        some, others = order[: sum(held_out)], order[sum(held_out) :]
        draws.append(distances(_total(some), _total(others)))
    low, middle, high = np.percentile(draws, (5, 50, 95), axis=0)
    bands = [f"{m:.3g} ({a:.3g}-{b:.3g})" for a, m, b in zip(low, middle, high, strict=True)]
    kept_back = _total([w for w, held in zip(real, held_out, strict=True) if held])
    trained = _total([w for w, held in zip(real, held_out, strict=True) if not held])
    for title, reference in (("held out", kept_back), ("all pictures", kept_back + trained)):
        rows: list[tuple[str, ...]] = [("real", *bands)]
        for name, windows in {"training": trained, **made}.items():
            rows.append(_row(name, distances(windows, reference)))
        table((title, *HEAD), rows)
        print()


def picture(rows: Sequence[Sequence[np.ndarray]], path: Path) -> None:
    """Write rows of windows in the colours of the regions."""
    height, width = (side // PIXEL for side in WINDOW)
    lines = []
    for row in rows:
        cells = [PALETTE[labels[:height, :width]] for labels in row]
        cells = [
            np.pad(c, ((0, height - c.shape[0] + 4), (0, width - c.shape[1] + 4), (0, 0)))
            for c in cells
        ]
        lines.append(np.concatenate(cells, axis=1))
    Image.fromarray(np.concatenate(lines)).save(path)


def read(dataset: Path) -> dict[str, list[tuple[np.ndarray, float, bool]]]:
    """Return labels, their pixel size, and whether they are held out, of each histology."""
    found: dict[str, list] = {name: [] for name in HISTOLOGIES}
    for region in read_regions(dataset):
        if region.regions is not None and region.histology:
            labels = cleaned(region.regions, region.mpp)[0]
            found[region.histology].append((labels, region.mpp, not region.usable.any()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="a prepared dataset")
    parser.add_argument("--weights", default=WEIGHTS, help="those of the package by default")
    parser.add_argument("--pictures", type=Path, help="a PNG to write with real and made windows")
    options = parser.parse_args()
    print(machine("torch"))
    found = read(options.dataset)
    table(("region", "overlap"), kept([row[:2] for rows in found.values() for row in rows]))
    painter: Glands = partial(LearnedGlands, weights=options.weights)
    shown = []
    for kind, (histology, rows) in zip(GLANDULAR, found.items(), strict=True):
        real = [labels[:: round(PIXEL / mpp), :: round(PIXEL / mpp)] for labels, mpp, _ in rows]
        held_out = [held for *_, held in rows]
        made = {}
        for name, glands in (("network", painter), ("rules", None)):
            source = Colon(Same(kind), seed=SEED, glands=glands)
            made[name] = generated(source, max(MADE, sum(held_out)))
        print(f"\n{histology}: {sum(held_out)} of {len(rows)} pictures held out\n")
        rng = np.random.default_rng(0)
        sets = {name: _total([measured(m) for m in maps]) for name, maps in made.items()}
        sets["shuffled"] = _total([measured(shuffled(m, rng)) for m in real])
        judge([measured(labels) for labels in real], held_out, sets)
        some = [labels for labels, held in zip(real, held_out, strict=True) if held]
        shown += [[m[k % len(m)] for k in range(6)] for m in (some, *made.values())]
    if options.pictures:
        picture(shown, options.pictures)


if __name__ == "__main__":
    main()

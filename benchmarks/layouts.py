"""Judge layouts of nuclei by how types stand to each other, against annotated pictures.

    python benchmarks/layouts.py data/colon [FOLDER ...] [--pictures PATTERN ...] [--paired]
        [--clusters]

A FOLDER holds one annotation file for each picture, NAME.geojson of the picture NAME if the layout
was made for its regions, else files of any names; a window as large as the picture, with the same
unpublished pixels, is cut from each. Both sides have the same number of windows: random halves of
the pictures, or, with ``--paired``, each picture against its own file. The first row of the table
compares halves of the real pictures; a layout as good as real ones would not be told from it. Two
nulls show what bad ones look like: random points that keep their distance, and real places with
shuffled types.

    neighbours    conditional table of the nearest neighbour's type: total variation, averaged over
                  the types by their shares
    pairs         pair correlation of two types at 3 to 60 micrometres: mean absolute difference
                  (inflammatory: neutrophils, lymphocytes, plasma cells and eosinophils)
    nearest       distances to the nearest nucleus, in micrometres: Wasserstein distance
    mix           shares of the six types: total variation

With ``--clusters`` it prints instead how strongly nuclei of each type keep together: the pair
correlation of the type with itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import cycle
from pathlib import Path

import numpy as np
import shapely
import tifffile
from measure import machine, table
from PIL import Image
from scipy.ndimage import center_of_mass
from scipy.signal import fftconvolve
from scipy.spatial import cKDTree
from scipy.stats import wasserstein_distance

from nasdm_wsi.annotations.dense import dense
from nasdm_wsi.annotations.formats import read_contents
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.tools.dataset import read_manifest
from nasdm_wsi.tools.sources import UNPUBLISHED

COARSE = 1.0  # micrometres per pixel of the masks of what is published
EDGES = np.arange(3.0, 61.0, 3.0)  # of the rings of pair correlations, micrometres
EPITHELIAL, CONNECTIVE = TYPES.index("epithelial"), TYPES.index("connective")
INFLAMMATORY = tuple(map(TYPES.index, ("neutrophil", "lymphocyte", "plasma", "eosinophil")))
HARD_CORE = 4.5  # micrometres between the centres of random points, at least
SPLITS = 60
# Micrometres, and the rings that they span.
SPANS = {"3-15": slice(0, 4), "15-30": slice(4, 9), "30-45": slice(9, 14), "45-60": slice(14, 19)}


@dataclass(frozen=True)
class Layout:
    """Centres of nuclei (n, 2) as y, x in micrometres, and types (n,), in a window.

    published: bool (h, w) at `COARSE`; nothing is known about the other pixels.
    """

    name: str
    centres: np.ndarray
    types: np.ndarray
    published: np.ndarray

    @property
    def area(self) -> float:
        """Published square micrometres."""
        return float(self.published.sum()) * COARSE**2

    def cut(self, centres: np.ndarray, types: np.ndarray) -> Layout:
        """Return other nuclei in the same window."""
        h, w = self.published.shape
        cell = (centres // COARSE).astype(int)
        within = ((cell >= 0) & (cell < (h, w))).all(axis=1)
        within[within] = self.published[tuple(cell[within].T)]
        return Layout(self.name, centres[within], types[within], self.published)


def read_real(dataset: Path, patterns: Sequence[str]) -> list[Layout]:
    """Return the layouts of the pictures of a prepared dataset whose names fit a pattern."""
    layouts = []
    for row in read_manifest(dataset)["regions"]:
        if any(fnmatchcase(row["name"], pattern) for pattern in patterns):
            layouts.append(_read_picture(dataset / row["name"], row["mpp"]))
    return layouts


def _read_picture(folder: Path, mpp: float) -> Layout:
    with Image.open(folder / "types.png") as file:
        types = np.array(file)
    instances, labels = dense(tifffile.imread(folder / "instances.tif"))
    numbers = np.arange(1, len(labels) + 1)
    _, first = np.unique(instances, return_index=True)
    centres = np.reshape(center_of_mass(instances > 0, instances, numbers), (-1, 2))
    step = round(COARSE / mpp)
    published = (types != UNPUBLISHED)[::step, ::step]
    whole = Layout(folder.name, np.empty((0, 2)), np.empty(0, np.uint8), published)
    return whole.cut((centres + 0.5) * mpp, types.flat[first[-len(labels) :]])


def read_made(folder: Path, real: Sequence[Layout]) -> list[Layout]:
    """Return for each real layout one from the files of a folder, in its window."""
    files = sorted(path for path in folder.iterdir() if path.name.endswith("json"))
    named = {path.stem: path for path in files}
    layouts = []
    for layout, other in zip(real, cycle(files), strict=False):
        nuclei = read_contents(named.get(layout.name, other), mpp=0.5).nuclei
        centroids = shapely.get_coordinates(shapely.centroid(nuclei.polygons()))
        layouts.append(layout.cut(centroids[:, ::-1] * nuclei.mpp, nuclei.types))
    return layouts


# Nulls


def hard_core(layout: Layout, rng: np.random.Generator) -> Layout:
    """As many points of each type at random, none closer than `HARD_CORE` to another."""
    size = np.array(layout.published.shape) * COARSE
    count = int(6 * len(layout.types) * size.prod() / layout.area)
    darts = layout.cut(rng.uniform(0, size, (count, 2)), np.zeros(count, np.uint8)).centres
    pairs = cKDTree(darts).query_pairs(HARD_CORE, output_type="ndarray")
    kept = np.ones(len(darts), bool)
    for early, late in pairs[np.argsort(pairs[:, 1], kind="stable")]:
        kept[late] &= not kept[early]
    chosen = darts[kept][: len(layout.types)]
    types = rng.permutation(layout.types)[: len(chosen)]
    return Layout(layout.name, chosen, types, layout.published)


def shuffled(layout: Layout, rng: np.random.Generator) -> Layout:
    """The same places with shuffled types."""
    types = rng.permutation(layout.types)
    return Layout(layout.name, layout.centres, types, layout.published)


# Statistics of one layout, which add up over layouts


@dataclass(frozen=True)
class Statistics:
    """What the measures need of one layout.

    counts: (7,) nuclei of each type. neighbours: (7, 7), how often the nearest neighbour of a
    nucleus of one type has another type. pairs: for each pair of types, found and expected pairs
    in each ring, (2, rings). nearest: distances to the nearest epithelial nucleus, from epithelial
    ones, and to the nearest of any type, from all.
    """

    counts: np.ndarray
    neighbours: np.ndarray
    pairs: np.ndarray
    nearest: tuple[np.ndarray, np.ndarray]


def statistics(layout: Layout) -> Statistics:
    """Return the statistics of a layout."""
    centres, types = layout.centres, layout.types
    neighbours = np.zeros((len(TYPES), len(TYPES)))
    distance, nearest = cKDTree(centres).query(centres, 2)
    np.add.at(neighbours, (types, types[nearest[:, 1] % max(len(types), 1)]), 1)
    own = centres[types == EPITHELIAL]
    epithelial = cKDTree(own).query(own, 2)[0][:, 1] if len(own) > 1 else np.empty(0)
    ways = _ways(layout.published)
    others = [types == CONNECTIVE, np.isin(types, INFLAMMATORY)]
    pairs = [_pairs(own, centres[other], ways, layout.area) for other in others]
    return Statistics(
        np.bincount(types, minlength=len(TYPES)),
        neighbours,
        np.stack(pairs),
        (epithelial, distance[:, 1]),
    )


def _ways(published: np.ndarray) -> np.ndarray:
    """Return for each ring the square micrometres in which a pair can lie, times its own area."""
    mask = published.astype(float)
    covariance = np.maximum(fftconvolve(mask, mask[::-1, ::-1]), 0) * COARSE**4
    y, x = (np.arange(n) - n // 2 for n in covariance.shape)
    ring = np.digitize(COARSE * np.hypot(y[:, None], x), EDGES)
    sums = np.bincount(ring.ravel(), covariance.ravel(), len(EDGES) + 1)
    return sums[1 : len(EDGES)]


def _pairs(a: np.ndarray, b: np.ndarray, ways: np.ndarray, area: float) -> np.ndarray:
    """Return pairs found in each ring, and those that independent points would have."""
    if not len(a) or not len(b):
        return np.zeros((2, len(ways)))
    within = cKDTree(a).count_neighbors(cKDTree(b), EDGES)
    return np.stack([np.diff(within), len(a) * len(b) * ways / area**2])


# Measures between two sides, each a list of statistics


def _pooled(side: Sequence[Statistics], name: str) -> np.ndarray:
    return np.sum([getattr(one, name) for one in side], axis=0)


def _mix(side: Sequence[Statistics]) -> np.ndarray:
    counts = _pooled(side, "counts")
    return counts / max(counts.sum(), 1)


def neighbour_distance(a: Sequence[Statistics], b: Sequence[Statistics]) -> float:
    """Total variation of the rows of the table of neighbours, averaged by the shares of types."""
    tables = [_pooled(side, "neighbours") for side in (a, b)]
    rows = [one / np.maximum(one.sum(axis=1, keepdims=True), 1) for one in tables]
    shares = (_mix(a) + _mix(b)) / 2
    return float(shares @ np.abs(rows[0] - rows[1]).sum(axis=1) / 2)


def pair_distance(a: Sequence[Statistics], b: Sequence[Statistics], which: int) -> float:
    """Mean absolute difference of a pair correlation."""
    curves = []
    for side in (a, b):
        found, expected = _pooled(side, "pairs")[which]
        curves.append(found / np.maximum(expected, 1e-9))
    return float(np.abs(curves[0] - curves[1]).mean())


def nearest_distance(a: Sequence[Statistics], b: Sequence[Statistics], which: int) -> float:
    """Wasserstein distance between distances to the nearest nucleus, micrometres."""
    drawn = [np.concatenate([one.nearest[which] for one in side]) for side in (a, b)]
    return float(wasserstein_distance(*drawn)) if min(map(len, drawn)) else float("inf")


def mix_distance(a: Sequence[Statistics], b: Sequence[Statistics]) -> float:
    """Total variation of the shares of the types."""
    return float(np.abs(_mix(a) - _mix(b)).sum() / 2)


Measure = Callable[[Sequence[Statistics], Sequence[Statistics]], float]
MEASURES: dict[str, Measure] = {
    "neighbours": neighbour_distance,
    "pairs with connective": lambda a, b: pair_distance(a, b, 0),
    "pairs with inflammatory": lambda a, b: pair_distance(a, b, 1),
    "nearest epithelial": lambda a, b: nearest_distance(a, b, 0),
    "nearest of any type": lambda a, b: nearest_distance(a, b, 1),
    "mix": mix_distance,
}


def halves(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return random halves of pictures, disjoint and of one size, the same in every comparison."""
    rng = np.random.default_rng(0)
    orders = [rng.permutation(count) for _ in range(SPLITS)]
    return [(order[: count // 2], order[count // 2 : 2 * (count // 2)]) for order in orders]


def compare(real: list[Statistics], other: list[Statistics]) -> np.ndarray:
    """Return each measure between halves of the real side and the other halves of another one.

    Shape (splits, measures). Against itself it is the band that real layouts keep.
    """
    return np.array(
        [
            [m([real[i] for i in first], [other[i] for i in second]) for m in MEASURES.values()]
            for first, second in halves(len(real))
        ]
    )


def row(name: str, values: np.ndarray) -> tuple[str, ...]:
    """Return a line of the table: medians, with the 5th and 95th percentile."""
    low, middle, high = np.percentile(values, (5, 50, 95), axis=0)
    cells = (f"{b:.3f} ({a:.2f}-{c:.2f})" for a, b, c in zip(low, middle, high, strict=True))
    return name, *cells


def cluster_rows(sides: dict[str, list[Layout]]) -> list[tuple]:
    """Return the mean pair correlation of each type with itself, for each side and span."""
    rows = []
    for kind, name in enumerate(TYPES[1:], 1):
        for side, layouts in sides.items():
            found, expected = np.sum([_own_pairs(layout, kind) for layout in layouts], axis=0)
            curve = found / np.maximum(expected, 1e-9)
            means = [curve[k].mean() for k in SPANS.values()]
            rows.append((side, name, *(f"{mean:.2f}" for mean in means)))
    return rows


def _own_pairs(layout: Layout, kind: int) -> np.ndarray:
    own = layout.centres[layout.types == kind]
    return _pairs(own, own, _ways(layout.published), layout.area)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="a prepared dataset")
    parser.add_argument("folders", type=Path, nargs="*", help="folders of layouts to judge")
    parser.add_argument("--pictures", nargs="+", default=["*"], help="patterns of names")
    parser.add_argument("--paired", action="store_true", help="each picture with its own file")
    parser.add_argument("--clusters", action="store_true", help="pairs of one type instead")
    options = parser.parse_args()
    print(machine("scipy"))
    real = [a for a in read_real(options.dataset, options.pictures) if len(a.types) > 1]
    print(f"{len(real)} pictures, {sum(len(a.types) for a in real):,} nuclei")
    if options.clusters:
        made = {folder.name: read_made(folder, real) for folder in options.folders}
        table(("layouts", "type", *SPANS), cluster_rows({"real": real, **made}))
        return
    rng = np.random.default_rng(1)
    sides = {
        "random points": [hard_core(layout, rng) for layout in real],
        "shuffled types": [shuffled(layout, rng) for layout in real],
    }
    sides |= {folder.name: read_made(folder, real) for folder in options.folders}
    known = [statistics(layout) for layout in real]
    rows = [row("real", compare(known, known))]
    for name, layouts in sides.items():
        measured = [statistics(layout) for layout in layouts]
        if options.paired:
            rows.append((name, *(f"{m(known, measured):.3f}" for m in MEASURES.values())))
        else:
            rows.append(row(name, compare(known, measured)))
    table(("layouts", *MEASURES), rows)


if __name__ == "__main__":
    main()

"""Ask for changes of single nuclei in real pictures, and let a segmenter read what is there.

    python benchmarks/edit_changes.py PICTURES NUCLEI [--edits 200] [--weights small]

PICTURES and NUCLEI are as in `edits.py`. A third of the edits each removes a nucleus, inserts one,
and gives one another type. The edits of a picture are painted together; they lie at least 32
micrometres apart. The segmenter of `nasdm-wsi evaluate` reads the picture before and after:

- As asked: no nucleus is found within 3 micrometres of a removed one; where one was inserted or
  changed, one of the right type is found.
- No other change: outside the repainted area, within 20 micrometres of the change, the segmenter
  finds the nuclei that it found before, of the same types, and no others.

The last column tells how often the segmenter reads nuclei of the untouched pictures as they are
annotated, which bounds the others.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import shapely
from edits import Bench
from measure import machine, table
from scipy.ndimage import center_of_mass

from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.editing import presets
from nasdm_wsi.editing.changes import ADDED, CHANGED, changes
from nasdm_wsi.model.evaluation.segmenter import decode, load, predict

NEAR, APART, BESIDE = 6, 64, 40  # pixels of 0.5 micrometres
MARGIN = 4.0  # micrometres, the default of `nasdm-wsi edit`


class Reader:
    """The nuclei that the segmenter finds in a picture: centroids (n, 2) as x, y, and types."""

    def __init__(self, picture: np.ndarray, network):
        kinds, instances = decode(predict(picture, network))
        numbers = np.arange(1, instances.max() + 1)
        centres = np.array(center_of_mass(instances > 0, instances, numbers)).reshape(-1, 2)
        self.centres = centres[:, ::-1]
        self.types = kinds[tuple(np.rint(centres).astype(int).T)]

    def type_at(self, point: np.ndarray) -> int:
        """Type of the nearest nucleus within `NEAR` pixels; 0 if there is none."""
        distance = np.linalg.norm(self.centres - point, axis=1)
        return int(self.types[distance.argmin()]) if distance.min(initial=np.inf) <= NEAR else 0

    def around(self, point: np.ndarray, area: shapely.Geometry) -> np.ndarray:
        """Return bool (n,): the nuclei outside an area and within `BESIDE` pixels of a point."""
        near = np.linalg.norm(self.centres - point, axis=1) <= BESIDE
        return near & ~shapely.contains_xy(area, *self.centres.T)

    def keeps(self, other: Reader, which: np.ndarray) -> bool:
        """Return whether these nuclei of ``other`` are found here too, of the same types."""
        pairs = zip(other.centres[which], other.types[which], strict=True)
        return all(self.type_at(point) == kind for point, kind in pairs)


def edited(nuclei: Nuclei, count: int, rng: np.random.Generator) -> Nuclei:
    """Return nuclei of which ``count`` were removed, as many inserted and as many changed."""
    for kind in rng.choice(TYPES[1:], count):
        nuclei = presets.insert(nuclei, kind, 1, rng=rng)
    for _ in range(count):
        there = [name for name in TYPES[1:] if (nuclei.types == TYPES.index(name)).any()]
        old = rng.choice(there)
        new = rng.choice([name for name in TYPES[1:] if name != old])
        nuclei = presets.swap(nuclei, old, new, rng=rng, amount=1)
    return presets.remove(nuclei, None, count, rng=rng)


def points(nuclei: Nuclei) -> np.ndarray:
    """Centroids (n, 2) as x, y."""
    return shapely.get_coordinates(shapely.centroid(nuclei.polygons()))


def scattered(places: np.ndarray) -> np.ndarray:
    """Indices of places of which no two lie within `APART` of each other; the first ones win."""
    kept: list[int] = []
    for k, place in enumerate(places):
        if all(np.linalg.norm(place - places[other]) > APART for other in kept):
            kept.append(k)
    return np.array(kept, int)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("pictures", "nuclei"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--weights", default="small")
    options = parser.parse_args()
    bench, network = Bench(options.pictures, options.nuclei, options.weights), load()
    rng, seen, beside = np.random.default_rng(0), defaultdict(list), []
    each = -(-options.edits // (3 * len(bench.names)))
    for name in bench.names:
        path, picture, nuclei = bench.load(name)
        before = Reader(picture, network)
        for point, kind in zip(points(nuclei), nuclei.types, strict=True):
            seen["real", TYPES[kind]].append(before.type_at(point) == kind)
        after_edit = edited(nuclei, each, rng)
        difference = changes(nuclei, after_edit)
        area = difference.area(MARGIN)
        after = Reader(bench.painted(path, after_edit, area, 0, difference), network)
        new = np.flatnonzero(np.isin(difference.states, [ADDED, CHANGED]))
        removed = points(difference.removed)
        # An outline that was scaled to another type is removed and added at one place.
        there = points(after_edit)[new]
        replaced = [np.linalg.norm(there - p, axis=1).min(initial=np.inf) < 1 for p in removed]
        removed = removed[~np.array(replaced, bool)]
        asked = [(p, 0) for p in removed]
        asked += list(zip(there, after_edit.types[new], strict=True))
        for k in scattered(np.array([p for p, _ in asked])):
            point, kind = asked[k]
            what = TYPES[kind] if kind else "removed"
            seen["asked", what].append(after.type_at(point) == kind)
            seen["found", what].append(after.type_at(point) > 0)
            beside.append(
                after.keeps(before, before.around(point, area))
                and before.keeps(after, after.around(point, area))
            )
    print(machine())
    rows = []
    for what in ("removed", *TYPES[1:]):
        shares = [np.mean(seen[which, what] or np.nan) for which in ("found", "asked", "real")]
        told = ("" if np.isnan(share) else f"{share:.0%}" for share in shares)
        rows.append((what, len(seen["asked", what]), *told))
    table(("asked for", "edits", "a nucleus is found", "as asked", "real ones as annotated"), rows)
    print(f"no other change: {np.mean(beside):.0%} of {len(beside)}")


if __name__ == "__main__":
    main()

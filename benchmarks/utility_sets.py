"""How near are painted sets to the pictures of another collection, and how varied are they?

    python benchmarks/utility_sets.py WORK [--folds dpath consep crag] [--patches 400]

WORK is a folder of `utility.py`. Random patches of 128 pixels of each set, without those painted
from a collection's own masks, are compared with patches of the held-out collection by the measures
of `nasdm-wsi evaluate` (features of EfficientNet-Lite0). All comparisons have the same number of
patches. Recall is the share of the collection's patches that lie among those of the set; the spread
is the root of the mean squared distance of a set's features to their mean, in units of that of the
collection.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "labels"))

from measure import machine, table  # noqa: E402
from utility_pictures import Labelled, read_set  # noqa: E402

from nasdm_wsi.model.evaluation.distances import (  # noqa: E402
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from nasdm_wsi.model.evaluation.evaluate import SIDE, efficientnet  # noqa: E402
from nasdm_wsi.tools.dataset import UNPUBLISHED  # noqa: E402

SETS = ("real", "masks", "stains", "edits", "layouts", "rare")


def patches(pictures: Sequence[Labelled], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random patches (count, SIDE, SIDE, 3) without unpublished pixels, and collections."""
    rng = np.random.default_rng(zlib.crc32(pictures[0].name.encode()))
    areas = np.array([(p.types != UNPUBLISHED).sum() for p in pictures], float)
    found, owners = [], []
    while len(found) < count:
        picture = pictures[rng.choice(len(pictures), p=areas / areas.sum())]
        h, w = picture.types.shape
        y, x = rng.integers(h - SIDE + 1), rng.integers(w - SIDE + 1)
        cut = np.s_[y : y + SIDE, x : x + SIDE]
        if (picture.types[cut] != UNPUBLISHED).all():
            found.append(picture.image[cut])
            owners.append(picture.collection)
    return np.stack(found), np.array(owners)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--folds", nargs="+", default=["dpath", "consep", "crag"])
    parser.add_argument("--patches", type=int, default=400, help="of each set")
    options = parser.parse_args()
    network = efficientnet()
    pictures = {way: read_set(options.work / "sets" / way) for way in SETS}
    seen = {}
    for way, those in pictures.items():
        cut, owners = patches([p for p in those if p.collection != "ink"], options.patches)
        seen[way] = network.of(cut)[0], owners
    print(machine(), "\n")
    rows = []
    for fold in options.folds:
        own = [p for p in pictures["real"] if p.collection == fold]
        others = {way: features[owners != fold] for way, (features, owners) in seen.items()}
        count = min(map(len, others.values()))
        real = network.of(patches(own, count)[0])[0]
        for way, features in others.items():
            rows.append((fold, way, *compared(real, features[:count])))
    columns = ("Fréchet distance", "kernel distance", "precision", "recall", "spread")
    table(("fold", "set", *columns), rows)


def compared(real: np.ndarray, features: np.ndarray) -> list[str]:
    """Distances, precision, recall and spread of features (n, d) against real ones."""
    spread = np.sqrt(features.var(0).sum() / real.var(0).sum())
    distances = frechet_distance(real, features), kernel_distance(real, features)
    precision, recall = precision_recall(real, features)
    return [
        f"{distances[0]:.1f}",
        f"{distances[1]:.4f}",
        *(f"{share:.2f}" for share in (precision, recall, spread)),
    ]


if __name__ == "__main__":
    main()

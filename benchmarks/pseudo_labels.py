"""Does training on pictures with pseudo-labels help, at equal cost?

    python benchmarks/pseudo_labels.py data/colon-regions -o worth [--images 6400] [--seeds 0 1]

DATASET is the one with all four collections, and with whole patients of GlaS held out
(docs/labels.md). The preset `small` is trained from scratch on the same number of crops of the
pictures with published nuclei alone; of these and of the pictures with pseudo-labels; and of the
same pictures with the pseudo-labels left out. The result is the mean squared error of estimates at
four noise levels, in two places: held-out rectangles of the pictures with published nuclei, and
the middle of pictures of the held-out patients, whose masks are pseudo-labels. Each training leaves
a line in the folder; the same command resumes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from measure import machine, table
from scenes import error
from trials import LEVELS, Trial, trained, trials

from nasdm_wsi.model.training.data import Crops
from nasdm_wsi.tools.dataset import UNPUBLISHED, Region, read_manifest, read_regions

GRID = 16  # sides of pictures are multiples of it
MIDDLE = (320, 480)  # pixels of a held-out patient's picture
PUBLISHED = {"lizard": 5 / 7, "consep": 2 / 7}
ALL = {"lizard": 0.50, "consep": 0.20, "glas": 0.18, "crc": 0.12}  # as for the shipped weights
ARMS = {  # shares, and whether pseudo-labels are told
    "published labels alone": (PUBLISHED, True),
    "and pseudo-labels": (ALL, True),
    "and the same pictures without labels": (ALL, False),
}


class Mixture(Crops):
    """Crops of which each collection has a fixed share; pseudo-labels may be left out.

    The share is that of the crops that are not centred near a nucleus: those are always taken from
    the pictures with published nuclei.
    """

    def __init__(self, dataset: Path, trial: Trial, shares: Mapping[str, float], *, pseudo: bool):
        how = trial.training
        super().__init__(dataset, crop=how.crop, rare_types=how.rare_types, seed=trial.seed)
        of = {row["name"]: row["collection"] for row in read_manifest(dataset)["regions"]}
        collections = np.array([of[region.name] for region in self.regions])
        for name in np.unique(collections):
            its = collections == name
            self.share[its] *= shares.get(name, 0) / self.share[its].sum()
        if not pseudo:
            self.regions = [_published(region) for region in self.regions]


def _published(region: Region) -> Region:
    return region if region.nuclei == "published" else replace(region, nuclei="none")


def judged(dataset: Path) -> dict[str, list[tuple[Region, tuple]]]:
    """The places of the two comparisons, each a region and slices (y, x)."""
    places: dict[str, list] = {"published nuclei": [], "held-out patients": []}
    for region in read_regions(dataset):
        whole = (0, 0, *region.types.shape)
        for y0, x0, y1, x1 in region.held_out:
            cut = np.s_[y0 : y1 - (y1 - y0) % GRID, x0 : x1 - (x1 - x0) % GRID]
            if region.nuclei == "published" and (region.types[cut] != UNPUBLISHED).all():
                places["published nuclei"].append((region, cut))
            elif region.nuclei == "pseudo" and (y0, x0, y1, x1) == whole:
                y, x = ((n - m) // 2 for n, m in zip(region.types.shape, MIDDLE, strict=True))
                middle = np.s_[y : y + MIDDLE[0], x : x + MIDDLE[1]]
                places["held-out patients"].append((region, middle))
    return places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--images", type=int, default=6_400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    options.output.mkdir(exist_ok=True)
    base, places = trials(options.images)["small"], judged(options.dataset)
    errors = np.zeros((len(options.seeds), len(ARMS), len(places) * len(LEVELS)))
    for k, seed in enumerate(options.seeds):
        for number, (shares, pseudo) in enumerate(ARMS.values()):
            done = options.output / f"{number}-{seed}-{options.images}.json"
            if not done.exists():
                trial = replace(base, seed=seed)
                crops = Mixture(options.dataset, trial, shares, pseudo=pseudo)
                denoise = trained(trial, [crops])
                found = [error(denoise, those, s) for those in places.values() for s in LEVELS]
                done.write_text(json.dumps(found))
            errors[k, number] = json.loads(done.read_text())

    print(machine("torch"))
    for name, those in places.items():
        print(f"{name}: {len(those)} places, {sum(r.types[c].size for r, c in those)} pixels")
    heads = [f"{name}, {level}" for name in places for level in LEVELS]
    rows = [
        (name, seed, *(f"{e:.5f}" for e in row))
        for seed, of_seed in zip(options.seeds, errors, strict=True)
        for name, row in zip(ARMS, of_seed, strict=True)
    ]
    table(("trained on", "seed", *heads), rows)
    means = errors.mean(0)
    changes = 100 * (means[1:] / means[0] - 1)
    print("\nchange of the mean of the seeds against the first training")
    rows = [
        (name, *(f"{c:+.1f} %" for c in row))
        for name, row in zip(list(ARMS)[1:], changes, strict=True)
    ]
    table(("trained on", *heads), rows)


if __name__ == "__main__":
    main()

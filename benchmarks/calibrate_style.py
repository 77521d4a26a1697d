"""How far is the stain of painted tissue from the one asked for? And weights that correct it.

    python benchmarks/calibrate_style.py DATASET [--weights NAME] [-o CORRECTED.safetensors]

Random places of the training area are painted from their masks, twice: in the stain of their own
picture and in that of another one, each changed at random as in training, but more strongly. The
first should look like the real pixels of the place, changed in the same way; the second should have
the style asked for, apart from the effect of more or fewer nuclei than in the other picture.

Printed are the errors of the six numbers of a style. A correction of haematoxylin is fitted to
them, and the errors that it leaves are printed as well, for places of a tenth of the pictures as
corrected by all others. ``-o`` writes the weights with the correction in them.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from measure import machine, table

from nasdm_wsi.annotations.labels import from_labels
from nasdm_wsi.errors import SlideError
from nasdm_wsi.job import default_workers
from nasdm_wsi.model import Painter
from nasdm_wsi.model.calibration import HAEMATOXYLIN, Correction
from nasdm_wsi.model.checkpoint import SHIPPED, find_weights, load_weights, save_weights
from nasdm_wsi.model.styles import NUMBERS, held
from nasdm_wsi.rendering import plan_render, render_region
from nasdm_wsi.slides.stain import StainStatistics, style_vector
from nasdm_wsi.tools.dataset import Region, random_box, read_regions

SIDE = 192  # pixels of a place
STRONGER = 1.6  # than the changes of stain in training
FOLDS = 10
KEPT = ("sampler", "mpp", "types", "planes", "halo", "guidance", "training")  # of a header


class Errors(NamedTuple):
    """Of n painted places: number of the picture (n,), styles asked for and errors (n, 6).

    own: whether a place has the stain of its own picture, (n,). denser: share of nuclei in the
    place, less that in the picture whose stain it has, (n,); 0 in its own stain.
    """

    picture: np.ndarray
    asked: np.ndarray
    error: np.ndarray
    own: np.ndarray
    denser: np.ndarray

    def correction(self) -> Correction:
        amounts, errors = self.asked[:, HAEMATOXYLIN], self.error[:, HAEMATOXYLIN]
        return Correction.of(amounts, errors, self.denser)

    def chosen(self, which: np.ndarray) -> Errors:
        return Errors(*(values[which] for values in self))

    def left(self) -> np.ndarray:
        """What is left of the errors of each picture, corrected by those of others, (n, 6)."""
        left = self.error.copy()
        for fold in range(FOLDS):
            aside = self.picture % FOLDS == fold
            known = self.chosen(~aside).correction()
            left[aside, HAEMATOXYLIN] -= known.error(self.asked[aside, HAEMATOXYLIN])
        return left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--weights", default=str(SHIPPED))
    parser.add_argument("--places", type=int, default=160)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    print(machine("torch"))
    logging.getLogger("nasdm_wsi").setLevel(logging.ERROR)
    regions = [r for r in read_regions(options.dataset) if r.nuclei == "published"]
    errors = measured(regions, Painter(options.weights), options.places)
    report(errors)
    if options.output:
        network, header = load_weights(find_weights(options.weights))
        correction = errors.correction()
        print(f"haematoxylin is told as {correction.scale:.3f} of it {correction.shift:+.3f}")
        correction.apply(network)
        save_weights(options.output, network, **{name: getattr(header, name) for name in KEPT})


def measured(regions: list[Region], painter: Painter, places: int) -> Errors:
    """Errors at so many places."""
    with ThreadPoolExecutor(default_workers()) as pool:
        found = pool.map(lambda k: list(errors_at(regions, painter, k)), range(places))
        rows = [row for rows in found for row in rows]
    return Errors(*map(np.array, zip(*rows, strict=True)))


def errors_at(regions: list[Region], painter: Painter, number: int) -> Iterator[tuple]:
    """Picture, style, error and density of a place; none where there is hardly any tissue."""
    rng = np.random.default_rng([0, number])
    share = np.sqrt([region.usable.sum() for region in regions])
    k, other = rng.choice(len(regions), 2, p=share / share.sum())
    region = regions[k]
    y0, x0, y1, x1 = random_box(region.usable, (SIDE, SIDE), rng)
    cut = np.s_[y0:y1, x0:x1]
    change, seed = changes(rng), int(rng.integers(1 << 31))
    own = region.stain.restained(change).style
    foreign = limited(regions[other].stain.restained(changes(rng)).style, painter)
    try:
        if np.array_equal(own, limited(own, painter)):
            real = StainStatistics.of(region.image[cut]).restained(change).style
            yield k, own, painted(region, cut, painter.restyled(own), seed) - real, True, 0.0
        style = painted(region, cut, painter.restyled(foreign), seed)
        denser = share_of_nuclei(region, cut) - share_of_nuclei(regions[other])
        yield k, foreign, style - foreign, False, denser
    except SlideError:
        return


def changes(rng: np.random.Generator) -> np.ndarray:
    """A change of stain (3, 3), as `nasdm_wsi.model.training.data.stain_matrix` but stronger."""
    hue = rng.normal(0, 0.04 * STRONGER, (3, 3)) * (1 - np.eye(3))
    return np.diag(np.exp(rng.normal(0, 0.2 * STRONGER, 3))) + hue


def limited(style: np.ndarray, painter: Painter) -> np.ndarray:
    network = painter.network
    return held(style, mean=network.style_mean.numpy(), spread=network.style_std.numpy())


def painted(region: Region, cut: tuple[slice, slice], painter: Painter, seed: int) -> np.ndarray:
    """Style (6,) of a place as painted."""
    nuclei = from_labels(region.instances[cut], region.types[cut], mpp=region.mpp)
    return style_vector(render_region(plan_render(nuclei, painter, size=(SIDE, SIDE), seed=seed)))


def share_of_nuclei(region: Region, cut: tuple[slice, ...] = ()) -> float:
    """Share of the usable pixels that lie in nuclei."""
    return float((region.types[cut][region.usable[cut]] > 0).mean())


def report(errors: Errors) -> None:
    """Print the errors as painted, and what a correction leaves of those in the own stain."""
    own = errors.own
    kinds = {
        "another picture's stain": errors.error[~own],
        "its own stain": errors.error[own],
        "its own stain, corrected": errors.left()[own],
    }
    rows = []
    for name, values in kinds.items():
        rows.append((name, f"mean of {len(values)}", *values.mean(0).round(3)))
        rows.append(("", "root mean square", *np.sqrt((values**2).mean(0)).round(3)))
    table(("error in", "", *NUMBERS), rows)


if __name__ == "__main__":
    main()

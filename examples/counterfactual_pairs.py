"""A hundred counterfactual pairs from one slide: the same place, with one nucleus of another type.

    python examples/counterfactual_pairs.py SLIDE NUCLEI OUT [--pairs 100] [--to eosinophil]

A pair is OUT/NNN-before.png, as it is in the slide, and OUT/NNN-after.png, in which the nucleus in
the middle has another type. All pixels farther than 4 micrometres from it are the same. A segmenter
that is sure of its types changes its answer for this nucleus and for no other; `pairs.csv` tells
the place and the types of each pair.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely
from PIL import Image

import nasdm_wsi
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.editing.changes import changes
from nasdm_wsi.editing.edit import edited
from nasdm_wsi.editing.presets import retype
from nasdm_wsi.model import Painter

SIDE = 128  # pixels of a picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("nuclei", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--to", choices=TYPES[1:], default="eosinophil")
    parser.add_argument("--mpp", type=float, help="of a slide that does not state it")
    parser.add_argument("--weights", default="small")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    nuclei = nasdm_wsi.read_annotations(options.nuclei, like=options.slide, mpp=options.mpp)
    painter = Painter(options.weights)
    centres = shapely.get_coordinates(shapely.centroid(nuclei.polygons()))
    others = np.flatnonzero(nuclei.types != TYPES.index(options.to))
    with open(options.out / "pairs.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["pair", "x", "y", "before", "after"])
        for number, k in enumerate(chosen(others, options.pairs)):
            before, after = pair(options.slide, nuclei, k, options.to, painter, options.mpp)
            Image.fromarray(before).save(options.out / f"{number:03}-before.png")
            Image.fromarray(after).save(options.out / f"{number:03}-after.png")
            place = centres[k].round(1).tolist()
            table.writerow([number, *place, TYPES[nuclei.types[k]], options.to])


def chosen(numbers: np.ndarray, count: int) -> list[int]:
    """Some of the numbers at random, the same each time."""
    return np.random.default_rng(0).permutation(numbers)[:count].tolist()


def pair(
    slide: Path,
    nuclei: nasdm_wsi.Nuclei,
    k: int,
    kind: str,
    painter: Painter,
    mpp: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The surroundings of nucleus k, uint8 (h, w, 3), before and after it has another type."""
    after = retype(nuclei, np.array([k]), kind, rng=np.random.default_rng(k))
    difference = changes(nuclei, after)
    area = difference.area(4.0)
    job = nasdm_wsi.plan_edit(slide, after, area, painter, mpp=mpp)
    x, y = nuclei.take(np.array([k])).polygons()[0].centroid.coords[0]
    scale = nuclei.mpp / job.known.mpp
    height, width = job.plan.size
    y0 = int(np.clip(round(y * scale) - SIDE // 2, 0, max(height - SIDE, 0)))
    x0 = int(np.clip(round(x * scale) - SIDE // 2, 0, max(width - SIDE, 0)))
    box = (y0, x0, min(y0 + SIDE, height), min(x0 + SIDE, width))
    return job.known.pixels(box), edited(replace(job, region=box), difference)


if __name__ == "__main__":
    main()

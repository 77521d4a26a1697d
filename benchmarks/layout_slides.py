"""How far slides rendered from layouts are from real patches, beside slides of real masks.

    python benchmarks/layout_slides.py data/held-out FOLDER ... [--seeds 3] [--windows 2]

FOLDER holds NAME.geojson for each picture if the layouts were made for the regions of the pictures
(`layouts_in_regions.py`), else layouts of any names, from which a window at random is taken for
each. Windows of 256 pixels of each picture are rendered from the published nuclei and the labels of
regions, and from each folder, all in the stain of the picture. Patches of 128 pixels are compared
with the real ones at the same places by the measures of `nasdm-wsi evaluate`. Layouts for the
regions of the pictures are rendered with these regions, others with their own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from measure import machine, table
from PIL import Image

from nasdm_wsi.annotations.formats import read_contents, read_regions
from nasdm_wsi.annotations.labels import from_labels
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.regions import REGIONS, Regions
from nasdm_wsi.model.evaluation.distances import frechet_distance, kernel_distance
from nasdm_wsi.model.evaluation.evaluate import SIDE, Features, efficientnet, known_patches
from nasdm_wsi.model.painter import Painter
from nasdm_wsi.rendering import plan_render, render_region
from nasdm_wsi.tools import dataset
from nasdm_wsi.tools.sources import UNPUBLISHED

WINDOW = 2 * SIDE


@dataclass(frozen=True)
class Place:
    """A window of a picture: its pixels, what is published, its nuclei and regions, and its stain.

    corner: (y, x) in the picture.
    """

    name: str
    corner: tuple[int, int]
    image: np.ndarray
    known: np.ndarray
    nuclei: Nuclei
    style: np.ndarray


def places(folder: Path, most: int) -> Iterator[Place]:
    """Yield windows along the diagonals of the pictures that are large enough."""
    for picture in dataset.read_regions(folder):
        if picture.regions is None:
            continue
        room = np.array(picture.types.shape) - WINDOW
        for share in (np.arange(most) + 0.5) / most:
            if min(room) < 0:
                break
            y, x = (int(n) for n in share * room)
            cut = np.s_[y : y + WINDOW, x : x + WINDOW]
            types = np.where(picture.types[cut] == UNPUBLISHED, 0, picture.types[cut])
            nuclei = from_labels(picture.instances[cut], types, mpp=picture.mpp)
            drawn = regions_of(picture.regions[cut], picture.mpp)
            yield Place(
                picture.name,
                (y, x),
                picture.image[cut],
                picture.types[cut] != UNPUBLISHED,
                replace(nuclei, regions=drawn),
                picture.stain.style,
            )


def regions_of(numbers: np.ndarray, mpp: float) -> Regions:
    """Return the regions of a label image."""
    names = {str(k): name for k, name in enumerate(REGIONS, 1)}
    there = {str(k) for k in np.unique(numbers)}
    with TemporaryDirectory() as folder:
        path = Path(folder, "regions.png")
        Image.fromarray(numbers).save(path)
        return read_regions(path, mpp=mpp, class_map={k: names[k] for k in there & {*names}})


def of_layouts(folder: Path, where: list[Place], seed: int) -> Iterator[Nuclei]:
    """Yield for each place the nuclei and regions of a window of a layout."""
    files = sorted(path for path in folder.iterdir() if path.name.endswith("json"))
    named = {path.stem: path for path in files}
    rng = np.random.default_rng(seed)
    for place, other in zip(where, cycle(files), strict=False):
        made = read_contents(named.get(place.name, other), mpp=place.nuclei.mpp).nuclei
        if place.name in named:
            window = _window(made, place.corner)
            yield replace(window, regions=place.nuclei.regions)
        else:
            y0, x0, y1, x1 = made.extent()
            y = int(rng.uniform(y0, y1 - WINDOW))
            yield _window(made, (y, int(rng.uniform(x0, x1 - WINDOW))))


def _window(nuclei: Nuclei, corner: tuple[int, int]) -> Nuclei:
    return nuclei.shifted(-corner[0], -corner[1]).within((0, 0, WINDOW, WINDOW))


def patches(where: list[Place], nuclei: list[Nuclei], painter: Painter, seed: int) -> np.ndarray:
    """Return the published patches of the windows as they are rendered."""
    found: list[np.ndarray] = []
    for place, drawn in zip(where, nuclei, strict=True):
        job = plan_render(drawn, painter.restyled(place.style), size=(WINDOW, WINDOW), seed=seed)
        found += known_patches(render_region(job, workers=1), place.known, 1)
    return np.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="a prepared dataset with labelled regions")
    parser.add_argument("folders", type=Path, nargs="*", help="folders of layouts")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=2, help="of each picture")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(machine("torch"))
    where = list(places(options.dataset, options.windows))
    network, painter = efficientnet(), Painter(device=options.device)
    real = [patch for place in where for patch in known_patches(place.image, place.known, 1)]
    known = network.of(np.stack(real))[0]
    print(f"{len(where)} windows, {len(real)} patches a side")
    measured: dict[str, list[tuple[float, float]]] = {}
    for seed in range(options.seeds):
        sides = {"real masks": [place.nuclei for place in where]}
        for folder in options.folders:
            sides[folder.name] = list(of_layouts(folder, where, seed))
        for name, nuclei in sides.items():
            features = _features(network, patches(where, nuclei, painter, seed))
            distances = frechet_distance(known, features), kernel_distance(known, features)
            measured.setdefault(name, []).append(distances)
            print(seed, name, *(f"{distance:.4g}" for distance in distances), flush=True)
    table(("slides of", "Fréchet distance", "kernel distance", "of real masks"), _rows(measured))


def _features(network: Features, pictures: np.ndarray) -> np.ndarray:
    return network.of(pictures)[0]


def _rows(measured: dict[str, list[tuple[float, float]]]) -> Iterator[tuple]:
    """Yield means over the seeds with the lowest and highest, and the ratios of the means."""
    first = np.mean(measured["real masks"], axis=0)
    for name, figures in measured.items():
        values = np.array(figures)
        mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
        cells = (f"{mean[k]:.4g} ({low[k]:.4g}-{high[k]:.4g})" for k in (0, 1))
        yield name, *cells, " and ".join(f"{ratio:.2f}" for ratio in mean / first)


if __name__ == "__main__":
    main()

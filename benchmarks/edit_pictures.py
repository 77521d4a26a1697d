"""Draw ten edits of a slide at full size, the worst first: before, after, and the difference.

    python benchmarks/edit_pictures.py SLIDE OUT.jpg [--box X Y WIDTH HEIGHT] [--seed 0]

The nuclei are those that the segmenter of `nasdm-wsi evaluate` finds in a box of SLIDE, which is
scanned at about 0.5 micrometres a pixel. In five random places a box of 128 pixels is painted anew
from its nuclei; in five others a nucleus is removed and another inserted. The left half of the
picture shows the first kind, the right half the second, each with the worst on top by the measures
of `edits.py`, which are printed. Differences are four times as large as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely
from edit_changes import points
from edits import Result
from PIL import Image

from nasdm_wsi.annotations.labels import from_labels
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.editing import presets
from nasdm_wsi.editing.changes import changes
from nasdm_wsi.editing.edit import edited, plan_edit
from nasdm_wsi.geometry import Box, grow, inside, intersect
from nasdm_wsi.model import Painter
from nasdm_wsi.model.evaluation.segmenter import decode, load, predict
from nasdm_wsi.slides.reading import open_slide

SIDE, RIM = 128, 32  # pixels of a place, and round it
APART, DENSE, FEWEST = 150, 0.75, 2  # pixels between places, share of tissue, nuclei in a place
WHITE = 215  # darkest channel of pixels that are not tissue, at least
KINDS = ("lymphocyte", "epithelial", "eosinophil", "plasma", "connective")  # to insert
USUAL = np.array([0.45, 0.01, 0.2])  # of the measures of borders between places without an edit


@dataclass
class Edits:
    """A slide that is edited: its path, pixels and nuclei, and the painter."""

    path: Path
    pixels: np.ndarray
    nuclei: Nuclei
    painter: Painter

    def of(self, place: Box, seed: int, kind: str | None, rng: np.random.Generator) -> Result:
        """Paint a place anew, or remove a nucleus there and insert one of a kind."""
        y0, x0, y1, x1 = place
        area, after, difference = shapely.box(x0, y0, x1, y1), self.nuclei, None
        if kind:
            after = self._changed(area, kind, rng)
            difference = changes(self.nuclei, after)
            area = difference.area(4.0)
        job = plan_edit(self.path, after, area, self.painter, seed=seed)
        canvas = (0, 0, *job.plan.size)
        region = intersect(grow(place, RIM), canvas)
        picture = self.pixels.copy()
        picture[inside(region, canvas)] = edited(replace(job, region=region), difference)
        what = f"one removed, one {kind} inserted" if kind else "painted anew"
        return Result(f"{x0}, {y0}: {what}", self.pixels, picture, place)

    def _changed(self, place: shapely.Polygon, kind: str, rng: np.random.Generator) -> Nuclei:
        inner = place.buffer(-20)
        chosen = rng.choice(
            np.flatnonzero(shapely.contains(inner, shapely.points(points(self.nuclei))))
        )
        after = self.nuclei.take(np.setdiff1d(np.arange(len(self.nuclei)), [chosen]))
        near = after.take(np.flatnonzero(shapely.intersects(after.polygons(), place)))
        new = presets.insert(near, kind, 1, rng=rng, fits=inner.contains)
        polygons = np.append(after.polygons(), new.polygons()[-1])
        types = np.append(after.types, new.types[-1])
        return Nuclei.from_polygons(polygons, types, mpp=after.mpp)


def places(pixels: np.ndarray, nuclei: Nuclei, box: Box, rng: np.random.Generator) -> Iterator[Box]:
    """Yield random places of tissue with nuclei in a box, apart from each other."""
    found: list[Box] = []
    centres = points(nuclei)
    while True:
        y, x = (int(rng.integers(a + RIM, b - SIDE - RIM)) for a, b in (box[::2], box[1::2]))
        place = y, x, y + SIDE, x + SIDE
        tissue = (pixels[inside(place, (0, 0, *pixels.shape[:2]))].min(axis=2) < WHITE).mean()
        inner = shapely.box(x, y, x + SIDE, y + SIDE).buffer(-20)
        enough = shapely.contains_xy(inner, *centres.T).sum() >= FEWEST
        near = any(np.hypot(y - other[0], x - other[1]) < APART for other in found)
        if tissue > DENSE and enough and not near:
            found.append(place)
            yield place


def badness(result: Result) -> float:
    """Return how far the worst measure of an edit is from what is usual, as a multiple of it."""
    measures = np.abs(result.border / USUAL).max(), result.stain / 0.05
    return float(max(*measures, abs(np.log(result.sharpness)) / np.log(1.25)))


def row(result: Result) -> np.ndarray:
    """Return before, after and difference of a place, side by side."""
    y0, x0, y1, x1 = result.box
    at = np.s_[y0 - RIM : y1 + RIM, x0 - RIM : x1 + RIM]
    before, after = result.before[at], result.after[at]
    difference = 255 - 4 * np.abs(after.astype(int) - before)
    parts = np.concatenate([before, after, np.clip(difference, 0, 255).astype(np.uint8)], axis=1)
    return np.pad(parts, ((0, 6), (0, 24), (0, 0)), constant_values=255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("slide", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--box", type=int, nargs=4, default=(500, 700, 1400, 1400))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with open_slide(options.slide) as slide:
        mpp, pixels = slide.mpp, slide.read((0, 0, *slide.size), mpp=slide.mpp)
    x, y, w, h = options.box
    box = y, x, y + h, x + w
    labels = np.zeros((2, *pixels.shape[:2]), np.int32)
    labels[:, *inside(box, (0, 0, *pixels.shape[:2]))] = decode(
        predict(pixels[inside(box, (0, 0, *pixels.shape[:2]))], load())
    )
    nuclei = from_labels(labels[1], labels[0].astype(np.uint8), mpp=mpp)
    edits = Edits(options.slide, pixels, nuclei, Painter("small", device="cpu"))
    rng = np.random.default_rng(options.seed)
    found = places(pixels, nuclei, box, rng)
    columns = []
    for kinds in ((None,) * len(KINDS), KINDS):
        results = [edits.of(next(found), k, kind, rng) for k, kind in enumerate(kinds)]
        results.sort(key=badness, reverse=True)
        for r in results:
            border = " ".join(f"{value:.2f}" for value in r.border)
            print(f"{r.name}: border {border}, stain {r.stain:.3f}, sharpness {r.sharpness:.2f}")
        columns.append(np.concatenate([row(r) for r in results]))
    Image.fromarray(np.concatenate(columns, axis=1)).save(options.out, quality=88, optimize=True)


if __name__ == "__main__":
    main()

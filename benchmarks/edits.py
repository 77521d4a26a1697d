"""Edit held-out real pictures at random, and measure what an edit must not show and what it must.

    python benchmarks/edits.py PICTURES NUCLEI OUT [--edits 20] [--weights small] [--side 128]

PICTURES holds NAME.png (at 0.5 micrometres a pixel) and NUCLEI holds NAME.npz with types and
instances, as `labels/nuclei.py` writes them. The pictures get two kinds of edits: boxes painted
anew from their own nuclei (identity), and single nuclei removed. OUT receives pictures, the worst
border first: before, after and four times the difference.

Measures, each compared with the same measure of the untouched picture at the same place:

- border: the mean gradient of luma across the border of the edit, divided by that across lines 4, 6
  and 8 pixels inside and outside it. A border is found if this ratio, divided by that of the
  untouched picture, lies outside the range that holds 19 of 20 ratios between two places of the
  same picture without an edit.
- stain: the largest difference of the mean optical density in red, green and blue between the
  inside and a ring of 32 pixels, beyond what the untouched picture has.
- sharpness: the mean squared Laplacian inside, divided by that of the untouched picture.
- identity: mean absolute difference in grey levels, and the correlation of luma.
- change: the mean amount of haematoxylin in nuclei that were removed: before, after, and when they
  are painted anew as they are.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from PIL import Image
from scipy.ndimage import laplace

from nasdm_wsi.annotations.labels import from_labels
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.editing import presets
from nasdm_wsi.editing.changes import Changes, changes
from nasdm_wsi.editing.edit import edited, plan_edit
from nasdm_wsi.model import Painter
from nasdm_wsi.slides.stain import haematoxylin
from nasdm_wsi.slides.tissue import optical_density

LUMA = np.array([0.299, 0.587, 0.114])
RING = 32  # pixels round the edit
CONTROLS = 40  # places without an edit, of each picture


@dataclass
class Result:
    """One edit: what was asked, the picture before and after, and the box of the edit."""

    name: str
    before: np.ndarray
    after: np.ndarray
    box: tuple[int, int, int, int]

    @property
    def border(self) -> float:
        """Gradient across the border after the edit, over that before it."""
        return border(self.after, self.box) / border(self.before, self.box)

    @property
    def stain(self) -> float:
        """Difference in stain between inside and ring, beyond that of the untouched picture."""
        after, before = (contrast(p, self.box) for p in (self.after, self.before))
        return float(np.abs(after - before).max())

    @property
    def sharpness(self) -> float:
        """Mean squared Laplacian inside, over that of the untouched picture."""
        y0, x0, y1, x1 = self.box
        inside = (p[y0:y1, x0:x1] @ LUMA for p in (self.after, self.before))
        after, before = ((laplace(luma) ** 2).mean() for luma in inside)
        return float(after / before)

    @property
    def likeness(self) -> tuple[float, float]:
        """Mean absolute difference inside, and the correlation of luma."""
        y0, x0, y1, x1 = self.box
        a, b = (p[y0:y1, x0:x1].astype(float) for p in (self.after, self.before))
        return float(np.abs(a - b).mean()), float(
            np.corrcoef((a @ LUMA).flat, (b @ LUMA).flat)[0, 1]
        )


def border(picture: np.ndarray, box: tuple[int, int, int, int]) -> float:
    """Mean gradient across the border of a box over that across lines near it."""
    luma = picture @ LUMA
    y0, x0, y1, x1 = box
    down, right = (np.abs(np.diff(luma, axis=axis)) for axis in (0, 1))

    def line(by: int) -> float:
        ys, xs = slice(y0 - by, y1 + by), slice(x0 - by, x1 + by)
        rows = down[y0 - 1 - by, xs], down[y1 - 1 + by, xs]
        columns = right[ys, x0 - 1 - by], right[ys, x1 - 1 + by]
        return float(np.concatenate([*rows, *columns]).mean())

    return line(0) / np.mean([line(by) for by in (-8, -6, -4, 4, 6, 8)])


def contrast(picture: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Mean optical density over R, G, B inside a box minus that of the ring round it."""
    y0, x0, y1, x1 = box
    ring = np.zeros(picture.shape[:2], bool)
    ring[max(y0 - RING, 0) : y1 + RING, max(x0 - RING, 0) : x1 + RING] = True
    ring[y0:y1, x0:x1] = False
    density = optical_density(picture)
    return density[y0:y1, x0:x1].mean((0, 1)) - density[ring].mean(0)


class Bench:
    """Pictures with nuclei, and a painter."""

    def __init__(self, pictures: Path, nuclei: Path, weights: str):
        self.painter, self.pictures, self.labels = Painter(weights, device="cpu"), pictures, nuclei
        labelled = {path.stem for path in nuclei.glob("*.npz")}
        self.names = sorted({path.stem for path in pictures.glob("*.png")} & labelled)

    def load(self, name: str) -> tuple[Path, np.ndarray, Nuclei]:
        path = self.pictures / f"{name}.png"
        with np.load(self.labels / f"{name}.npz") as file:
            nuclei = from_labels(file["instances"], file["types"], mpp=0.5)
        return path, np.array(Image.open(path).convert("RGB")), nuclei

    def painted(
        self,
        path: Path,
        nuclei: Nuclei,
        area: shapely.Geometry,
        seed: int,
        changes: Changes | None = None,
    ) -> np.ndarray:
        job = plan_edit(path, nuclei, area, self.painter, mpp=0.5, seed=seed)
        return edited(job, changes)


def identities(bench: Bench, count: int, side: int) -> list[Result]:
    """Paint boxes anew from the nuclei that are there."""
    rng, results = np.random.default_rng(0), []
    for k in range(count):
        name = bench.names[k % len(bench.names)]
        path, picture, nuclei = bench.load(name)
        h, w = picture.shape[:2]
        y, x = (int(rng.integers(RING, n - side - RING)) for n in (h, w))
        after = bench.painted(path, nuclei, shapely.box(x, y, x + side, y + side), k)
        results.append(Result(f"{name} {k}", picture, after, (y, x, y + side, x + side)))
    return results


def controls(bench: Bench, side: int) -> np.ndarray:
    """Ratios of borders between two random places of the same picture: no edit at all."""
    rng, ratios = np.random.default_rng(1), []
    for name in bench.names:
        _, picture, _ = bench.load(name)
        h, w = picture.shape[:2]
        found = []
        for _ in range(2 * CONTROLS):
            y, x = (int(rng.integers(RING, n - side - RING)) for n in (h, w))
            found.append(border(picture, (y, x, y + side, x + side)))
        ratios += [a / b for a, b in zip(found[::2], found[1::2], strict=True)]
    return np.array(ratios)


def removals(bench: Bench, count: int) -> np.ndarray:
    """Haematoxylin in single nuclei: before, painted anew as they are, removed: (n, 3)."""
    rng, rows = np.random.default_rng(2), []
    for name in bench.names:
        path, picture, nuclei = bench.load(name)
        few = presets.remove(nuclei, None, max(count // len(bench.names), 1), rng=rng)
        difference = changes(nuclei, few)
        area = difference.area(4.0)
        same = bench.painted(path, nuclei, area, 0)
        gone = bench.painted(path, few, area, 0, difference)
        for outline in difference.removed.polygons():
            x0, y0, x1, y1 = (int(n) for n in outline.bounds)
            yy, xx = np.mgrid[y0 : y1 + 1, x0 : x1 + 1]
            inside = shapely.contains_xy(outline, xx + 0.5, yy + 0.5)
            at = yy[inside], xx[inside]
            rows.append([haematoxylin(p[at]).mean() for p in (picture, same, gone)])
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("pictures", "nuclei", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--edits", type=int, default=20)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--weights", default="small")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.pictures, options.nuclei, options.weights)
    results = identities(bench, options.edits, options.side)
    low, high = np.quantile(controls(bench, options.side), [0.025, 0.975])
    nuclei = removals(bench, options.edits)
    results.sort(key=lambda r: -abs(np.log(r.border)))
    print(f"{options.edits} boxes of {options.side} pixels, painted anew from their own nuclei")
    print(f"border ratios of places without an edit: {low:.2f} to {high:.2f} (95 %)")
    print(f"{'edit':24} {'border':>7} {'stain':>6} {'sharp':>6} {'grey':>6} {'corr':>6}")
    for k, r in enumerate(results):
        y0, x0, y1, x1 = r.box
        at = slice(max(y0 - RING, 0), y1 + RING), slice(max(x0 - RING, 0), x1 + RING)
        difference = np.clip(255 - 4 * np.abs(r.after.astype(int) - r.before), 0, 255)
        row = np.concatenate([r.before[at], r.after[at], difference[at].astype(np.uint8)], axis=1)
        Image.fromarray(row).save(options.out / f"{k:02} {r.name}.png")
        grey, corr = r.likeness
        print(
            f"{r.name:24} {r.border:7.2f} {r.stain:6.3f} {r.sharpness:6.2f} {grey:6.1f} {corr:6.2f}"
        )
    found = sum(not low <= r.border <= high for r in results)
    print(f"borders found: {found} of {len(results)}")
    print(f"stain within 0.05: {sum(r.stain <= 0.05 for r in results)} of {len(results)}")
    before, same, gone = nuclei.mean(0)
    print(
        f"haematoxylin in {len(nuclei)} nuclei: {before:.2f} in the slide, {same:.2f} painted anew"
    )
    print(f"as they are, {gone:.2f} where they were removed")
    fallen = (nuclei[:, 2] < nuclei[:, 1]).mean()
    print(f"of the removed, {fallen:.0%} are paler than the same nucleus painted anew")


if __name__ == "__main__":
    main()

"""Edit held-out real pictures at random, and measure what an edit must not show and what it must.

    python benchmarks/edits.py PICTURES NUCLEI OUT [--edits 20] [--weights small] [--side 128]

PICTURES holds NAME.png (at 0.5 micrometres a pixel) and NUCLEI holds NAME.npz with types and
instances, as `labels/nuclei.py` writes them. The pictures get two kinds of edits: boxes painted
anew from their own nuclei (identity), and single nuclei removed. OUT receives pictures, the worst
border first: before, after and four times the difference.

Measures, each compared with the same measure of the untouched picture at the same place:

- border: three measures of `nasdm-wsi seams`, along the border of the edit. The mean gradient of
  luma across the border, divided by that across lines 16, 32 and 48 pixels inside and outside it;
  the divergence between the histograms of gradients within 8 pixels of the border and of those
  farther away; and sharpness within 8 pixels of the border, over that farther away. Each is
  compared with that of the untouched picture. A border is found if any of the three lies outside
  the range of differences between two places of the same picture without an edit, which holds 19
  of 20 of them, corrected for the three measures.
- stain: the largest difference of the mean optical density in red, green and blue between the
  inside and a ring of 48 pixels, beyond what the untouched picture has.
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
from scipy.spatial.distance import jensenshannon

from nasdm_wsi.annotations.labels import from_labels
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.editing import presets
from nasdm_wsi.editing.changes import Changes, changes
from nasdm_wsi.editing.edit import edited, plan_edit
from nasdm_wsi.model import Painter
from nasdm_wsi.slides.stain import haematoxylin
from nasdm_wsi.slides.tissue import optical_density
from nasdm_wsi.tools.seam_measures import BINS
from nasdm_wsi.tools.seams import LUMA

RING = 48  # pixels round the edit
LINES = (-48, -32, -16, 16, 32, 48)  # pixels from the border: whole JPEG blocks
CONTROLS = 40  # places without an edit, of each picture
ALARMS = 0.05  # share of places without an edit in which a border may be found


@dataclass
class Result:
    """One edit: what was asked, the picture before and after, and the box of the edit."""

    name: str
    before: np.ndarray
    after: np.ndarray
    box: tuple[int, int, int, int]

    @property
    def border(self) -> np.ndarray:
        """The measures of the border after the edit, beyond those before it, (3,)."""
        return border(self.after, self.box) - border(self.before, self.box)

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


def border(picture: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Measures of `nasdm-wsi seams` along the border of a box, (3,).

    Logarithms of the ratios of gradients and of sharpness, and the divergence of histograms.
    """
    luma = picture @ LUMA
    gradients = [np.abs(np.diff(luma, axis=axis)) for axis in (0, 1)]
    at, near = (np.mean([line(gradients, box, by) for by in lines]) for lines in ([0], LINES))
    ring, apart = (band(picture.shape[:2], box, *far) for far in ((0, 8), (8, 32)))
    down = np.abs(np.diff(luma, axis=0, prepend=luma[:1]))
    bins = [0, *BINS, 256]
    histograms = [np.histogram(down[mask], bins)[0] for mask in (ring, apart)]
    sharpness = laplace(luma) ** 2
    return np.array(
        [
            np.log(at / near),
            jensenshannon(*histograms, base=2) ** 2,
            np.log(sharpness[ring].mean() / sharpness[apart].mean()) / 2,
        ]
    )


def line(gradients: list[np.ndarray], box: tuple[int, int, int, int], by: int) -> float:
    """Mean gradient across the border of a box that is ``by`` pixels larger on each side."""
    (y0, x0, y1, x1), (down, right) = box, gradients
    ys, xs = slice(y0 - by, y1 + by), slice(x0 - by, x1 + by)
    rows = down[y0 - 1 - by, xs], down[y1 - 1 + by, xs]
    columns = right[ys, x0 - 1 - by], right[ys, x1 - 1 + by]
    return float(np.concatenate([*rows, *columns]).mean())


def band(size: tuple[int, int], box: tuple[int, int, int, int], near: int, far: int) -> np.ndarray:
    """Return bool (h, w): pixels from ``near`` to ``far`` pixels off the border of a box."""
    y0, x0, y1, x1 = box
    y, x = np.ogrid[: size[0], : size[1]]
    outside = np.maximum(np.maximum(y0 - y, y - y1 + 1), np.maximum(x0 - x, x - x1 + 1))
    distance = np.where(outside > 0, outside - 1, -outside)
    return (distance >= near) & (distance < far)


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
    """Differences (n, 3) between two random places of the same picture: no edit at all."""
    rng, differences = np.random.default_rng(1), []
    for name in bench.names:
        _, picture, _ = bench.load(name)
        h, w = picture.shape[:2]
        found = []
        for _ in range(2 * CONTROLS):
            y, x = (int(rng.integers(RING, n - side - RING)) for n in (h, w))
            found.append(border(picture, (y, x, y + side, x + side)))
        differences += [a - b for a, b in zip(found[::2], found[1::2], strict=True)]
    return np.array(differences)


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


def save(results: list[Result], out: Path) -> None:
    """Write a picture of each edit, and all edits with their surroundings as arrays."""
    sides = []
    for k, r in enumerate(results):
        y0, x0, y1, x1 = r.box
        at = slice(y0 - RING, y1 + RING), slice(x0 - RING, x1 + RING)
        difference = np.clip(255 - 4 * np.abs(r.after.astype(int) - r.before), 0, 255)
        row = [r.before[at], r.after[at], difference[at].astype(np.uint8)]
        Image.fromarray(np.concatenate(row, axis=1)).save(out / f"{k:02} {r.name}.png")
        sides.append(np.stack(row[:2]))
    np.savez_compressed(
        out / "edits.npz", pictures=np.array(sides), names=[r.name for r in results]
    )


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
    alarm = ALARMS / 6  # on either side, of three measures
    low, high = np.quantile(controls(bench, options.side), [alarm, 1 - alarm], axis=0)
    nuclei = removals(bench, options.edits)
    results.sort(key=lambda r: -np.abs(r.border / high).max())
    save(results, options.out)
    print(f"{options.edits} boxes of {options.side} pixels, painted anew from their own nuclei")
    told = ", ".join(f"{a:.2f} to {b:.2f}" for a, b in zip(low, high, strict=True))
    print(f"differences between places without an edit: {told}")
    names = ("gradient", "histogram", "sharpness", "stain", "sharp", "grey", "corr")
    print(f"{'edit':24} " + " ".join(f"{name:>9}" for name in names))
    for r in results:
        row = (*r.border, r.stain, r.sharpness, *r.likeness)
        print(f"{r.name:24} " + " ".join(f"{value:9.2f}" for value in row))
    found = sum(bool(((r.border < low) | (r.border > high)).any()) for r in results)
    print(f"borders found: {found} of {len(results)}")
    sharp = np.array([r.sharpness for r in results])
    fitting = ((sharp > 0.8) & (sharp < 1.25)).sum()
    print(f"sharpness: median {np.median(sharp):.2f}; 0.8 to 1.25 in {fitting} of {len(results)}")
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

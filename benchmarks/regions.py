"""Are regions painted where they are asked for? Read back from drawings without nuclei.

    python benchmarks/regions.py DATASET [--weights small medium] [--steps 4] [--picture OUT.png]

DATASET is a prepared one with regions (docs/labels.md). A small reader learns from its pictures
what the ground of each region looks like, away from nuclei, and is judged on pictures that it has
not seen. Then blobs and stripes of each region are drawn on ground of another one, painted in the
stains of held-out pictures, and read. Printed is the share of the pixels, at least 12 micrometres
inside of the drawing, that are read as what was asked for; beside it that of real regions, and how
many pixels of each region are far from all nuclei, from which a network could learn this.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import shapely
import torch
from PIL import Image
from torch import nn

from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.annotations.regions import PALETTE, REGIONS, Regions
from nasdm_wsi.model.painter import Painter
from nasdm_wsi.model.planes import REGIONS as PAINTED
from nasdm_wsi.rendering import plan_render, render_region
from nasdm_wsi.tools.dataset import Region, read_regions

INSIDE = 12.0  # micrometres from the border of a region, where it is judged
LEARNT_INSIDE = 2.0  # micrometres; where it is learnt: blood lies in small spots
SPREADS = (1.5, 5.0, 12.0)  # pixels of 1 micrometre; the scales of the features
AWAY = 2  # pixels of 1 micrometre round a nucleus that the reader does not see
SIDE = 384  # pixels of a drawing
KEPT_ASIDE = 5  # of so many pictures one is not learnt from
DRAWN = 300  # pixels of each region and picture that are learnt from


@dataclass(frozen=True)
class Ground:
    """Features (h, w, f) of a picture at 1 micrometre, and its regions (h, w) away from borders."""

    features: np.ndarray
    regions: np.ndarray


def features(rgb: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """Features (h / 2, w / 2, f) of a picture at 0.5 micrometres, whose nuclei are left out.

    At each of `SPREADS`: the means of the optical density in three colours, the logarithms of their
    deviations (which tell even glass from uneven mucus), and how much the density runs in one
    direction.
    """
    h, w = (side // 2 for side in nuclei.shape)
    small = cv2.resize(rgb[: 2 * h, : 2 * w], (w, h), interpolation=cv2.INTER_AREA)
    density = -np.log10(np.clip(small / np.float32(255), 1 / 255, 1)).astype(np.float32)
    hidden = cv2.dilate(nuclei[: 2 * h : 2, : 2 * w : 2].astype(np.uint8), disk(AWAY))
    seen = (1 - hidden).astype(np.float32)
    dx, dy = (cv2.Sobel(density.mean(2), -1, *order) * seen for order in ((1, 0), (0, 1)))
    out = []
    for spread in SPREADS:
        share = blur(seen, spread) + 1e-3
        mean = blur(density * seen[..., None], spread) / share[..., None]
        square = blur(density**2 * seen[..., None], spread) / share[..., None]
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        xx, yy, xy = (blur(a * b, spread) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
        along = np.sqrt((xx - yy) ** 2 + 4 * xy**2) / (xx + yy + 1e-4)
        out += [mean, np.log(deviation + 1e-3), along[..., None]]
    return np.concatenate(out, axis=2)


def blur(x: np.ndarray, spread: float) -> np.ndarray:
    return cv2.GaussianBlur(x, (0, 0), spread)


def disk(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def inner(regions: np.ndarray, mpp: float, least: float) -> np.ndarray:
    """Regions uint8 (h, w) with 0 within ``least`` micrometres of a border of theirs."""
    out = np.zeros_like(regions)
    for number in np.unique(regions[regions > 0]):
        depth = cv2.distanceTransform((regions == number).astype(np.uint8), cv2.DIST_L2, 5)
        out[depth * mpp >= least] = number
    return out


def ground(
    rgb: np.ndarray,
    regions: np.ndarray,
    nuclei: np.ndarray,
    mpp: float,
    least: float = INSIDE,
) -> Ground:
    """The ground of a picture; pixels in nuclei belong to no region."""
    kept = np.where(nuclei, 0, inner(regions, mpp, least))
    h, w = (side // 2 for side in kept.shape)
    return Ground(features(rgb, nuclei), kept[: 2 * h : 2, : 2 * w : 2])


def bare(picture: Region) -> np.ndarray:
    """Pixels of each region of a picture: all, and those `INSIDE` micrometres from all nuclei."""
    free = (picture.types % 255 == 0).astype(np.uint8)
    far = cv2.distanceTransform(free, cv2.DIST_L2, 5) * picture.mpp >= INSIDE
    labels = picture.regions
    assert labels is not None
    most = len(PAINTED) + 1
    counts = [np.bincount(labels[where], minlength=most)[1:most] for where in (labels > 0, far)]
    return np.stack(counts)


class Reader:
    """A network of two hidden layers that reads the region of a pixel from its features."""

    def __init__(self, grounds: list[Ground], *, steps: int = 1500):
        rng = np.random.default_rng(0)
        x, y = map(np.concatenate, zip(*self._pixels(grounds, rng), strict=True))
        self.mean, self.spread = x.mean(0), x.std(0) + 1e-6
        self.network = nn.Sequential(
            nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
            nn.Linear(64, len(PAINTED)),
        )  # fmt: skip
        pools = [np.flatnonzero(y == number) for number in range(len(PAINTED))]
        pools = [pool for pool in pools if len(pool)]
        optimiser = torch.optim.AdamW(self.network.parameters(), 3e-3, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            chosen = np.concatenate([rng.choice(pool, 64) for pool in pools])
            loss = nn.functional.cross_entropy(
                self.network(self._scaled(x[chosen])), torch.from_numpy(y[chosen])
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()

    @staticmethod
    def _pixels(
        grounds: list[Ground], rng: np.random.Generator
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for each in grounds:
            for number in range(1, len(PAINTED) + 1):
                rows = each.features[each.regions == number]
                rows = rng.permutation(rows)[:DRAWN]
                yield rows, np.full(len(rows), number - 1)

    def _scaled(self, x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(((x - self.mean) / self.spread).astype(np.float32))

    @torch.inference_mode()
    def read(self, features: np.ndarray) -> np.ndarray:
        """Numbers (n,) of the regions of features (n, f), or (h, w) of (h, w, f)."""
        return self.network(self._scaled(features)).argmax(-1).numpy() + 1


def confusion(reader: Reader, grounds: list[Ground]) -> np.ndarray:
    """Counts (asked or labelled, read) over all pixels of grounds."""
    counts = np.zeros((len(PAINTED), len(PAINTED)))
    for each in grounds:
        known = (each.regions > 0) & (each.regions <= len(PAINTED))
        read = reader.read(each.features[known])
        np.add.at(counts, (each.regions[known] - 1, read - 1), 1)
    return counts


def drawing(name: str, seed: int) -> Regions:
    """A blob or a stripe of a region on ground of another one."""
    rng = np.random.default_rng([seed, REGIONS.index(name)])
    around = "epithelium" if name == "stroma" else "stroma"
    if seed % 2:
        angle, wide = rng.uniform(0, np.pi), rng.uniform(110, 160)
        way = 2 * SIDE * np.array([np.cos(angle), np.sin(angle)])
        shape = shapely.LineString([SIDE / 2 - way, SIDE / 2 + way]).buffer(wide / 2)
    else:
        angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        waves = sum(rng.normal(0, 0.12) * np.sin(k * angles + rng.uniform(0, 6)) for k in (2, 3, 5))
        ring = np.stack([np.cos(angles), np.sin(angles)], 1) * (120 * (1 + waves))[:, None]
        shape = shapely.Polygon(ring + SIDE / 2).buffer(0)
    whole = shapely.box(0, 0, SIDE, SIDE)
    shape = max(shapely.get_parts(shape.intersection(whole)), key=lambda part: part.area)
    return Regions.from_polygons([whole, shape], [around, name], mpp=0.5)


def painted(name: str, seed: int, painter: Painter) -> tuple[np.ndarray, np.ndarray]:
    """The picture, uint8 (h, w, 3), of a drawing, and its regions (h, w) without the ground."""
    nuclei = Nuclei.from_polygons([], [], mpp=0.5, regions=drawing(name, seed))
    job = plan_render(nuclei, painter, size=(SIDE, SIDE), seed=seed)
    regions = Conditioning(job.nuclei, (SIDE, SIDE)).regions((0, 0, SIDE, SIDE))
    asked = regions == REGIONS.index(name) + 1
    return render_region(job, workers=1), np.where(asked, regions, 0)


def shown(rows: list[list[tuple[np.ndarray, np.ndarray]]]) -> Image.Image:
    """All drawings of a painter: a row a region, the drawing beside the picture."""
    return Image.fromarray(
        np.vstack([np.hstack([np.hstack([PALETTE[r], p]) for p, r in row]) for row in rows])
    )


def table(title: str, counts: np.ndarray) -> None:
    """Print the share read as each region, of all that is asked for."""
    print(f"\n{title}\n{'':12}" + "".join(f"{name:>12}" for name in PAINTED))
    for name, row in zip(PAINTED, counts, strict=True):
        share = row / max(row.sum(), 1)
        print(f"{name:12}" + "".join(f"{100 * s:11.1f}%" for s in share), f"{row.sum():10.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--weights", nargs="+", default=["small", "medium"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--drawings", type=int, default=4, help="of each region")
    parser.add_argument("--pictures", type=int, default=150, help="most to learn from")
    parser.add_argument("--picture", type=Path, help="of the drawings of the first weights")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    learnt, kept, near, styles = [], [], [], []
    pixels = np.zeros((2, len(PAINTED)), int)
    for k, region in enumerate(some(options.dataset, options.pictures)):
        picture = region.image, region.regions, region.types % 255 > 0, region.mpp
        pixels += bare(region)
        if k % KEPT_ASIDE:
            learnt.append(ground(*picture, LEARNT_INSIDE))
        else:
            kept.append(ground(*picture))
            near.append(ground(*picture, LEARNT_INSIDE))
            styles.append(region.stain.style)
    for name, total, far in zip(PAINTED, *pixels, strict=True):
        share = 100 * far / max(total, 1)
        print(f"{name:12}{share:5.1f}% of {total} pixels are {INSIDE:g} micrometres from nuclei")
    reader = Reader(learnt)
    table(f"real: {len(kept)} pictures that the reader has not seen", confusion(reader, kept))
    table(f"the same, {LEARNT_INSIDE:g} micrometres inside", confusion(reader, near))
    chosen = np.linspace(0, len(styles) - 1, options.drawings).astype(int)
    for weights in options.weights:
        painter, counts, rows = Painter(weights, steps=options.steps), 0, []
        for name in PAINTED:
            row = [
                painted(name, seed, painter.restyled(styles[chosen[seed]]))
                for seed in range(options.drawings)
            ]
            none = np.zeros((SIDE, SIDE), bool)
            grounds = [ground(picture, asked, none, painter.mpp) for picture, asked in row]
            counts = counts + confusion(reader, grounds)
            rows.append(row)
        table(f"{weights}, {options.steps} steps", counts)
        if options.picture and weights == options.weights[0]:
            shown(rows).save(options.picture)


def some(dataset: Path, most: int) -> Iterator[Region]:
    """Regions with labels of their regions, evenly spread, up to ``most``."""
    regions = [region for region in read_regions(dataset) if region.regions is not None]
    step = max(1, -(-len(regions) // most))
    yield from regions[::step]


if __name__ == "__main__":
    main()

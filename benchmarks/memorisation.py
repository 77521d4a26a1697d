"""Does a model repeat its training pictures? Nearest training patches of what it paints.

    python benchmarks/memorisation.py DATASET [--weights small] [--picture OUT.jpg]
    python benchmarks/memorisation.py DATASET --painted FOLDER ...

Held-out rectangles of a prepared dataset are painted from their masks. Each painted patch of 128
pixels is compared with all patches of the training area, in the features of EfficientNet-Lite0 and
of Lite1, and so is the real patch of the same place. If the model repeated training pictures, the
painted patches would lie nearer to them than real ones, which it has not seen either. Distances of
each space are given in units of the median distance of a real patch.

With ``--painted``, patches of painted pictures in folders are compared in place of those of the
held-out rectangles. Black pixels in them are not published.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from nasdm_wsi.model.evaluation.distances import squared_distances
from nasdm_wsi.model.evaluation.evaluate import SIDE, held_out, known_patches, paint
from nasdm_wsi.model.evaluation.features import efficientnet_lite
from nasdm_wsi.model.painter import Painter
from nasdm_wsi.tools.dataset import UNPUBLISHED, read_regions

BATCH = 32
SHOWN = 10
GAP = 4  # pixels between patches of the picture

Measure = Callable[[np.ndarray], np.ndarray]


def features_of(size: int) -> Measure:
    """The pooled features (n, d) of patches uint8 (n, h, w, 3) by EfficientNet-Lite of a size."""
    network = efficientnet_lite(size)

    @torch.inference_mode()
    def measure(patches: np.ndarray) -> np.ndarray:
        out = []
        for first in range(0, len(patches), BATCH):
            x = torch.from_numpy(patches[first : first + BATCH]).permute(0, 3, 1, 2).float()
            x = F.interpolate((x - 127) / 128, (224, 224), mode="bicubic", antialias=True)
            out.append(network.extract_features(x).mean(dim=(2, 3)).numpy())
        return np.concatenate(out)

    return measure


def training_patches(dataset: Path, stride: int) -> np.ndarray:
    """All patches uint8 (n, SIDE, SIDE, 3) of the training area, ``stride`` pixels apart."""
    out = []
    for region in read_regions(dataset):
        usable = region.usable
        for y in range(0, usable.shape[0] - SIDE + 1, stride):
            for x in range(0, usable.shape[1] - SIDE + 1, stride):
                cut = np.s_[y : y + SIDE, x : x + SIDE]
                if usable[cut].all():
                    out.append(region.image[cut])
    return np.stack(out)


def held_out_patches(dataset: Path, painter: Painter | None) -> tuple[np.ndarray, np.ndarray]:
    """Real patches of the held-out rectangles and painted ones at the same places.

    Without a painter nothing is painted, and both are the same.
    """
    real, painted = [], []
    for region, cut in held_out(dataset, mpp=painter.mpp if painter else None):
        known = region.types[cut] != UNPUBLISHED
        real += known_patches(region.image[cut], known)
        painted += known_patches(paint(region, cut, painter), known) if painter else []
    return np.stack(real), np.stack(painted or real)


def patches_of(folder: Path, count: int) -> np.ndarray:
    """Random patches uint8 (count, SIDE, SIDE, 3) without black pixels, of pictures in a folder."""
    rng = np.random.default_rng(0)
    suffixes = (".webp", ".png", ".jpg", ".tif")
    pictures = [
        np.array(Image.open(p).convert("RGB"))
        for p in sorted(folder.iterdir())
        if p.suffix in suffixes
    ]
    out: list[np.ndarray] = []
    while len(out) < count:
        picture = pictures[rng.integers(len(pictures))]
        y, x = (rng.integers(side - SIDE + 1) for side in picture.shape[:2])
        patch = picture[y : y + SIDE, x : x + SIDE]
        if patch.any(axis=-1).all():
            out.append(patch)
    return np.stack(out)


def pairs(painted: np.ndarray, training: np.ndarray) -> np.ndarray:
    """A picture of painted patches above their nearest training patches."""
    rows = []
    for row in (painted, training):
        framed = [np.pad(p, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for p in row]
        rows.append(np.hstack(framed))
    return np.vstack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--weights", default="small")
    parser.add_argument("--stride", type=int, default=48, help="pixels between training patches")
    parser.add_argument("--painted", type=Path, nargs="+", default=[], help="folders of pictures")
    parser.add_argument("--picture", type=Path, help="the nearest pairs of Lite0")
    options = parser.parse_args()
    torch.set_num_threads(1)
    training = training_patches(options.dataset, options.stride)
    real, painted = held_out_patches(
        options.dataset, None if options.painted else Painter(options.weights)
    )
    sets = {f.name: patches_of(f, len(real)) for f in options.painted} or {"painted": painted}
    print(f"{len(training)} training patches; {len(real)} of each other kind")
    print(f"{'':20}{'median':>9}{'5 %':>9}{'nearest':>9}{'nearer than all real':>23}")
    for size in (0, 1):
        measure = features_of(size)
        seen = measure(training)
        squared = {
            name: squared_distances(measure(patches), seen)
            for name, patches in {"real": real, **sets}.items()
        }
        unit = np.sqrt(np.median(squared["real"].min(1)))
        distance = {name: np.sqrt(d.min(1)) / unit for name, d in squared.items()}
        for name, d in distance.items():
            below = (d < distance["real"].min()).sum()
            print(
                f"Lite{size}, {name:13}{np.median(d):9.3f}{np.quantile(d, 0.05):9.3f}"
                f"{d.min():9.3f}{below:16} of {len(d)}"
            )
        if size == 0 and options.picture:
            name, patches = next(iter(sets.items()))
            other = squared[name]
            nearest = distinct(np.argsort(other.min(1)), other.argmin(1))[:SHOWN]
            picture = pairs(patches[nearest], training[other.argmin(1)[nearest]])
            Image.fromarray(picture).save(options.picture, quality=85)


def distinct(order: np.ndarray, match: np.ndarray) -> list[int]:
    """Those of ``order`` whose match none before them has: overlapping patches often share it."""
    taken: set[int] = set()
    out = []
    for k in order:
        if int(match[k]) not in taken:
            taken.add(int(match[k]))
            out.append(int(k))
    return out


if __name__ == "__main__":
    main()

"""Quality of a model: distances to real held-out patches, and agreement of nuclei with the mask.

Shrivastava and Fletcher (2023) use Fréchet Inception Distance and Inception Score.
Inception needs its own weights, which this package may not distribute. Without them, the same
measures use the features of EfficientNet-Lite0, and their names say so.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...annotations.labels import from_labels
from ...errors import CheckpointError, DatasetError
from ...job import default_workers
from ...rendering import plan_render, render_region
from ...tools.dataset import (
    UNPUBLISHED,
    Region,
    at_mpp,
    random_box,
    read_manifest,
    read_regions,
)
from ..checkpoint import SHIPPED
from ..devices import one_thread
from ..painter import Painter
from .agreement import judges
from .distances import (
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
    squared_distances,
)
from .features import efficientnet_lite

SIDE = 128  # pixels of a patch
STRIDE = 32  # between patches of a held-out rectangle
LEAST_PATCHES = 8
BATCH = 64

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features:
    """A network whose features are compared, and its name in the names of the figures.

    measure: uint8 (n, h, w, 3) -> features (n, d) and class probabilities (n, c).
    """

    name: str
    measure: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

    def of(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Apply `measure` to any number of pictures, on all cores."""

        @torch.inference_mode()
        def measure(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            with one_thread:
                return self.measure(part)

        with ThreadPoolExecutor(default_workers()) as pool:
            parts = (pictures[i : i + BATCH] for i in range(0, len(pictures), BATCH))
            measured, probabilities = zip(*pool.map(measure, parts), strict=True)
        return np.concatenate(measured), np.concatenate(probabilities)


def efficientnet() -> Features:
    """EfficientNet-Lite0, trained on ImageNet, with 1280 features; needs the extra ``evaluate``.

    Raises:
        NasdmError: the packages are not installed.
    """
    network = efficientnet_lite(0)

    def measure(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - 127) / 128
        x = F.interpolate(x, (224, 224), mode="bicubic", antialias=True)
        features = network.extract_features(x).mean(dim=(2, 3))
        return features.numpy(), network._fc(features).softmax(dim=1).numpy()

    return Features("EfficientNet-Lite0", measure)


def inception(path: Path) -> Features:
    """Return the Inception of the FID, with 2048 features, from ``inception-2015-12-05.pt``.

    Raises:
        CheckpointError: not such a file.
    """
    try:
        network = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a TorchScript file of Inception: inception-2015-12-05.pt is needed"
        ) from error

    def measure(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        features = network(x, return_features=True)
        return features.numpy(), network(x, no_output_bias=True).numpy()

    return Features("Inception", measure)


def evaluate(
    dataset: Path,
    *,
    features: Features,
    weights: Path = SHIPPED,
    magnification: int = 20,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **painting: Any,
) -> dict[str, Any]:
    """Render every held-out rectangle from its mask and compare it with the real pixels.

    The pictures are brought to the painter's pixel size. At `magnification` 10, twice the side is
    rendered and halved. ``painting`` is passed to `Painter`. Returns a row of figures by name;
    under "inputs" dataset and weights, under "patches" pairs of real and painted patches, and under
    "worst" the painted patch of each rectangle that is least like any real one, worst first.

    Raises:
        DatasetError: held-out rectangles have room for hardly any patches, or pixels that cannot be
            brought to the painter's.
    """
    step = {20: 1, 10: 2}[magnification]
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    owners: list[int] = []
    painter = Painter(weights, **painting)
    agreement = {"real": judges(painter.mpp), "painted": judges(painter.mpp)}
    places = list(held_out(dataset, least=SIDE * step, mpp=painter.mpp))
    elsewhere = [patch for place in places for patch in patches_elsewhere(*place, step)]

    def painted_at(place: tuple[Region, Any]) -> np.ndarray:
        return paint(*place, painter, seed=seed)

    with ThreadPoolExecutor(default_workers()) as pool:  # a rectangle is less than a block
        for done, ((region, cut), painted) in enumerate(
            zip(places, pool.map(painted_at, places), strict=True)
        ):
            real, types = region.image[cut], region.types[cut]
            for name, picture in (("real", real), ("painted", painted)):
                for judge in agreement[name]:
                    judge.add(picture, region.instances[cut], types)
            known = types != UNPUBLISHED
            both = (known_patches(picture, known, step) for picture in (real, painted))
            shown = list(zip(*both, strict=True))
            pairs += shown
            owners += [done] * len(shown)
            if progress:
                progress(done + 1, len(places))
    if len(pairs) < LEAST_PATCHES:
        raise DatasetError(
            f"{dataset}: room for {len(pairs)} patches of {SIDE * step} pixels in held-out "
            f"rectangles, {LEAST_PATCHES} are needed: prepare more pictures or a larger share"
        )
    sides = (np.stack(side) for side in zip(*pairs, strict=True))
    (a, _), (b, probabilities) = (features.of(side) for side in sides)
    c = features.of(np.stack(elsewhere))[0] if elsewhere else a[:0]
    row = compare(a, b, c, probabilities, name=features.name)
    figures = {
        name: {k: v for j in agreement[name] for k, v in j.figures().items()} for name in agreement
    }
    row |= {
        f"{key} ({name})": told[key] for key in figures["real"] for name, told in figures.items()
    }
    by_strangeness = np.argsort(-squared_distances(b, a).min(axis=1))
    _, first = np.unique(np.array(owners)[by_strangeness], return_index=True)
    return {
        "inputs": (Path(dataset), Path(weights)),
        "patches": pairs,
        "worst": by_strangeness[np.sort(first)].tolist(),
        "count": len(pairs),
        **row,
    }


def held_out(
    dataset: Path, *, least: int = SIDE, mpp: float | None = None
) -> Iterator[tuple[Region, Any]]:
    """Yield regions with the slices (y, x) of their held-out rectangles of ``least`` pixels a side.

    With ``mpp`` the regions are brought to that pixel size. Regions without published nuclei are
    left out; if there are no others, those with pseudo-labels are taken, with a warning.

    Raises:
        DatasetError: the dataset cannot be used, or its pixels cannot be brought to that size.
    """
    origins = {row["labels"]["nuclei"] for row in read_manifest(dataset)["regions"]}
    wanted = {"published"} if "published" in origins else origins - {"none"}
    if "published" not in wanted:
        log.warning("%s: no published nuclei: the masks are pseudo-labels", dataset)
    for region in read_regions(dataset):
        if region.nuclei not in wanted:
            continue
        region = region if mpp is None else at_mpp(region, mpp)
        for y0, x0, y1, x1 in region.held_out:
            if min(y1 - y0, x1 - x0) >= least:
                yield region, np.s_[y0:y1, x0:x1]


def paint(region: Region, cut: Any, painter: Painter, *, seed: int = 0) -> np.ndarray:
    """Return a part of a region, painted from its mask in the region's style, uint8 (h, w, 3).

    The region has the painter's pixel size.
    """
    types = region.types[cut]
    nuclei = from_labels(region.instances[cut], types, mpp=region.mpp)
    if painter.styled:
        painter = painter.restyled(region.stain.style)
    return render_region(plan_render(nuclei, painter, size=types.shape, seed=seed))


def compare(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, probabilities: np.ndarray, *, name: str
) -> dict[str, float]:
    """Return all distances between features (n, d), by names that end in that of the features.

    a: real, b: painted, c: real ones from other places in the same pictures, as a reference for the
    distances.
    probabilities: (n, classes), of the painted pictures.
    """
    half = np.random.default_rng(0).permutation(len(a))
    precision, recall = precision_recall(a, b)
    others = (frechet_distance(a, c), kernel_distance(a, c)) if len(c) > 1 else (np.nan, np.nan)
    return {
        f"Fréchet distance ({name})": frechet_distance(a, b),
        f"Fréchet distance of two halves of the real ({name})": frechet_distance(
            a[half[: len(a) // 2]], a[half[len(a) // 2 :]]
        ),
        f"Fréchet distance of the real to others ({name})": others[0],
        f"kernel distance ({name})": kernel_distance(a, b),
        f"kernel distance of the real to others ({name})": others[1],
        f"score ({name})": inception_score(probabilities),
        f"precision ({name})": precision,
        f"recall ({name})": recall,
    }


# Ablations

ABLATIONS: dict[str, list[dict[str, Any]]] = {
    "guidance": [{"guidance": s} for s in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)],  # paper, Figure 2
    "steps": [{"steps": n} for n in (4, 6, 8, 10, 20, 50)],
    "magnification": [{"magnification": m} for m in (20, 10)],  # an ablation of the paper
}


def ablate(
    dataset: Path, settings: Iterable[dict[str, Any]], **options: Any
) -> Iterator[dict[str, Any]]:
    """Run `evaluate` for each of ``settings``, such as {"guidance": 1.5}; rows begin with them."""
    for changed in settings:
        log.info("evaluating %s", changed)
        yield {**changed, **evaluate(dataset, **options, **changed)}


def _patches(picture: np.ndarray, step: int) -> list[np.ndarray]:
    """Overlapping patches of SIDE pixels, evenly spread, after halving where ``step`` is 2."""
    h, w, *channels = picture.shape
    h, w = h // step, w // step
    blocks = picture[: h * step, : w * step].reshape(h, step, w, step, *channels)
    small = np.floor(blocks.mean(axis=(1, 3)) + 0.5).astype(picture.dtype)
    starts = [
        np.linspace(0, n - SIDE, 1 + round((n - SIDE) / STRIDE)).astype(int)
        for n in small.shape[:2]
    ]
    return [small[y : y + SIDE, x : x + SIDE] for y in starts[0] for x in starts[1]]


def known_patches(picture: np.ndarray, known: np.ndarray, step: int = 1) -> list[np.ndarray]:
    """Return the `_patches` whose pixels are all ``known``, bool (h, w)."""
    hidden = _patches(np.uint8(255) * ~known, step)
    return [a for a, h in zip(_patches(picture, step), hidden, strict=True) if not h.any()]


def patches_elsewhere(region: Region, cut: Any, step: int) -> list[np.ndarray]:
    """Return real patches of an equally large rectangle at a random place that is not held out."""
    usable = region.usable
    rng = np.random.default_rng(zlib.crc32(region.name.encode()))
    y0, x0, y1, x1 = random_box(usable, usable[cut].shape, rng)
    other = np.s_[y0:y1, x0:x1]
    return known_patches(region.image[other], usable[other], step)

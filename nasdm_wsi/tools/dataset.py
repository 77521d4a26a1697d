"""The prepared dataset, which `prepare` writes and training reads.

DATASET/manifest.json           regions, held-out rectangles, counts, stain, seed
DATASET/NAME/image.png          uint8 (h, w, 3)
DATASET/NAME/types.png          uint8 (h, w): 0 background, 1..6 nucleus type, 255 unpublished
DATASET/NAME/instances.tif      uint32 (h, w): 0 background, else the nucleus
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from ..annotations.types import TYPES
from ..errors import DatasetError, OutputError, SlideError
from ..geometry import Box
from ..output import check_writable, keep_inputs, whole_or_nothing
from ..slides.reading import tissue_sample
from ..slides.stain import BACKENDS, StainStatistics, fit_stains, normalise
from .sources import UNPUBLISHED, Labelled, find, read_labels, read_picture

HELD_OUT = 0.075  # share of each image's area (Shrivastava and Fletcher, 2023)
MPP = 0.5
COARSEST = 100.0  # micrometres per pixel
FORMAT = 1
MANIFEST = "manifest.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Region:
    """One picture with its labels, all arrays (h, w, ...); mpp: micrometres per pixel."""

    name: str
    mpp: float
    image: np.ndarray
    types: np.ndarray
    instances: np.ndarray
    held_out: tuple[Box, ...]
    stain: StainStatistics

    @property
    def usable(self) -> np.ndarray:
        """Bool (h, w): published and not held out."""
        usable = self.types != UNPUBLISHED
        for y0, x0, y1, x1 in self.held_out:
            usable[y0:y1, x0:x1] = False
        return usable


def prepare(
    sources: list[Path],
    out: Path,
    *,
    seed: int = 0,
    held_out: float = HELD_OUT,
    mpp: float = MPP,
    exclude: tuple[str, ...] = (),
    folds: tuple[int, ...] = (),
    normalise_to: Path | None = None,
    stain_backend: str = "vahadane",
    progress: Callable[[str, int, int], None] | None = None,
    **classes: Any,
) -> list[dict]:
    """Turn folders of labelled pictures into one prepared dataset and return its manifest's rows.

    A source has one of the layouts of `sources`: Lizard's, as one folder or as downloaded, or a
    folder of ``NAME.png`` with ``NAME_classes.png``, where 255 marks unpublished pixels. Touching
    nuclei of one type are split where only types are given. ``classes`` (``class_map``,
    ``ignore_classes``) say what the numbers of HoVer-Net and CoNSeP mean. A share ``held_out`` of
    each picture's area is set aside as a rectangle whose place depends on ``seed`` and the name
    alone. The pictures have ``mpp`` micrometres per pixel, all of them the same. Those named in
    ``exclude`` are left out; ``folds`` picks those of some folds of Lizard as downloaded. With
    ``normalise_to``, a picture or slide, the stains of each source are estimated once, from all its
    pictures, and replaced by those of the target; ``stain_backend`` is one of `stain.BACKENDS`.

    Raises:
        DatasetError: a source has neither layout, a picture and its labels do not fit, or no pixel
            is as large as ``mpp``.
        OutputError: ``out`` exists already, or cannot be written.
    """
    out = Path(out)
    keep_inputs([out], [*sources, normalise_to])
    if not 0 < mpp <= COARSEST:
        raise DatasetError(f"pixels of {mpp} micrometres: give `mpp` from 0 to {COARSEST}")
    found = [(row, k) for k, source in enumerate(sources) for row in find(Path(source))]
    names = [row.name for row, _ in found]
    if unknown := set(exclude) - set(names):
        raise DatasetError(f"there is no picture {sorted(unknown)[0]!r} to exclude")
    if absent := set(folds) - {row.fold for row, _ in found}:
        raise DatasetError(f"there is no fold {min(absent)}: `folds` are those of info.csv")
    found = [
        (row, k) for row, k in found if row.name not in exclude and (not folds or row.fold in folds)
    ]
    if twice := {n for n in names if names.count(n) > 1}:
        raise DatasetError(f"two pictures are called {sorted(twice)[0]!r}: rename one of them")
    if out.exists():
        raise OutputError(f"{out} exists: choose another folder or remove it")
    check_writable(out)
    repaint = _repainters(found, normalise_to, mpp, BACKENDS[stain_backend], progress)
    rows = []
    with whole_or_nothing(out) as part:
        for done, (labelled, k) in enumerate(found):
            folder = part / labelled.name
            row = _prepare_region(labelled, folder, seed, held_out, repaint[k], classes)
            rows.append({**row, "mpp": mpp, "fold": labelled.fold})
            if progress:
                progress("preparing", done + 1, len(found))
        manifest = {"format": FORMAT, "mpp": mpp, "seed": seed, "regions": rows}
        if normalise_to is not None:
            manifest["normalised"] = {"target": str(normalise_to), "backend": stain_backend}
        text = json.dumps(manifest, indent=1)
        (part / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
    return rows


def read_manifest(path: Path) -> dict:
    """Return the manifest of a prepared dataset, with the pixel size of each region.

    Raises:
        DatasetError: ``path`` is no prepared dataset, of another version, or damaged.
    """
    try:
        manifest = json.loads((Path(path) / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise DatasetError(f"{path}: dataset format {manifest['format']} is not {FORMAT}")
        for row in manifest["regions"]:
            # Earlier manifests told one pixel size for all regions.
            row["mpp"] = float(row.get("mpp", manifest["mpp"]))
    except DatasetError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} is no prepared dataset: make one with prepare") from error
    return manifest


def read_regions(path: Path) -> Iterator[Region]:
    """Yield the regions of a prepared dataset, in the manifest's order.

    Raises:
        DatasetError: it is no prepared dataset, or it is damaged.
    """
    for row in read_manifest(path)["regions"]:
        try:
            yield _read_region(Path(path), row)
        except Exception as error:  # each codec has its own
            name, reason = row.get("name", "a region"), " ".join(str(error).split())
            raise DatasetError(
                f"{path}: {name} is damaged ({reason}): prepare the data again"
            ) from error


def dataset_mpp(path: Path) -> float:
    """Return the pixel size that all regions of a prepared dataset share, in micrometres.

    Raises:
        DatasetError: it is no prepared dataset, or its regions have several pixel sizes.
    """
    sizes = sorted({row["mpp"] for row in read_manifest(path)["regions"]})
    if len(sizes) != 1:
        raise DatasetError(
            f"{path}: regions have pixels of {' and '.join(f'{s:g}' for s in sizes)} micrometres: "
            "prepare one dataset for each"
        )
    return sizes[0]


def at_mpp(region: Region, mpp: float) -> Region:
    """Return a region at ``mpp``, which must be a whole multiple of its own pixel size.

    Pixels of the image are averaged, and of the labels every second (third, ...) one is taken. The
    remainder at the right and bottom is cut off.

    Raises:
        DatasetError: ``mpp`` is no whole multiple of the region's pixel size.
    """
    step = round(mpp / region.mpp)
    if step < 1 or abs(step * region.mpp - mpp) > 0.01 * mpp:
        raise DatasetError(
            f"{region.name} has pixels of {region.mpp:g} micrometres, which cannot be brought to "
            f"{mpp:g}: prepare the pictures at that size"
        )
    if step == 1:
        return region
    h, w = (n // step * step for n in region.types.shape)
    blocks = region.image[:h, :w].reshape(h // step, step, w // step, step, 3)
    held_out = (
        (y0 // step, x0 // step, y1 // step, x1 // step) for y0, x0, y1, x1 in region.held_out
    )
    return replace(
        region,
        mpp=mpp,
        image=np.floor(blocks.mean(axis=(1, 3)) + 0.5).astype(np.uint8),
        types=region.types[:h:step, :w:step],
        instances=region.instances[:h:step, :w:step],
        held_out=tuple(held_out),
    )


def _read_region(path: Path, row: dict) -> Region:
    folder = path / row["name"]
    region = Region(
        name=row["name"],
        mpp=row["mpp"],
        image=read_picture(folder / "image.png"),
        types=read_picture(folder / "types.png"),
        instances=tifffile.imread(folder / "instances.tif"),
        held_out=tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in row["held_out"]),
        stain=StainStatistics(
            np.array(row["stain_mean"], float), np.array(row["stain_covariance"], float)
        ),
    )
    if region.stain.mean.shape != (3,) or region.stain.covariance.shape != (3, 3):
        raise ValueError("stain_mean or stain_covariance is of another size")
    size = region.types.shape
    if region.image.shape != (*size, 3) or region.instances.shape != size or len(size) != 2:
        raise ValueError("image, types and instances are not of one size")
    return region


def window_sums(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Sums of ``mask`` (h, w) over every window of ``size``: (h - size_y + 1, w - size_x + 1)."""
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    table[1:, 1:] = mask.cumsum(0, dtype=np.int64).cumsum(1)
    a, b = size
    return table[a:, b:] - table[:-a, b:] - table[a:, :-b] + table[:-a, :-b]


def random_box(mask: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> Box:
    """Draw uniformly one of the boxes of ``size`` that contain the most of ``mask`` (h, w)."""
    sums = window_sums(mask, size)
    y, x = np.unravel_index(rng.choice(np.flatnonzero(sums == sums.max())), sums.shape)
    return int(y), int(x), int(y) + size[0], int(x) + size[1]


Repaint = Callable[[np.ndarray], np.ndarray]


def _repainters(
    found: list[tuple[Labelled, int]],
    target: Path | None,
    mpp: float,
    extract: Callable[[np.ndarray], np.ndarray],
    progress: Callable[[str, int, int], None] | None,
) -> dict[int, Repaint]:
    """Return for each source the function for its pictures: normalisation, or identity."""
    sources = sorted({k for _, k in found})
    if target is None:
        return {k: lambda picture: picture for k in sources}
    wanted = fit_stains(tissue_sample(target, mpp=mpp), extract=extract)
    repaint: dict[int, Repaint] = {}
    for done, source in enumerate(sources):
        pooled = [_pixels_of(row.picture, row.labels) for row, k in found if k == source]
        own = fit_stains(np.concatenate(pooled), extract=extract)
        repaint[source] = partial(normalise, source=own, target=wanted)
        if progress:
            progress("fitting stains", done + 1, len(sources))
    return repaint


def _pixels_of(picture: Path, labels: Path, count: int = 20_000) -> np.ndarray:
    """Sample published pixels of a picture, uint8 (n, 3)."""
    image = read_picture(picture)[..., :3].reshape(-1, 3)
    if labels.suffix.casefold() != ".mat":
        image = image[read_picture(labels).ravel() != UNPUBLISHED]
    return np.random.default_rng(0).permutation(image)[:count]


def _prepare_region(
    row: Labelled,
    folder: Path,
    seed: int,
    held_out: float,
    repaint: Repaint,
    classes: dict[str, Any],
) -> dict:
    name, picture, labels = row.name, row.picture, row.labels
    try:
        image = read_picture(picture)[..., :3]
        instances, types = read_labels(labels, **classes)
    except (OSError, SyntaxError) as error:
        raise DatasetError(f"{picture} or its labels cannot be read: {error}") from error
    if image.ndim != 3 or image.dtype != np.uint8 or image.shape[:2] != types.shape:
        raise DatasetError(
            f"{picture} and {labels.name} do not fit: RGB of the labels' size wanted"
        )
    if stray := sorted(set(np.unique(types)) - {*range(len(TYPES)), UNPUBLISHED}):
        raise DatasetError(f"{labels}: type {stray[0]} is none of 0..6 and 255")
    published = types != UNPUBLISHED
    image = np.where(published[..., None], repaint(image), image)
    try:
        stain = StainStatistics.of(image[published])
    except SlideError as error:
        raise DatasetError(f"{picture}: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / "image.png")
    Image.fromarray(types).save(folder / "types.png")
    tifffile.imwrite(
        folder / "instances.tif", instances.astype(np.uint32), compression="zlib", predictor=True
    )
    _, first = np.unique(instances, return_index=True)
    counts = np.bincount(types.flat[first[1:]], minlength=len(TYPES))
    return {
        "name": name,
        "source": str(picture),
        "size": list(types.shape),
        "published": int(published.sum()),
        "held_out": [held_out_box(published, held_out, name, seed)] if held_out else [],
        "nuclei": {t: int(c) for t, c in zip(TYPES[1:], counts[1:], strict=False)},
        "stain_mean": stain.mean.tolist(),
        "stain_covariance": stain.covariance.tolist(),
    }


def held_out_box(published: np.ndarray, share: float, name: str, seed: int) -> list[int]:
    """Draw a square of ``share`` of the published area that is published as far as possible."""
    side = max(1, round((share * published.sum()) ** 0.5))
    size = (min(side, published.shape[0]), min(side, published.shape[1]))
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return list(random_box(published, size, rng))

"""The prepared dataset, which `prepare` writes and training reads.

DATASET/manifest.json           regions, held-out rectangles, counts, stain, seed
DATASET/NAME/image.png          uint8 (h, w, 3)
DATASET/NAME/types.png          uint8 (h, w): 0 background, 1..6 nucleus type, 255 unpublished
DATASET/NAME/instances.tif      uint32 (h, w): 0 background, else the nucleus
DATASET/NAME/regions.png        uint8 (h, w): 0 unknown, else the region; not in all folders
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from ..errors import DatasetError
from ..geometry import Box
from ..slides.stain import StainStatistics
from .sources import UNPUBLISHED

FORMAT = 2
FORMATS = (1, FORMAT)  # which can be read; the first knew neither regions nor pseudo-labels
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Region:
    """One picture with its labels, all arrays (h, w, ...); mpp: micrometres per pixel.

    nuclei, tissue: where the labels of nuclei and of regions come from (`sources.Labelled`).
    regions: uint8 (h, w), 0 = unknown, else a number of `annotations.regions`; None if none are
    labelled. histology: one of `sources.HISTOLOGIES`, or empty.
    """

    name: str
    mpp: float
    image: np.ndarray
    types: np.ndarray
    instances: np.ndarray
    held_out: tuple[Box, ...]
    stain: StainStatistics
    nuclei: str = "published"
    tissue: str = "none"
    regions: np.ndarray | None = None
    histology: str = ""

    @property
    def usable(self) -> np.ndarray:
        """Bool (h, w): published and not held out."""
        usable = self.types != UNPUBLISHED
        for y0, x0, y1, x1 in self.held_out:
            usable[y0:y1, x0:x1] = False
        return usable


def read_manifest(path: Path) -> dict:
    """Return the manifest of a prepared dataset, with the pixel size of each region.

    Raises:
        DatasetError: ``path`` is not a prepared dataset, of another version, or damaged.
    """
    try:
        manifest = json.loads((Path(path) / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] not in FORMATS:
            raise DatasetError(f"{path}: dataset format {manifest['format']} is not {FORMAT}")
        for row in manifest["regions"]:
            # Earlier manifests told one pixel size for all regions.
            row["mpp"] = float(row.get("mpp", manifest["mpp"]))
            row.setdefault("labels", {"nuclei": "published", "regions": "none"})
    except DatasetError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} is not a prepared dataset: make one with prepare") from error
    return manifest


def read_regions(path: Path) -> Iterator[Region]:
    """Yield the regions of a prepared dataset, in the manifest's order.

    Raises:
        DatasetError: it is not a prepared dataset, or it is damaged.
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
        DatasetError: it is not a prepared dataset, or its regions have several pixel sizes.
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
        regions=None if region.regions is None else region.regions[:h:step, :w:step],
        held_out=tuple(held_out),
    )


def _read_region(path: Path, row: dict) -> Region:
    folder = path / row["name"]
    region = Region(
        name=row["name"],
        mpp=row["mpp"],
        image=_pixels(folder / "image.png"),
        types=_pixels(folder / "types.png"),
        instances=tifffile.imread(folder / "instances.tif"),
        held_out=tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in row["held_out"]),
        stain=StainStatistics(
            np.array(row["stain_mean"], float), np.array(row["stain_covariance"], float)
        ),
        nuclei=row["labels"]["nuclei"],
        tissue=row["labels"]["regions"],
        regions=_pixels(folder / "regions.png") if row["labels"]["regions"] != "none" else None,
        histology=row.get("histology", ""),
    )
    if region.stain.mean.shape != (3,) or region.stain.covariance.shape != (3, 3):
        raise ValueError("stain_mean or stain_covariance is of another size")
    size = region.types.shape
    if region.image.shape != (*size, 3) or region.instances.shape != size or len(size) != 2:
        raise ValueError("image, types and instances are not of one size")
    if region.regions is not None and region.regions.shape != size:
        raise ValueError("image and regions are not of one size")
    return region


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.array(file)


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

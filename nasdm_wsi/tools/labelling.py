"""The labels of one picture of a source, brought to the pixel size of a dataset."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from ..annotations.classes import ClassNames
from ..annotations.contents import Source
from ..annotations.findings import Findings
from ..annotations.formats import read_contents, read_regions
from ..annotations.hovernet_mat import is_hovernet, read_instances
from ..annotations.labels import split_touching
from ..annotations.lizard import read_mat_labels
from ..annotations.nuclei import Nuclei
from ..annotations.parsers import BYTES, MAX_PIXELS, check_pixels
from ..annotations.raster import Conditioning
from ..annotations.regions import REGIONS
from ..annotations.types import TYPES
from ..errors import DatasetError
from ..slides.stain import haematoxylin
from .sources import PICTURES, UNPUBLISHED, Labelled

POINT_REACH = 6.0  # micrometres; a nucleus drawn at a point reaches no farther
POINT_LEAST = 2.0  # and at least as far
POINT_SMOOTHING = 0.5  # micrometres; of the haematoxylin that it follows

Labels = tuple[np.ndarray, np.ndarray]  # instances int (h, w), and types uint8 (h, w)


@dataclass(frozen=True)
class Frame:
    """A picture of ``own`` (h, w) at ``own_mpp``, and what it becomes: ``size`` at ``mpp``."""

    own: tuple[int, int]
    own_mpp: float
    size: tuple[int, int]
    mpp: float

    @classmethod
    def of(cls, own: tuple[int, int], own_mpp: float, mpp: float) -> Frame:
        """Return the frame whose size is that of the picture to the nearest pixel."""
        scale = own_mpp / mpp
        height, width = (max(1, round(side * scale)) for side in own)
        return cls(own, own_mpp, (height, width), mpp)

    def picture(self, image: np.ndarray) -> np.ndarray:
        """Resample a picture, uint8 (h, w, 3), with a cubic kernel as wide as the larger pixel."""
        if self.size == self.own:
            return image
        resized = Image.fromarray(image).resize(self.size[::-1], Image.Resampling.BICUBIC)
        return np.array(resized)

    def labels(self, labels: np.ndarray, path: Path) -> np.ndarray:
        """Resample labels (h, w), which have the picture's size or already the new one.

        Raises:
            DatasetError: they have another size.
        """
        if labels.shape not in (self.own, self.size):
            sizes = " x ".join(map(str, labels.shape)), " x ".join(map(str, self.own))
            raise DatasetError(
                f"{path}: labels of {sizes[0]} pixels do not fit the picture of {sizes[1]}: "
                "labels of the picture's size are needed"
            )
        return nearest(labels, self.size)


def nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample labels (h, w) to ``size``: each pixel has the label at its centre."""
    if labels.shape == size:
        return labels
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(int)
        for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


def read_rgb(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return a picture, uint8 (h, w, 3).

    Raises:
        DatasetError: it cannot be read, is too large, or is not of 8 bits and three colours.
    """
    image = _pixels(path, max_pixels, modes=("RGB", "RGBA", "L", "P", "1"))[..., :3]
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DatasetError(f"{path} is not an 8-bit RGB picture: convert it")
    return image


def nuclei_of(row: Labelled, image: np.ndarray, frame: Frame, **reading: Any) -> Labels:
    """Return the nuclei of a picture in its frame; all background if it has no labels.

    image: uint8 (h, w, 3), the picture in its frame. ``reading``: as in `read_labels`.

    Raises:
        DatasetError: the labels do not fit.
        AnnotationError: damaged labels, or an unknown class.
    """
    if row.points:
        centres, types = read_points(row.points, **reading)
        scale = np.divide(frame.size, frame.own)
        instances = grown(centres * scale, image, mpp=frame.mpp)
        return instances, np.append(np.uint8(0), types)[instances]
    if row.labels is None:
        return np.zeros(frame.size, np.int32), np.zeros(frame.size, np.uint8)
    if row.labels.suffix.casefold() in (".mat", ".npz", *PICTURES):
        instances, types = read_labels(row.labels, **reading)
        return frame.labels(instances, row.labels), frame.labels(types, row.labels)
    nuclei = read_contents(row.labels, mpp=frame.own_mpp, **reading).checked().scaled(frame.mpp)
    return Conditioning(nuclei, frame.size).labels((0, 0, *frame.size))


def regions_of(row: Labelled, frame: Frame, max_pixels: int = MAX_PIXELS) -> np.ndarray | None:
    """Return the numbers of the regions of a picture in its frame, uint8 (h, w); None without any.

    Raises:
        DatasetError: they do not fit, or have numbers of no region.
        AnnotationError: an annotation file without regions, or a damaged one.
    """
    if row.regions is None:
        return None
    if row.regions.suffix.casefold() not in PICTURES:
        drawn = read_regions(row.regions, mpp=frame.own_mpp, max_pixels=max_pixels)
        nuclei = Nuclei.from_polygons([], [], mpp=frame.mpp, regions=drawn.scaled(frame.mpp))
        return Conditioning(nuclei, frame.size).regions((0, 0, *frame.size))
    regions = frame.labels(_pixels(row.regions, max_pixels), row.regions)
    if (largest := int(regions.max(initial=0))) > len(REGIONS):
        raise DatasetError(
            f"{row.regions}: {largest} is not the number of a region: use 0 for unknown and 1 to "
            f"{len(REGIONS)} for {', '.join(REGIONS)}"
        )
    return regions.astype(np.uint8)


def read_labels(
    path: Path,
    *,
    class_map: Mapping[str, str] | None = None,
    ignore_classes: Iterable[str] = (),
    max_pixels: int = MAX_PIXELS,
) -> Labels:
    """Return instances int (h, w), 0 = none, and types uint8 (h, w), 255 where nothing is known.

    ``class_map`` and ``ignore_classes`` say what the numbers of HoVer-Net and CoNSeP mean; nuclei
    that are left out count as unknown.

    Raises:
        AnnotationError: damaged labels, or an unknown class.
        DatasetError: a picture of types or arrays that cannot be read, or are too large.
    """
    if path.suffix.casefold() == ".npz":
        return _read_arrays(path, max_pixels)
    if path.suffix.casefold() != ".mat":
        types = _pixels(path, max_pixels)
        if types.ndim != 2:
            raise DatasetError(
                f"{path} has {types.shape[2]} channels: save the types as one, with their numbers "
                "as grey values"
            )
        return split_touching(types), types
    if not is_hovernet(path):
        return read_mat_labels(path, max_pixels)
    instances, names = read_instances(Source(path, max_pixels=max_pixels))
    findings = Findings(path, ClassNames(class_map, ignore_classes))
    numbers = [findings.number(name) for name in names]
    findings.check(len(names))
    table = np.array([0, *(UNPUBLISHED if k is None else k for k in numbers)], np.uint8)
    types = table[instances]
    return np.where(types == UNPUBLISHED, 0, instances), types


def read_points(
    path: Path,
    *,
    class_map: Mapping[str, str] | None = None,
    ignore_classes: Iterable[str] = (),
    max_pixels: int = MAX_PIXELS,
) -> Labels:
    """Return centres float (n, 2) as y, x and types uint8 (n,) of a CSV of x, y and class.

    Raises:
        AnnotationError: an unknown class.
        DatasetError: the columns are missing, or their values are no numbers.
    """
    findings = Findings(path, ClassNames(class_map, ignore_classes))
    centres, types = [], []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                number = findings.number(row["class"])
                if number is not None and 0 < number < len(TYPES):
                    centres.append((float(row["y"]), float(row["x"])))
                    types.append(number)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{path}: columns x, y and class are needed, with numbers as x and y"
        ) from error
    findings.check(len(types))
    return np.array(centres).reshape(-1, 2), np.array(types, np.uint8)


def grown(centres: np.ndarray, image: np.ndarray, *, mpp: float) -> np.ndarray:
    """Draw a nucleus at each of the centres (n, 2) as y, x: instances int32 (h, w), 1 to n.

    A nucleus is the dark ground round its centre, up to a reach and to the nearest other centre.
    image: uint8 (h, w, 3).
    """
    markers = np.zeros(image.shape[:2], np.int32)
    inside = np.clip(centres.astype(int), 0, np.array(markers.shape) - 1)
    markers[tuple(inside.T)] = np.arange(1, len(centres) + 1)
    away = ndimage.distance_transform_edt(markers == 0) * mpp
    density = ndimage.gaussian_filter(haematoxylin(image), POINT_SMOOTHING / mpp)
    dark = density > threshold_otsu(density)
    mask = (dark & (away < POINT_REACH)) | (away < POINT_LEAST)
    return watershed(away, markers, mask=mask)


def _read_arrays(path: Path, max_pixels: int) -> Labels:
    """Return ``instances`` and ``types`` of an .npz."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if sum(entry.file_size for entry in arrays.zip.infolist()) > BYTES * max_pixels:
                raise ValueError("it is too large: raise `max_pixels`")
            instances, types = arrays["instances"], arrays["types"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path}: arrays instances and types are needed ({reason})") from error
    return instances, types.astype(np.uint8)


def _pixels(path: Path, max_pixels: int, modes: tuple[str, ...] = ()) -> np.ndarray:
    """Return the pixels of a picture as they are stored, in one of Pillow's ``modes`` if given."""
    try:
        with Image.open(path) as file:
            if modes and file.mode not in modes:
                raise ValueError(f"its colours are {file.mode}: convert it to RGB")
            check_pixels(file.size[::-1], max_pixels)
            return np.array(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path} cannot be read: {reason}") from error

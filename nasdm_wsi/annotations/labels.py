"""Label images and arrays, in which the value of a pixel is the number of its nucleus.

The shape of an array determines its meaning; the axes of several tiles come first:

    (h, w)       instances of one class, "nuclei": StarDist, Cellpose, binary masks
    (h, w, 2)    instances and Lizard's classes 1 to 6: Lizard, CoNIC
    (h, w, 6)    instances of each PanNuke class, and background

Tiles are laid out row by row in the smallest square that holds them, without gaps, so that the
slide can be cut into the same tiles again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import shapely
from skimage import feature, measure, segmentation

from ..errors import AnnotationError
from ..isolated import IsolatedError
from .contents import Contents, Format, Reading, Source
from .dense import commonest, dense, strips
from .nuclei import Nuclei
from .parsers import BATCH, check_pixels, read_npz, read_picture, tiff_shape
from .regions import regions_among
from .types import TYPES, UNKNOWN, UNTYPED

PANNUKE = ("Neoplastic", "Inflammatory", "Connective", "Dead", "Epithelial")
# Pixel sizes of these data sets; a label image has that of its picture, which only users know.
_MPP = {"Lizard": 0.5, "PanNuke": 0.25}
_KINDS = {"instances": "label image", "Lizard": "Lizard labels", "PanNuke": "PanNuke masks"}
_SHAPES = "choose one of (h, w), (h, w, 2) as in Lizard, (h, w, 6) as in PanNuke, or tiles of these"

_LABELS = ("labels", "masks", "inst_map")  # how tools call the array among others in an .npz

UNNAMED = "regions"  # the class of values in a label image of regions that no name stands for

MOST_PIECES = 2  # of a nucleus, on average; if it has more, its number is no number of a nucleus
MOST_LABEL = 2.0**53  # from here on floats are not whole numbers one by one

_PNG, _NUMPY = b"\x89PNG", b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

SMOOTHING = 1.0  # pixels; keeps ragged outlines from splitting one nucleus
SEPARATION = 2  # pixels; centres closer than this are one nucleus


# Labels and nuclei


def from_labels(instances: np.ndarray, types: np.ndarray, *, mpp: float) -> Nuclei:
    """Trace nuclei from labels; rasterised by the pixel-centre rule, they give the same labels.

    instances: int (h, w), 0 = none. types: uint8 (h, w), of which the most frequent in a nucleus is
    used, or by instance (largest instance + 1,), 0 = none. Each 4-connected piece becomes a nucleus
    of its own.
    """
    empty = Nuclei.from_polygons([], [], mpp=mpp)
    return Nuclei.concatenate(chain([empty], _traced(instances, types, mpp)))


def _traced(instances: np.ndarray, types: np.ndarray, mpp: float) -> Iterator[Nuclei]:
    """Yield the nuclei of `from_labels`, a few thousand at a time."""
    polygons: list[shapely.Polygon] = []
    kinds: list[Any] = []
    for k, where in enumerate(scipy.ndimage.find_objects(instances), 1):
        if where is None or (types.ndim == 1 and not types[k]):
            continue
        mask = instances[where] == k
        kind = types[k] if types.ndim == 1 else np.bincount(types[where][mask]).argmax()
        found = pieces(mask, where[0].start, where[1].start)
        polygons += found
        kinds += [kind] * len(found)
        if len(polygons) >= BATCH:
            yield Nuclei.from_polygons(polygons, kinds, mpp=mpp)
            polygons, kinds = [], []
    yield Nuclei.from_polygons(polygons, kinds, mpp=mpp)


def pieces(mask: np.ndarray, y0: int, x0: int) -> list[shapely.Polygon]:
    """Return the outline of each 4-connected piece of mask (h, w), whose corner is at y0, x0."""
    numbered, _ = scipy.ndimage.label(mask)
    # Only the box of each piece is looked at: a binary mask has thousands of them.
    return [
        _outline(np.pad(numbered[box] == k, 1), y0 + box[0].start - 1, x0 + box[1].start - 1)
        for k, box in enumerate(scipy.ndimage.find_objects(numbered), 1)
    ]


def _outline(mask: np.ndarray, y0: int, x0: int) -> shapely.Polygon:
    """The outline of one 4-connected piece with its holes; mask (h, w) has its corner at y0, x0."""
    rings = [
        ring[:, ::-1] + (x0 + 0.5, y0 + 0.5)
        for ring in measure.find_contours(mask.astype(float), 0.5)
    ]
    rings.sort(key=lambda ring: np.ptp(ring[:, 0]), reverse=True)
    return shapely.Polygon(rings[0], rings[1:])


def split_touching(types: np.ndarray) -> np.ndarray:
    """Return instances int32 (h, w), 1-based, from types uint8 (h, w); 0 and 255 stay 0.

    Touching nuclei of one type are separated by a watershed on the smoothed distance to the nearest
    pixel of anything else, which suits nuclei of about 8 to 20 pixels.
    """
    instances = np.zeros(types.shape, np.int32)
    for kind in range(1, len(TYPES)):
        mask = types == kind
        components, _ = scipy.ndimage.label(mask, np.ones((3, 3)))
        # Without a border of background the distance would grow towards the array's edge.
        distance = scipy.ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        smooth = scipy.ndimage.gaussian_filter(distance, SMOOTHING) * mask
        peaks = feature.peak_local_max(
            smooth, min_distance=SEPARATION, labels=components, exclude_border=False
        )
        markers = np.zeros(types.shape, np.int32)
        markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        split = segmentation.watershed(-smooth, markers, connectivity=2, mask=mask)
        instances[mask] = split[mask] + instances.max()
    return instances


# Files


def contents_of(array: np.ndarray, path: Path, reading: Reading) -> Contents:
    """Read the contents of an array of labels; each 4-connected piece of an instance is a nucleus.

    Raises:
        AnnotationError: the array holds no labels, or numbers that are not whole.
    """
    kind, stack = _as_stack(array, path)
    words = _KINDS[kind]
    read: Callable[..., Iterator[Nuclei]] = partial(_nuclei_of_tile, kind=kind)
    if kind == "instances" and reading.findings.expects_region_labels:
        words, read = "label image of regions", _regions_of_tile
    columns = math.ceil(math.sqrt(len(stack)))
    height, width = stack.shape[1:3]
    parts = [Nuclei.from_polygons([], [], mpp=reading.mpp)]
    for k, tile in enumerate(stack):
        for nuclei in read(np.asarray(tile), path, reading):
            parts.append(nuclei.shifted(k // columns * height, k % columns * width))
    if len(stack) > 1:
        words += f", {len(stack)} tiles in rows of {columns}"
    nuclei = Nuclei.concatenate(parts)
    if len(stack) == 1:
        nuclei = of_image(nuclei, (height, width))
    return Contents(words, nuclei, reading.findings)


def of_image(nuclei: Nuclei, size: tuple[int, ...]) -> Nuclei:
    """Return nuclei and regions that were read from a label image of ``size`` (h, w)."""
    image = size[0] * nuclei.mpp, size[1] * nuclei.mpp
    regions = nuclei.regions and replace(nuclei.regions, image_size=image)
    return replace(nuclei, regions=regions, image_size=image)


def _nuclei_of_tile(
    tile: np.ndarray, path: Path, reading: Reading, *, kind: str
) -> Iterator[Nuclei]:
    for instances, classes in _layers(tile, kind):
        _check_numbers(instances, path)
        if not isinstance(classes, str):
            _check_numbers(classes, path, least=0)
        yield _nuclei(instances, classes, reading)


def _regions_of_tile(tile: np.ndarray, path: Path, reading: Reading) -> Iterator[Nuclei]:
    """Yield the regions of a tile (h, w), in which the value of a pixel is the class of its region.

    Values that ``class_map`` does not name are of the class "regions".
    """
    _check_numbers(tile, path)
    labels, values = dense(tile)
    findings = reading.findings
    classes = [f"{value:.0f}" for value in values]
    nameless = [name for name in classes if not findings.names.maps(name)]
    if nameless and not findings.names.maps(UNNAMED):
        findings.warn(
            f"value {', '.join(nameless[:10])} of the labels names no region and counts as unknown:"
            f" name it with `class_map`, like {nameless[0]}=lumen, or all such with {UNNAMED}=lumen"
        )
    yield named(labels, [UNNAMED if name in nameless else name for name in classes], reading)


def _check_numbers(labels: np.ndarray, path: Path, *, least: float = -math.inf) -> None:
    """Refuse labels (h, w) that are not whole numbers, or classes below the ``least``.

    NaN is background.
    """
    for rows in strips(labels.shape):
        values = labels[rows]
        if values.dtype.kind == "f":
            values = values[~np.isnan(values)]
            if (odd := (values != np.rint(values)) | ~(np.abs(values) < MOST_LABEL)).any():
                raise AnnotationError(
                    f"{path}: {values[odd][0]:g} is not a label: save whole numbers, "
                    "one for each nucleus, not probabilities"
                )
        if values.size and values.min() < least:
            raise AnnotationError(
                f"{path}: a nucleus has class {values.min():g}: save classes from 0"
            )


def named(instances: np.ndarray, names: Sequence[str], reading: Reading) -> Nuclei:
    """Return the nuclei of instances (h, w), 0 = none, from the class names of instances 1, 2, ...

    Instances of classes that mean regions alone become regions.
    """
    findings = reading.findings
    kinds = [findings.number(name) for name in names]
    drawn = range(0) if findings.only_regions else range(1, len(TYPES))
    numbers = np.array([0, *(kind if kind in drawn else 0 for kind in kinds)])
    nuclei = from_labels(instances, numbers, mpp=reading.mpp)
    regions = [0] * len(names)
    for k, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        if kind == UNKNOWN or findings.only_regions:
            regions[k] = findings.names.region(name)
        if regions[k]:
            findings.read_as_regions(name, 1)
    if not any(regions):
        return nuclei
    found = from_labels(instances, np.array([0, *regions]), mpp=reading.mpp)
    return replace(nuclei, regions=regions_among(found, found.types, reading.mpp))


def is_picture(source: Source) -> bool:
    """Return whether a file is a PNG or TIFF, of labels or of tissue."""
    return source.magic.startswith((_PNG, *_TIFF))


def _sniff(source: Source) -> bool:
    """Return whether a file is an array, or a picture of one plane and one channel."""
    if source.magic.startswith(_NUMPY) or source.ends(".npy"):
        return True
    if source.magic.startswith(_PNG):
        return source.magic[25:26] in (b"\0", b"\3")  # grey, or numbers of a palette
    if not source.magic.startswith(_TIFF):
        return False
    try:
        samples, shape = tiff_shape(source.path)
    except IsolatedError:  # damaged, or a slide of a kind that tifffile does not know
        return False
    return samples == 1 and sum(side > 1 for side in shape) <= 2


def _read(source: Source, reading: Reading) -> Contents:
    array = _array(source)
    sides = _as_stack(array, source.path)[1].shape[1:3]
    try:
        check_pixels(sides, source.max_pixels)
    except ValueError as error:
        raise AnnotationError(f"{source.path}: {error}") from error
    return contents_of(array, source.path, reading)


def _pixel_size(source: Source, slide_mpp: float | None) -> float | None:
    if slide_mpp or not (source.magic.startswith(_NUMPY) or source.entries):
        return slide_mpp
    return _MPP.get(_as_stack(_array(source), source.path)[0])


def _array(source: Source) -> np.ndarray:
    """Return the array of a file, which may be memory-mapped."""
    path = source.path
    if not _sniff(source):
        raise AnnotationError(f"{path}: not a label image of one channel: {_SHAPES}")
    try:
        if source.magic.startswith(_NUMPY):
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if source.entries:
            return read_npz(path, _LABELS, source.max_pixels)
        return read_picture(path, source.max_pixels)
    except Exception as error:  # NumPy has many for damaged headers
        reason = " ".join(str(error).split())
        raise AnnotationError(
            f"{path}: cannot be read ({reason}): save the labels alone, as PNG, TIFF or .npy"
        ) from error


def _as_stack(array: np.ndarray, path: Path) -> tuple[str, np.ndarray]:
    """Return the kind of an array, and the array as tiles (n, h, w) or (n, h, w, layers).

    If there are more than two axes, those of length 1 are ignored.
    """
    while array.ndim > 2 and 1 in array.shape:
        array = array.squeeze(array.shape.index(1))
    layers = {2: "Lizard", 6: "PanNuke"}.get(array.shape[-1] if array.ndim in (3, 4) else 0)
    kind = "instances" if array.ndim == 2 else layers
    if kind is None or not array.size:
        size = " x ".join(map(str, array.shape))
        raise AnnotationError(f"{path}: an array of {size} holds no labels: {_SHAPES}")
    if array.dtype.kind not in "buif":
        raise AnnotationError(f"{path}: {array.dtype} cannot hold labels: save whole numbers")
    return kind, array[None] if array.ndim < 4 else array


def _layers(tile: np.ndarray, kind: str) -> Iterator[tuple[np.ndarray, Any]]:
    """Yield instances (h, w) with one class name for all, or with type numbers (h, w)."""
    if kind == "instances":
        yield tile, UNTYPED
    elif kind == "Lizard":
        yield tile[..., 0], tile[..., 1]
    else:
        for layer, name in enumerate(PANNUKE):
            yield tile[..., layer], name


def _nuclei(labels: np.ndarray, classes: Any, reading: Reading) -> Nuclei:
    """Return the nuclei of one layer; all its instances are counted by class."""
    instances, ids = dense(labels)
    if negative := sum(int((labels[rows] < 0).sum()) for rows in strips(labels.shape)):
        reading.findings.warn(f"{negative:,} pixels have negative labels and count as background")
    try:
        names = _names(instances, len(ids), classes)
    except ValueError as error:
        raise AnnotationError(f"{reading.findings.source}: {error}: correct the labels") from error
    found = named(instances, names, reading)
    if len(found) > MOST_PIECES * len(ids):
        reading.findings.warn(
            f"{len(found):,} pieces have {len(ids)} numbers, as in a mask or an image of classes: "
            "nuclei that touch count as one, and classes are not read; save a number for each "
            "nucleus"
        )
    return found


def _names(instances: np.ndarray, count: int, classes: Any) -> list[str]:
    """Return the class name of each instance 1, 2, ..."""
    if isinstance(classes, str):
        return [classes] * count
    numbers = commonest(instances, classes)
    return [TYPES[k] if k < len(TYPES) else f"class {k}" for k in numbers]


FORMAT = Format("label image or array", _sniff, _read, pixel_size=_pixel_size)

"""Lizard's label files and label images: pixels in, nuclei out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.io
import shapely
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.measure import find_contours
from skimage.segmentation import watershed

from ..errors import AnnotationError
from .nuclei import TYPES, Nuclei, check_mpp

SMOOTHING = 1.0  # pixels; keeps ragged outlines from splitting one nucleus
SEPARATION = 2  # pixels; centres closer than this are one nucleus


def read_mat(path: str | Path, *, mpp: float = 0.5) -> Nuclei:
    """The nuclei of a Lizard ``.mat``; ``mpp`` is that of its image.

    Raises:
        AnnotationError: as `read_mat_labels`; no nuclei; an absurd ``mpp``.
    """
    check_mpp(mpp, path)
    nuclei = from_labels(*_read_mat(Path(path)), mpp=mpp)
    if not len(nuclei):
        raise AnnotationError(f"{path}: no nuclei found: check that inst_map is filled")
    return nuclei


def read_mat_labels(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """A Lizard ``.mat`` as instances int32 (h, w), 0 = none, and types uint8 (h, w).

    Reads ``inst_map`` (h, w), ``id`` (n, 1) and ``class`` (n, 1); other fields are ignored.

    Raises:
        AnnotationError: no such file or fields, or nuclei without a type between 1 and 6.
    """
    instances, types_by_id = _read_mat(Path(path))
    return instances, types_by_id[instances]


def split_touching(types: np.ndarray) -> np.ndarray:
    """Instances int32 (h, w), 1-based, from types uint8 (h, w); 0 and 255 stay 0.

    Touching nuclei of one type are told apart by a watershed on the smoothed distance to the
    nearest pixel of anything else, which suits nuclei of about 8 to 20 pixels.
    """
    instances = np.zeros(types.shape, np.int32)
    for kind in range(1, len(TYPES)):
        mask = types == kind
        components, _ = ndimage.label(mask, np.ones((3, 3)))
        # Without a border of background the distance would grow towards the array's edge.
        distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        smooth = ndimage.gaussian_filter(distance, SMOOTHING) * mask
        peaks = peak_local_max(
            smooth, min_distance=SEPARATION, labels=components, exclude_border=False
        )
        markers = np.zeros(types.shape, np.int32)
        markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        split = watershed(-smooth, markers, connectivity=2, mask=mask)
        instances[mask] = split[mask] + instances.max()
    return instances


def from_labels(instances: np.ndarray, types: np.ndarray, *, mpp: float) -> Nuclei:
    """Nuclei traced from labels; rasterised by the pixel-centre rule they are the same again.

    instances: int (h, w), 0 = none. types: uint8 (h, w), the commonest in a nucleus counts, or by
    instance (largest instance + 1,). Each 4-connected piece becomes a nucleus of its own.
    """
    polygons, kinds = [], []
    for k, where in enumerate(ndimage.find_objects(instances), 1):
        if where is None:
            continue
        mask = instances[where] == k
        kind = types[k] if types.ndim == 1 else np.bincount(types[where][mask]).argmax()
        pieces, n = ndimage.label(np.pad(mask, 1))
        for piece in range(1, n + 1):
            polygons.append(_outline(pieces == piece, where[0].start - 1, where[1].start - 1))
            kinds.append(kind)
    return Nuclei.from_polygons(polygons, kinds, mpp=mpp)


def _outline(mask: np.ndarray, y0: int, x0: int) -> shapely.Polygon:
    """The outline of one 4-connected piece with its holes; mask (h, w) has its corner at y0, x0."""
    rings = [
        ring[:, ::-1] + (x0 + 0.5, y0 + 0.5) for ring in find_contours(mask.astype(float), 0.5)
    ]
    rings.sort(key=lambda ring: np.ptp(ring[:, 0]), reverse=True)
    return shapely.Polygon(rings[0], rings[1:])


def _read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Instances int32 (h, w) and a table from instance to type, uint8 (largest id + 1,)."""
    if not path.is_file():
        raise AnnotationError(f"{path}: no such file: check the path")
    try:
        fields = scipy.io.loadmat(path, variable_names=["inst_map", "id", "class"])
        instances = fields["inst_map"].astype(np.int32)
        ids, types = fields["id"].ravel().astype(np.int64), fields["class"].ravel()
    except KeyError as error:
        raise AnnotationError(
            f"{path}: {error} is missing: Lizard's fields inst_map, id and class are needed"
        ) from error
    except Exception as error:  # scipy raises many kinds on damaged files
        raise AnnotationError(f"{path}: not a whole MATLAB file: export it again") from error
    typed = (
        np.isin(types, range(1, len(TYPES))) & (ids > 0) if ids.shape == types.shape else ids < 0
    )
    if not typed.all():
        raise AnnotationError(f"{path}: each id needs one class from 1 to 6: correct the file")
    present = np.unique(instances[instances != 0])
    if missing := sorted(set(present.tolist()) - set(ids.tolist())):
        raise AnnotationError(
            f"{path}: {len(missing)} nuclei of inst_map are missing in id, "
            f"the first is {missing[0]}: correct the file"
        )
    table = np.zeros(max(ids.max(initial=0), 0) + 1, np.uint8)
    table[ids] = types
    return instances, table

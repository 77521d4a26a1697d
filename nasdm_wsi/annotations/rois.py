"""ROIs of ImageJ, one or a RoiSet.zip, read by the package roifile. They have no classes."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import shapely

from ..errors import AnnotationError
from .contents import Contents, Format, Reading, Source, packed
from .outlines import Outlines
from .types import UNTYPED

_WITH_AREA = ("POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED")


def _read(source: Source, reading: Reading) -> Contents:
    outlines = Outlines(reading.findings, reading.contours)
    for number, roi in enumerate(_rois(source)):
        if roi.composite:
            outlines.add_geometries(np.array([_composite(roi)], object), [UNTYPED])
        elif roi.roitype.name in _WITH_AREA:
            points = roi.coordinates().tolist()
            outlines.add(UNTYPED, [[points]], f"{source.path}: ROI {roi.name or number}")
        else:
            outlines.findings.shapeless["points and lines"] += 1
    return packed(outlines, FORMAT.name, reading)


def _rois(source: Source) -> list[Any]:
    try:
        import roifile
    except ImportError as error:
        raise AnnotationError(
            f"{source.path}: needs the package roifile: pip install 'nasdm-wsi[imagej]', "
            "or export the nuclei as a label image"
        ) from error
    try:
        found = roifile.roiread(source.path)
    except Exception as error:  # struct, ValueError, zip, ...
        raise AnnotationError(
            f"{source.path}: not complete ROIs of ImageJ ({error}): save them again"
        ) from error
    return found if isinstance(found, list) else [found]


def _composite(roi: Any) -> shapely.Geometry:
    """Return the area of several paths, in which a path within another is a hole."""
    paths = [shapely.Polygon(path) for path in roi.coordinates(multi=True) if len(path) > 2]
    return reduce(shapely.symmetric_difference, map(shapely.make_valid, paths), shapely.Polygon())


FORMAT = Format(
    "ROIs of ImageJ",
    lambda source: source.magic.startswith(b"Iout") or source.ends(".roi"),
    _read,
)

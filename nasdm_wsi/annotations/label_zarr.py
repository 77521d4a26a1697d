"""Label images in OME-Zarr, as `export --format instances` writes them: numbers of nuclei."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AnnotationError
from ..isolated import IsolatedError
from .contents import Contents, Format, Reading, Source
from .labels import contents_of
from .parsers import read_zarr

_UNITS = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4}
_ATTRIBUTES = ("zarr.json", ".zattrs")  # Zarr formats 3 and 2


def _attributes(folder: Path) -> dict[str, Any]:
    """Return OME's attributes of a folder; empty if it is no OME-Zarr."""
    for name in _ATTRIBUTES:
        with suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            return found["attributes"]["ome"] if name == "zarr.json" else found
    return {}


def _sniff(source: Source) -> bool:
    return source.path.is_dir() and "image-label" in _attributes(source.path)


def _read(source: Source, reading: Reading) -> Contents:
    try:
        multiscale = _attributes(source.path)["multiscales"][0]
        axes = [axis["name"] for axis in multiscale["axes"]]
        array = read_zarr(source.path, multiscale["datasets"][0]["path"], source.max_pixels)
    except (IsolatedError, LookupError, TypeError, AttributeError) as error:
        raise AnnotationError(
            f"{source.path}: cannot be read ({' '.join(str(error).split())}): export it again"
        ) from error
    if axes[-2:] != ["y", "x"]:
        raise AnnotationError(
            f"{source.path}: its axes are {', '.join(map(str, axes))}: save the labels with y and x"
            " as the last two"
        )
    if (shift := _shift(source.path)).any():
        y, x = shift
        reading.findings.warn(
            f"the labels state that they begin at x {x:.0f}, y {y:.0f} in their pixels, which is "
            "not applied: their corner is taken for that of the slide"
        )
    while array.ndim > 2 and len(array) == 1:  # time, channel and depth
        array = array[0]
    return contents_of(array, source.path, reading)


def _pixel_size(source: Source, slide_mpp: float | None) -> float | None:
    placed = _placed(source.path)
    if slide_mpp or placed is None:
        return slide_mpp
    y, x = placed[0]
    with suppress(LookupError, TypeError):
        unit = _attributes(source.path)["multiscales"][0]["axes"][-1]["unit"]
        return float(x) * _UNITS[unit] if y == x else None
    return None


def _shift(folder: Path) -> np.ndarray:
    """Return how far from the corner of their image labels begin, in whole pixels (y, x)."""
    placed, image = _placed(folder), _placed(folder / "../..")  # in which labels may lie
    if placed is None:
        return np.zeros(2)
    scale, place = placed
    return np.trunc((place - (image[1] if image else 0)) / scale)


def _placed(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the scale and the translation of an image, both (y, x); None if it states none."""
    scale, place = np.ones(2), np.zeros(2)
    with suppress(LookupError, TypeError, ValueError):
        multiscale = _attributes(folder)["multiscales"][0]
        steps = multiscale["datasets"][0]["coordinateTransformations"]
        for step in [*steps, *multiscale.get("coordinateTransformations", ())]:  # of all levels
            if step["type"] == "scale":
                factor = np.array(step["scale"][-2:], float)
                scale, place = scale * factor, place * factor
            elif step["type"] == "translation":
                place = place + np.array(step["translation"][-2:], float)
        return (scale, place) if (scale > 0).all() else None
    return None


FORMAT = Format("label OME-Zarr", _sniff, _read, pixel_size=_pixel_size, states_scale=True)

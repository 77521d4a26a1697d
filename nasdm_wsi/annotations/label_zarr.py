"""Label images in OME-Zarr, as `export --format instances` writes them: numbers of nuclei."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

from ..errors import AnnotationError
from ..isolated import IsolatedError
from .contents import Contents, Format, Reading, Source
from .labels import contents_of
from .parsers import read_zarr

_UNITS = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4}
_ATTRIBUTES = ("zarr.json", ".zattrs")  # Zarr formats 3 and 2


def _attributes(source: Source) -> dict[str, Any]:
    """Return OME's attributes of a folder; empty if it is no OME-Zarr."""
    for name in _ATTRIBUTES:
        with suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads((source.path / name).read_text(encoding="utf-8"))
            return found["attributes"]["ome"] if name == "zarr.json" else found
    return {}


def _sniff(source: Source) -> bool:
    return source.path.is_dir() and "image-label" in _attributes(source)


def _read(source: Source, reading: Reading) -> Contents:
    try:
        level = _attributes(source)["multiscales"][0]["datasets"][0]["path"]
        array = read_zarr(source.path, level, source.max_pixels)
    except (IsolatedError, LookupError, TypeError, AttributeError) as error:
        raise AnnotationError(
            f"{source.path}: cannot be read ({' '.join(str(error).split())}): export it again"
        ) from error
    while array.ndim > 2 and len(array) == 1:  # time, channel and depth
        array = array[0]
    return contents_of(array, source.path, reading)


def _pixel_size(source: Source, slide_mpp: float | None) -> float | None:
    if slide_mpp:
        return slide_mpp
    with suppress(LookupError, TypeError, ValueError):
        multiscale = _attributes(source)["multiscales"][0]
        steps = multiscale["datasets"][0]["coordinateTransformations"]
        steps = [*steps, *multiscale.get("coordinateTransformations", ())]  # those of all levels
        scales = [step["scale"] for step in steps if step["type"] == "scale"]
        y, x = (math.prod(float(scale[axis]) for scale in scales) for axis in (-2, -1))
        if y == x:
            return x * _UNITS[multiscale["axes"][-1]["unit"]]
    return None


FORMAT = Format("label OME-Zarr", _sniff, _read, pixel_size=_pixel_size, states_scale=True)

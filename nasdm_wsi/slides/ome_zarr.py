"""The writer and reader of OME-Zarr 0.5 (Zarr format 3), for napari, vizarr and similar tools.

Axes are (c, y, x), or (y, x) for labels. A chunk is a tile of one channel. A shard, which is a
file, holds all channels of eight tiles in a row, so that a slide has thousands of files and not
hundreds of thousands. Chunks are compressed without loss.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from PIL import Image

from ..errors import SlideError
from ..output import whole_or_nothing
from .pyramid import Progress, Pyramid, Shape, halved

SHARD_TILES = 8
UNITS = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4}
CHANNELS = {"Red": "FF0000", "Green": "00FF00", "Blue": "0000FF"}


def write(
    path: str | Path,
    pixels: Any,
    *,
    mpp: float,
    description: str,
    tile: int = 512,
    progress: Progress | None = None,
) -> None:
    """Write ``pixels`` as a pyramid, which replaces an existing folder when it is complete.

    Arguments, levels and memory are as in `ome_tiff.write`.

    Raises:
        ValueError: ``pixels`` are neither RGB nor labels.
        OutputError: the folder cannot be written.
    """
    path = Path(path)
    shapes = Pyramid(tuple(pixels.shape), str(pixels.dtype), tile=tile).shapes
    attributes = _attributes(path.name, shapes, mpp=mpp, description=description)
    with whole_or_nothing(path) as part:
        group = zarr.create_group(part, zarr_format=3, attributes=attributes)
        _write_levels(group, pixels, shapes=shapes, tile=tile, progress=progress)


def _write_levels(
    group: zarr.Group, pixels: Any, *, shapes: list[Shape], tile: int, progress: Progress | None
) -> None:
    """Write all levels shard by shard, each level from the one before."""
    total, done = sum(-(-h // tile) for h, *_ in shapes), 0
    array: Any = None
    for level, (h, w, *channels) in enumerate(shapes):
        finer, array = array, _create(group, str(level), shapes[level], pixels.dtype, tile)
        for y in range(0, h, tile):
            rows = None if level else np.asarray(pixels[y : y + tile])
            for x in range(0, w, SHARD_TILES * tile):
                columns = slice(x, x + SHARD_TILES * tile)
                part = _halved(finer, y, x, tile) if rows is None else rows[:, columns]
                array[..., y : y + tile, columns] = np.moveaxis(part, -1, 0) if channels else part
            done += 1
            if progress:
                progress(done, total)


def _halved(finer: zarr.Array, y: int, x: int, tile: int) -> np.ndarray:
    """Return the pixels of the shard at (y, x), (h, w, 3) or (h, w), from the level before."""
    fine = finer[..., 2 * y : 2 * (y + tile), 2 * x : 2 * (x + SHARD_TILES * tile)]
    return halved(np.moveaxis(np.asarray(fine), 0, -1) if finer.ndim == 3 else np.asarray(fine))


def _create(group: zarr.Group, name: str, shape: Shape, dtype: Any, tile: int) -> zarr.Array:
    h, w, *channels = shape
    across = min(SHARD_TILES, -(-w // tile))
    return group.create_array(
        name,
        shape=(*channels, h, w),
        dtype=dtype,
        chunks=(*(1 for _ in channels), tile, tile),
        shards=(*channels, tile, tile * across),
        dimension_names=[axis["name"] for axis in _axes(shape)],
    )


def _axes(shape: Shape) -> list[dict[str, str]]:
    space = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    return [{"name": "c", "type": "channel"}, *space] if len(shape) == 3 else space


def _attributes(name: str, shapes: list[Shape], *, mpp: float, description: str) -> dict[str, Any]:
    """Return the attributes of the group: those of OME, and the description."""
    rgb = len(shapes[0]) == 3
    ome: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": _axes(shapes[0]),
                "datasets": [
                    _dataset(level, [1.0] * rgb + [mpp * 2**level] * 2)
                    for level in range(len(shapes))
                ],
                "type": "mean" if rgb else "nearest",
            }
        ],
    }
    if rgb:
        window = {"min": 0, "max": 255, "start": 0, "end": 255}
        ome["omero"] = {
            "channels": [
                {"label": label, "color": colour, "active": True, "window": window}
                for label, colour in CHANNELS.items()
            ],
            "rdefs": {"model": "color"},
        }
    else:
        ome["image-label"] = {"version": "0.5"}
    return {"ome": ome, "description": description}


def _dataset(level: int, scale: list[float]) -> dict[str, Any]:
    return {
        "path": str(level),
        "coordinateTransformations": [{"type": "scale", "scale": scale}],
    }


class Reader:
    """An OME-Zarr RGB image, read through the interface of openslide-python.

    Raises:
        SlideError: it is not an OME-Zarr 0.5 with axes (c, y, x) and three channels of uint8.
    """

    def __init__(self, path: str | Path):
        group = zarr.open_group(path, mode="r")
        attributes: Any = group.attrs.asdict()
        multiscale = attributes["ome"]["multiscales"][0]
        datasets, axes = multiscale["datasets"], multiscale["axes"]
        self._levels: list[Any] = [group[dataset["path"]] for dataset in datasets]
        channels, kind = self._levels[0].shape[0], self._levels[0].dtype
        if [axis["name"] for axis in axes] != ["c", "y", "x"] or channels != 3 or kind != np.uint8:
            raise SlideError(f"{path}: only RGB images with axes c, y, x can be read")
        scales = [dataset["coordinateTransformations"][0]["scale"] for dataset in datasets]
        self.level_count = len(self._levels)
        self.level_dimensions = [level.shape[:0:-1] for level in self._levels]
        self.level_downsamples = [scale[-1] / scales[0][-1] for scale in scales]
        comment = str(attributes.get("description", ""))
        self.properties = {"openslide.vendor": "ome-zarr", "openslide.comment": comment}
        if unit := UNITS.get(axes[-1].get("unit")):
            _, mpp_y, mpp_x = (f"{float(scale) * unit}" for scale in scales[0])
            self.properties |= {"openslide.mpp-y": mpp_y, "openslide.mpp-x": mpp_x}

    def read_region(
        self, corner: tuple[int, int], level: int, size: tuple[int, int]
    ) -> Image.Image:
        """Return the pixels of ``size`` (width, height); ``corner`` (x, y) counts in level 0."""
        x, y = (round(place / self.level_downsamples[level]) for place in corner)
        part = self._levels[level][:, y : y + size[1], x : x + size[0]]
        return Image.fromarray(np.ascontiguousarray(np.moveaxis(part, 0, -1)))

    def close(self) -> None:
        """Do nothing, because no file is open."""

"""The writer and reader of OME-Zarr, for napari, vizarr and similar tools.

Axes are (c, y, x), or (y, x) for labels. In version 0.5 (Zarr format 3) a chunk is a tile of one
channel, and a shard, which is a file, holds all channels of eight tiles in a row, so that a slide
has thousands of files and not hundreds of thousands. Version 0.4 (Zarr format 2) has no shards: a
chunk, which is a file, is a tile of all channels. Chunks are compressed without loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numcodecs import Blosc
from PIL import Image

from ..errors import SlideError
from ..output import output_errors, whole_or_nothing
from .formats import image_of
from .pyramid import Progress, Pyramid, Shape, halved

SHARD_TILES = 8
UNITS = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4}
CHANNELS = {"Red": "FF0000", "Green": "00FF00", "Blue": "0000FF"}
ZARR_FORMATS: dict[str, Literal[2, 3]] = {"0.4": 2, "0.5": 3}  # by version of OME-Zarr


def write(
    path: str | Path,
    pixels: Any,
    *,
    mpp: float,
    description: str,
    tile: int = 512,
    version: str = "0.5",
    progress: Progress | None = None,
) -> None:
    """Write ``pixels`` as a pyramid, which replaces an existing folder when it is complete.

    Arguments, levels and memory are as in `ome_tiff.write`; ``version`` is 0.4 or 0.5. Labels may
    be written into an image, to IMAGE/labels/NAME: they then have its version, and are listed in
    its group of labels.

    Raises:
        ValueError: ``pixels`` are neither RGB nor labels.
        SlideError: IMAGE is not an OME-Zarr image.
        OutputError: the folder cannot be written.
    """
    path, image = Path(path), image_of(path)
    version = version_of(image) if image else version
    shapes = Pyramid(tuple(pixels.shape), str(pixels.dtype), tile=tile).shapes
    ome = _ome(path.name, shapes, mpp=mpp, version=version)
    if image:
        ome["image-label"]["source"] = {"image": "../../"}
    attributes = {**_attributes(ome, version), "description": description}
    with (
        output_errors(path),
        _listed(path, version) if image else nullcontext(),
        whole_or_nothing(path) as part,
    ):
        group = zarr.create_group(part, zarr_format=ZARR_FORMATS[version], attributes=attributes)
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
    settings: dict[str, Any]
    if group.metadata.zarr_format == 2:
        settings = {
            "chunks": (*channels, tile, tile),
            "compressors": Blosc(cname="zstd", clevel=3, shuffle=Blosc.SHUFFLE),
            "chunk_key_encoding": {"name": "v2", "separator": "/"},  # OME-Zarr 0.4 asks for it
        }
    else:
        across = min(SHARD_TILES, -(-w // tile))
        settings = {
            "chunks": (*(1 for _ in channels), tile, tile),
            "shards": (*channels, tile, tile * across),
            "dimension_names": [axis["name"] for axis in _axes(shape)],
        }
    return group.create_array(name, shape=(*channels, h, w), dtype=dtype, **settings)


def _axes(shape: Shape) -> list[dict[str, str]]:
    space = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    return [{"name": "c", "type": "channel"}, *space] if len(shape) == 3 else space


def _attributes(ome: dict[str, Any], version: str) -> dict[str, Any]:
    """Return the attributes of a group that hold those of OME."""
    return ome if version == "0.4" else {"ome": {"version": version, **ome}}


def _ome(name: str, shapes: list[Shape], *, mpp: float, version: str) -> dict[str, Any]:
    """Return the attributes of OME for an image or for labels."""
    rgb = len(shapes[0]) == 3
    stated = {"version": version} if version == "0.4" else {}
    multiscale = {
        **stated,
        "name": name,
        "axes": _axes(shapes[0]),
        "datasets": [
            _dataset(level, [1.0] * rgb + [mpp * 2**level] * 2) for level in range(len(shapes))
        ],
        "type": "mean" if rgb else "nearest",
    }
    if not rgb:
        return {"multiscales": [multiscale], "image-label": {"version": version}}
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels = [
        {"label": label, "color": colour, "active": True, "window": window}
        for label, colour in CHANNELS.items()
    ]
    omero = {**stated, "channels": channels, "rdefs": {"model": "color"}}
    return {"multiscales": [multiscale], "omero": omero}


def _dataset(level: int, scale: list[float]) -> dict[str, Any]:
    return {
        "path": str(level),
        "coordinateTransformations": [{"type": "scale", "scale": scale}],
    }


def version_of(image: str | Path) -> str:
    """Return the version, 0.4 or 0.5, of an OME-Zarr image.

    Raises:
        SlideError: it is none.
    """
    try:
        group = zarr.open_group(image, mode="r")
        found: Any = group.attrs.asdict()
        multiscales = found.get("ome", found)["multiscales"]
    except (OSError, KeyError) as error:
        raise SlideError(f"{image}: is not an OME-Zarr image") from error
    return str(found.get("ome", multiscales[0])["version"])


@contextmanager
def _listed(path: Path, version: str) -> Iterator[None]:
    """List what is written to IMAGE/labels/NAME in the group of labels, when it is complete."""
    group = zarr.open_group(path.parent, mode="a", zarr_format=ZARR_FORMATS[version])
    yield
    attributes: Any = group.attrs.asdict()
    ome = attributes.get("ome", attributes)
    others = [name for name in ome.get("labels", ()) if name != path.name]
    group.attrs.update(_attributes({**ome, "labels": [*others, path.name]}, version))


def _scale(dataset: dict, multiscale: dict) -> np.ndarray:
    """Return the scale of a level, by axis: its own times that of all levels, if there is one."""
    of_all = multiscale.get("coordinateTransformations", ())
    steps = [*dataset["coordinateTransformations"], *of_all]
    return np.prod([step["scale"] for step in steps if step["type"] == "scale"], axis=0)


class Reader:
    """An OME-Zarr RGB image, read through the interface of openslide-python.

    Raises:
        SlideError: it is no OME-Zarr with axes (c, y, x) and three channels of uint8.
    """

    def __init__(self, path: str | Path):
        group = zarr.open_group(path, mode="r")
        attributes: Any = group.attrs.asdict()
        multiscale = attributes.get("ome", attributes)["multiscales"][0]
        datasets, axes = multiscale["datasets"], multiscale["axes"]
        self._levels: list[Any] = [group[dataset["path"]] for dataset in datasets]
        channels, kind = self._levels[0].shape[0], self._levels[0].dtype
        if [axis["name"] for axis in axes] != ["c", "y", "x"] or channels != 3 or kind != np.uint8:
            raise SlideError(f"{path}: only RGB images with axes c, y, x can be read")
        scales = [_scale(dataset, multiscale) for dataset in datasets]
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

"""Parsers of other libraries, which a damaged or hostile file may crash or drive out of memory.

Each runs in a separate process (`isolated`) and within limits, which follow from the largest number
of pixels of a label image. Other modules use only the functions before the line "In the other
process".
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from ..isolated import MEMORY, isolated

MAX_PIXELS = 1 << 28  # of a label image: 16,384 x 16,384
BYTES = 16  # the most for each pixel, in a parser
LONGEST = 1 << 26  # bytes of one value in a store
BATCH = 4096  # rows of a store at a time


def mat_names(path: Path) -> set[str]:
    """Return the names of the variables in a MATLAB file.

    Raises:
        IsolatedError: the file cannot be read.
    """
    return next(isolated(_mat_names, path))


def mat_variables(path: Path, names: Sequence[str], max_pixels: int = MAX_PIXELS) -> dict:
    """Return those of the named variables that a MATLAB file contains.

    Raises:
        IsolatedError: the file cannot be read, or a variable is too large.
    """
    return next(isolated(_mat, path, names, max_pixels, memory=_memory(max_pixels)))


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the pixels of a PNG or TIFF as they are stored.

    Raises:
        IsolatedError: the file cannot be read, or is too large.
    """
    return next(isolated(_picture, path, max_pixels, memory=_memory(max_pixels)))


def tiff_shape(path: Path) -> tuple[int, tuple[int, ...]]:
    """Return the samples per pixel and the shape of the first series of a TIFF.

    Raises:
        IsolatedError: the file cannot be read; parsing of some damaged files never ends.
    """
    return next(isolated(_tiff_shape, path, seconds=20))


def read_npz(path: Path, names: Sequence[str], max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the labels in an ``.npz``: a sparse matrix of SciPy, or the only possible array.

    names: which array to take if there are several.

    Raises:
        IsolatedError: the file cannot be read, is too large, or has no such array.
    """
    return next(isolated(_npz, path, names, max_pixels, memory=_memory(max_pixels)))


def read_frames(path: Path, *, parquet: bool) -> Iterator[Any]:
    """Yield the layers of a file as data frames of GeoPandas, or of pandas if it has no geometry.

    Raises:
        IsolatedError: the file cannot be read.
    """
    yield from isolated(_frames, path, parquet, memory=_memory(MAX_PIXELS))


def read_zarr(path: Path, level: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the array of a level of a Zarr group.

    Raises:
        IsolatedError: it cannot be read, or is too large.
    """
    return next(isolated(_zarr, path, level, max_pixels, memory=_memory(max_pixels)))


def read_store(path: Path) -> Iterator[tuple[np.ndarray, list[str], list[str]]]:
    """Yield the rows of a TIAToolbox store in batches: geometries, properties, types of others.

    Geometries (n,) are shapely's; those without area are empty. Properties are n JSON texts. The
    types of the objects without geometry follow.

    Raises:
        IsolatedError: the store cannot be read.
    """
    import shapely

    for blobs, properties, others in isolated(_store, path):
        yield shapely.from_wkb(blobs), properties, others


def check_pixels(shape: Sequence[int], max_pixels: int) -> None:
    """Refuse an array with more pixels than the limit.

    Raises:
        ValueError: it has more.
    """
    pixels = 1
    for side in shape:
        pixels *= int(side)
    if pixels > max_pixels:
        raise ValueError(
            f"{' x '.join(map(str, shape))} pixels are more than {max_pixels}: raise `max_pixels`"
        )


def read_only(path: Path) -> str:
    """Return the address with which SQLite opens a file read-only."""
    return f"{path.absolute().as_uri()}?mode=ro"


def _memory(max_pixels: int) -> int:
    return MEMORY + BYTES * max_pixels


# In the other process


def _mat_names(path: Path) -> Iterator[set[str]]:
    import scipy.io

    yield {name for name, *_ in scipy.io.whosmat(path)}


def _mat(path: Path, names: Sequence[str], max_pixels: int) -> Iterator[dict[str, Any]]:
    import scipy.io

    for name, shape, _ in scipy.io.whosmat(path):
        if name in names:
            check_pixels(shape, max_pixels)
    fields = scipy.io.loadmat(path, variable_names=names)
    yield {name: np.asarray(fields[name]) for name in names if name in fields}


def _picture(path: Path, max_pixels: int) -> Iterator[np.ndarray]:
    with open(path, "rb") as file:
        png = file.read(4) == b"\x89PNG"
    yield _png(path, max_pixels) if png else _tiff(path, max_pixels)


def _png(path: Path, max_pixels: int) -> np.ndarray:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # there is a limit already
    with Image.open(path) as image:
        check_pixels(image.size[::-1], max_pixels)
        return np.asarray(image)


def _tiff(path: Path, max_pixels: int) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        check_pixels(tiff.series[0].shape, max_pixels)
        return tiff.asarray(maxworkers=1)


def _tiff_shape(path: Path) -> Iterator[tuple[int, tuple[int, ...]]]:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages.first
        yield page.samplesperpixel, tiff.series[0].shape


def _npz(path: Path, names: Sequence[str], max_pixels: int) -> Iterator[np.ndarray]:
    import scipy.sparse

    with np.load(path, allow_pickle=False) as arrays:
        size = sum(entry.file_size for entry in arrays.zip.infolist())
        if size > BYTES * max_pixels:
            raise ValueError(f"{size} bytes unpacked are more than {BYTES} `max_pixels`: raise it")
        if {"format", "shape", "data"} <= set(arrays.files):
            matrix = scipy.sparse.load_npz(path)
            check_pixels(matrix.shape, max_pixels)
            yield matrix.toarray()
            return
        flat = {name: arrays[name] for name in arrays.files}
    found = [name for name, array in flat.items() if array.ndim > 1 and array.dtype.kind in "bui"]
    chosen = found if len(found) == 1 else [name for name in found if name in names]
    if len(chosen) != 1:
        raise ValueError(f"which of the arrays {', '.join(flat)} holds the labels?")
    yield flat[chosen[0]]


def _frames(path: Path, parquet: bool) -> Iterator[Any]:
    import geopandas
    import pandas

    if not parquet:
        for layer in geopandas.list_layers(path)["name"]:
            yield geopandas.read_file(path, layer=layer)
        return
    try:
        yield geopandas.read_parquet(path)
    except ValueError:  # without geometry
        yield pandas.read_parquet(path)


def _zarr(path: Path, level: str, max_pixels: int) -> Iterator[np.ndarray]:
    import zarr

    group: Any = zarr.open_group(path, mode="r")
    check_pixels(group[level].shape, max_pixels)
    yield np.asarray(group[level])


def _store(path: Path) -> Iterator[tuple]:
    with closing(sqlite3.connect(read_only(path), uri=True)) as store:
        store.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
        store.execute("PRAGMA trusted_schema = off")
        _check_tables(store)
        compression = dict(store.execute("SELECT key, value FROM metadata"))["compression"]
        if compression not in (None, "null", '"zlib"'):
            raise ValueError(f"compression {compression}")
        query = "SELECT objtype, geometry, properties FROM annotations ORDER BY id"
        cursor = store.execute(query)
        while rows := cursor.fetchmany(BATCH):
            yield _batch(rows, compressed=compression == '"zlib"')


def _check_tables(store: sqlite3.Connection) -> None:
    """Refuse views and virtual tables instead of tables: their rows may never end."""
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0"
    tables = {name for (name,) in store.execute(query)}
    for name in ("metadata", "annotations"):
        if name not in tables:
            raise ValueError(f"there is no table {name}")


def _batch(rows: list[tuple], *, compressed: bool) -> tuple[np.ndarray, list[str], list[str]]:
    """Well-known binary (n,) that GEOS has written itself, properties, types of the others."""
    blobs, properties, others = [], [], []
    for kind, blob, text in rows:
        if not blob:  # points lie in other columns
            others.append(str(kind))
            continue
        blobs.append(_inflated(blob) if compressed else blob)
        properties.append(text)
    return _clean(blobs), properties, others


def _clean(blobs: list[bytes]) -> np.ndarray:
    """Rewrite polygons; return only the kind of other geometries, which may nest deeply."""
    import shapely

    geometries = shapely.from_wkb(np.array(blobs, object))
    kinds = shapely.get_type_id(geometries)
    areas = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)
    for k in np.flatnonzero(~np.isin(kinds, areas)):
        kind = type(geometries[k])
        geometries[k] = shapely.Point() if geometries[k] is None else kind()
    return shapely.to_wkb(geometries)


def _inflated(blob: bytes) -> bytes:
    inflate = zlib.decompressobj()
    text = inflate.decompress(blob, LONGEST)
    if not inflate.eof:
        raise ValueError("a packed geometry is cut short, or larger than 64 MB unpacked")
    return text

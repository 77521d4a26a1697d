"""Time to read and rasterise a million nuclei, compared with common libraries.

    python benchmarks/annotations.py [--nuclei N] [--cells] [--tiles N]

Writes GeoJSON like QuPath's to a temporary folder and prints two tables. Each contender runs in a
process of its own. Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import resource
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import orjson

from nasdm_wsi.annotations.geojson import read_geojson
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.annotations.types import PLANES, TYPES

VERTICES = 20
TILE = 512
DENSITY = 78 / TILE**2  # nuclei a pixel
MEASUREMENTS = (
    "Nucleus: Area, Nucleus: Perimeter, Nucleus: Circularity, Nucleus: Max caliper, "
    "Nucleus: Hematoxylin OD mean, Cell: Area, Cell: Perimeter, Nucleus/Cell area ratio"
).split(", ")
LIBRARIES = ("numpy", "orjson", "shapely", "ijson", "scikit-image", "rasterio", "opencv-python")


def outlines(n: int) -> Iterator[np.ndarray]:
    """Closed rings (m, 21, 2) of nuclei 12 to 24 pixels wide, n in all, the same in every run."""
    rng, side = np.random.default_rng(0), (n / DENSITY) ** 0.5
    angle = np.arange(VERTICES) * 2 * np.pi / VERTICES
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for first in range(0, n, 1000):
        m = min(1000, n - first)
        radius = rng.uniform(6, 12, (m, 1, 1)) * rng.uniform(0.9, 1.1, (m, VERTICES, 1))
        rings = rng.uniform(0, side, (m, 1, 2)) + radius * circle
        yield np.concatenate([rings, rings[:, :1]], axis=1).round(2)


def write_file(path: Path, n: int, *, cells: bool) -> None:
    """Write GeoJSON of detections, or of cells with eight measurements, spaced like QuPath's."""
    rng, k = np.random.default_rng(1), 0
    with open(path, "wb") as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        for rings in outlines(n):
            for ring in rings:
                file.write(b"," if k else b"")
                file.write(_feature(ring, uuid.UUID(bytes=rng.bytes(16)), TYPES[1 + k % 6], cells))
                k += 1
        file.write(b"]}")


def _feature(ring: np.ndarray, name: uuid.UUID, kind: str, cells: bool) -> bytes:
    properties = {
        "objectType": "cell" if cells else "detection",
        "classification": {"name": kind.capitalize(), "color": [150, 200, 150]},
    }
    feature = {"type": "Feature", "id": str(name), "geometry": _geometry(ring)}
    if cells:
        middle = ring[:-1].mean(0)
        feature["geometry"] = _geometry((middle + 2 * (ring - middle)).round(2))
        feature["nucleusGeometry"] = _geometry(ring)
        values = (ring[: len(MEASUREMENTS), 0] / 7).round(4).tolist()
        properties["measurements"] = dict(zip(MEASUREMENTS, values, strict=True))
    return orjson.dumps(feature | {"properties": properties})


def _geometry(ring: np.ndarray) -> orjson.Fragment:
    text = orjson.dumps(ring, option=orjson.OPT_SERIALIZE_NUMPY)
    text = re.sub(rb"(\d),", rb"\1, ", text.replace(b".0,", b",").replace(b".0]", b"]"))
    return orjson.Fragment(b'{"type":"Polygon","coordinates":[' + text + b"]}")


def read_with_json(path: Path) -> int:
    with open(path, "rb") as file:
        return len(json.load(file)["features"])


def read_with_orjson(path: Path) -> int:
    return len(orjson.loads(path.read_bytes())["features"])


def read_with_ijson(path: Path) -> int:
    import ijson

    with open(path, "rb") as file:
        return sum(1 for _ in ijson.items(file, "features.item", use_float=True))


READERS: dict[str, Callable[[Path], int]] = {
    "nasdm-wsi": lambda path: len(read_geojson(path, mpp=0.5)),
    "json": read_with_json,
    "orjson": read_with_orjson,
    "ijson": read_with_ijson,
}


Tile = Callable[[list[np.ndarray]], np.ndarray]


def skimage_tile() -> Tile:
    from skimage.draw import polygon

    def paint(rings: list[np.ndarray]) -> np.ndarray:
        out = np.zeros((TILE, TILE), np.int32)
        for number, ring in enumerate(rings, 1):
            out[polygon(ring[:, 1] - 0.5, ring[:, 0] - 0.5, out.shape)] = number
        return out

    return paint


def rasterio_tile() -> Tile:
    from rasterio.features import rasterize

    def paint(rings: list[np.ndarray]) -> np.ndarray:
        shapes = [
            ({"type": "Polygon", "coordinates": [ring.tolist()]}, number)
            for number, ring in enumerate(rings, 1)
        ]
        return rasterize(shapes, (TILE, TILE), dtype=np.int32)

    return paint


def cv2_tile() -> Tile:
    import cv2

    def paint(rings: list[np.ndarray]) -> np.ndarray:
        out = np.zeros((TILE, TILE), np.int32)
        for number, ring in enumerate(rings, 1):
            fixed = np.rint((ring - 0.5) * 256).astype(np.int32)
            cv2.fillPoly(out, [fixed], number, shift=8)
        return out

    return paint


def pil_tile() -> Tile:
    from PIL import Image, ImageDraw

    def paint(rings: list[np.ndarray]) -> np.ndarray:
        image = Image.new("I", (TILE, TILE))
        draw = ImageDraw.Draw(image)
        for number, ring in enumerate(rings, 1):
            draw.polygon((ring - 0.5).ravel().tolist(), fill=number)
        return np.asarray(image)

    return paint


PAINTERS = {
    "skimage.draw.polygon": skimage_tile,
    "rasterio.rasterize": rasterio_tile,
    "cv2.fillPoly": cv2_tile,
    "PIL.ImageDraw": pil_tile,
}
OURS = ("nasdm-wsi, instances", "nasdm-wsi, conditioning")


def rasterise(name: str, n: int, tiles: int) -> dict[str, float]:
    """CPU seconds for ``tiles`` tiles, the number of nuclei in them, and the pixels that differ."""
    coords = np.concatenate([rings.reshape(-1, 2) for rings in outlines(n)])
    offsets = np.arange(n + 1)
    types = (1 + offsets[:-1] % 6).astype(np.uint8)
    nuclei = Nuclei(coords, offsets * (VERTICES + 1), offsets, types, 0.5)
    side = int((n / DENSITY) ** 0.5)
    begin = time.process_time()
    conditioning = Conditioning(nuclei, (side, side))
    result = {"index": time.process_time() - begin, "seconds": 0.0}
    result |= dict.fromkeys(("nuclei", "painted", "ours", "wrong"), 0)
    paint = PAINTERS[name]() if name in PAINTERS else None
    rings = coords.reshape(n, -1, 2)
    low, high = rings.min(1), rings.max(1)
    corners = np.random.default_rng(2).integers(0, max(1, side - TILE), (tiles, 2)).tolist()
    for y, x in corners:
        box = (y, x, y + TILE, x + TILE)
        meets = (high >= (x, y)) & (low <= (x + TILE, y + TILE))
        near = np.flatnonzero(meets.all(1))
        shifted = list(rings[near] - (x, y))
        begin = time.process_time()
        if paint:
            found = paint(shifted)
        elif name == OURS[0]:
            found, _ = conditioning.labels(box)
        else:
            conditioning.planes(PLANES, box)
        result["seconds"] += time.process_time() - begin
        result["nuclei"] += len(near)
        truth, _ = conditioning.labels(box)
        found = np.concatenate([[0], near + 1])[found] if paint else truth
        result["painted"] += int((found > 0).sum())
        result["ours"] += int((truth > 0).sum())
        result["wrong"] += int((found != truth).sum())
    return result


def read(name: str, path: Path) -> dict[str, float]:
    begin, cpu = time.perf_counter(), time.process_time()
    count = READERS[name](path)
    result = {"wall": time.perf_counter() - begin, "cpu": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result | {"nuclei": count, "peak": peak}


def alone(*arguments: object) -> dict[str, float] | None:
    """The result of a contender in a process of its own; None if its library is missing."""
    command = [sys.executable, __file__, "--contender", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "ModuleNotFoundError" in done.stderr:
        return None
    if done.returncode:
        return {"failed": done.returncode}
    return json.loads(done.stdout)


def print_reading(n: int, *, cells: bool) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "nuclei.geojson")
        write_file(path, n, cells=cells)
        what = "cells with nucleus and measurements" if cells else "detections"
        print(f"\n{n:,} {what}, {path.stat().st_size / 1e6:.0f} MB\n")
        print(
            "| reader | seconds | CPU seconds | nuclei a second | peak MB |\n|---|---|---|---|---|"
        )
        for name in READERS:
            r = alone("read", name, path)
            if r and "failed" in r:
                print(f"| {name} | failed ({r['failed']}) | | | |", flush=True)
            elif r:
                print(
                    f"| {name} | {r['wall']:.1f} | {r['cpu']:.1f} | {r['nuclei'] / r['wall']:,.0f} "
                    f"| {r['peak'] / 1e6:,.0f} |",
                    flush=True,
                )


def print_rasterising(n: int, tiles: int) -> None:
    print(f"\n{tiles} tiles of {TILE} pixels out of {n:,} nuclei\n")
    print("| rasteriser | nuclei a CPU second | ms a tile | area | wrong pixels |")
    print("|---|---|---|---|---|")
    for name in (*OURS, *PAINTERS):
        if r := alone("rasterise", name, n, tiles):
            print(
                f"| {name} | {r['nuclei'] / r['seconds']:,.0f} "
                f"| {r['seconds'] / tiles * 1e3:.2f} | {r['painted'] / r['ours']:.1%} "
                f"| {r['wrong'] / r['ours']:.1%} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nuclei", type=int, default=1_000_000)
    parser.add_argument("--cells", action="store_true", help="cells instead of detections")
    parser.add_argument("--tiles", type=int, default=200)
    parser.add_argument("--contender", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        what, name, *rest = options.contender
        result = read(name, Path(*rest)) if what == "read" else rasterise(name, *map(int, rest))
        print(json.dumps(result))
        return
    print(f"Python {platform.python_version()}", end="")
    for library in LIBRARIES:
        try:
            print(f", {library} {version(library)}", end="")
        except PackageNotFoundError:
            print(f", no {library}", end="")
    print()
    print_reading(options.nuclei, cells=options.cells)
    print_rasterising(options.nuclei, options.tiles)


if __name__ == "__main__":
    main()

"""Small annotation files of every format, damaged in their bytes or in their structure.

A seed stands for one file, which `damaged_file` makes; `fuzz.py` reads them by the thousand.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import sqlite3
import sys
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse
import shapely
import tifffile
from PIL import Image

SIZE = (96, 96)

# Whole files


def squares() -> list[list[list[float]]]:
    """Closed rings of nine nuclei."""
    corners = [(x, y) for y in (10, 40, 70) for x in (10, 40, 70)]
    side = [(0, 0), (12, 0), (12, 11), (5, 14), (0, 11), (0, 0)]
    return [[[x + dx + 0.5, y + dy] for dx, dy in side] for x, y in corners]


def labels() -> np.ndarray:
    image = np.zeros(SIZE, np.int32)
    for k, ring in enumerate(squares(), 1):
        x, y = map(int, ring[0])
        image[y : y + 11, x : x + 12] = k
    return image


def geojson() -> dict:
    features = []
    for k, ring in enumerate(squares()):
        kind = ("annotation", "detection", "cell")[k % 3]
        feature = {
            "type": "Feature",
            "id": f"b3e0a5a0-0000-4000-8000-{k:012}",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "objectType": kind,
                "classification": {"name": "Tumor", "color": [1, 2, 3]},
                "measurements": {"Area": 1.5},
            },
        }
        if kind == "cell":
            feature["nucleusGeometry"] = feature["geometry"]
        if kind == "detection":
            shape = {"type": "MultiPolygon", "coordinates": [[ring]]}
            feature["geometry"] = {"type": "GeometryCollection", "geometries": [shape]}
        features.append(feature)
    features[0]["properties"]["childObjects"] = [features.pop()]
    return {"type": "FeatureCollection", "features": features}


def hovernet() -> dict:
    cells = {
        str(k): {"bbox": [[1, 2], [3, 4]], "centroid": [1, 2], "contour": ring, "type": k % 5}
        for k, ring in enumerate(squares())
    }
    return {"mag": 40, "nuc": cells}


def cellvit() -> dict:
    cells = [{"contour": ring, "type": 1 + k % 5} for k, ring in enumerate(squares())]
    types = dict(enumerate(["Background", "Neoplastic", "Inflammatory", "Connective"]))
    metadata = {"magnification": 40, "mpp": 0.25}
    return {"wsi_metadata": metadata, "type_map": types, "cells": cells}


def coco() -> dict:
    nuclei = [
        {"id": k, "image_id": 1, "category_id": 1, "segmentation": [sum(ring, [])], "iscrowd": 0}
        for k, ring in enumerate(squares(), 1)
    ]
    images = [{"id": 1, "width": 96, "height": 96, "file_name": "a.png"}]
    categories = [{"id": 1, "name": "epithelial"}]
    return {"images": images, "categories": categories, "annotations": nuclei}


def dsa() -> dict:
    elements = [
        {"type": "polyline", "closed": True, "points": [[*p, 0] for p in r], "group": "Tumor"}
        for r in squares()
    ]
    return {"annotation": {"name": "a", "elements": elements}}


def imagescope() -> bytes:
    regions = "".join(
        "<Region Id='1'><Vertices>"
        + "".join(f"<Vertex X='{x}' Y='{y}' Z='0'/>" for x, y in ring)
        + "</Vertices></Region>"
        for ring in squares()
    )
    text = f"<Annotation Id='1' Name='Epithelial'><Regions>{regions}</Regions></Annotation>"
    return f"<Annotations MicronsPerPixel='0.5'>{text}</Annotations>".encode()


def asap() -> bytes:
    outlines = "".join(
        "<Annotation Name='a' Type='Polygon' PartOfGroup='Tumor'><Coordinates>"
        + "".join(f"<Coordinate Order='{k}' X='{x}' Y='{y}'/>" for k, (x, y) in enumerate(ring))
        + "</Coordinates></Annotation>"
        for ring in squares()
    )
    return f"<ASAP_Annotations><Annotations>{outlines}</Annotations></ASAP_Annotations>".encode()


def wkt() -> bytes:
    rows = [f'{k},Tumor,"{shapely.Polygon(r).wkt}"' for k, r in enumerate(squares())]
    return "\n".join(["id,class,geometry", *rows]).encode()


def xenium() -> bytes:
    rows = [f"c{k},{x},{y}" for k, ring in enumerate(squares()) for x, y in ring]
    return "\n".join(["cell_id,vertex_x,vertex_y", *rows]).encode()


def saved(save: Callable, *args: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    save(file, *args, **options)
    return file.getvalue()


def mat(rng: random.Random, **fields: Any) -> bytes:
    return saved(scipy.io.savemat, fields, do_compression=rng.random() < 0.5)


def lizard(rng: random.Random) -> bytes:
    ids = np.arange(1, 10)[:, None]
    return mat(rng, inst_map=labels(), id=ids, **{"class": 1 + ids % 6})


def hovernet_mat(rng: random.Random) -> bytes:
    ids = np.arange(1, 10)[:, None]
    return mat(rng, inst_map=labels(), inst_uid=ids, inst_type=1 + ids % 4)


def consep(rng: random.Random) -> bytes:
    return mat(rng, inst_map=labels().astype(float), type_map=(labels() % 7).astype(float))


def tiff(rng: random.Random) -> bytes:
    kind = rng.choice(["uint8", "uint16", "int32", "float32"])
    compression = rng.choice([None, "zlib", "lzw", "zstd", "jpegxl" if kind == "uint8" else None])
    tile = rng.choice([None, (32, 32)])
    file = io.BytesIO()
    tifffile.imwrite(file, labels().astype(kind), compression=compression, tile=tile)
    return file.getvalue()


def png(rng: random.Random) -> bytes:
    return saved(Image.fromarray(labels().astype(rng.choice(["uint8", "uint16"]))).save, "PNG")


def npy(rng: random.Random) -> bytes:
    one = labels().astype(rng.choice(["uint8", "int64", "float32"]))
    layers = rng.choice([[one], [one, one % 7], [one] * 6])
    array = one if len(layers) == 1 else np.stack(layers, -1)
    return saved(np.save, array if rng.random() < 0.6 else array[None])


def npz(rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return saved(scipy.sparse.save_npz, scipy.sparse.csr_matrix(labels()))
    return saved(rng.choice([np.savez, np.savez_compressed]), labels=labels())


ODD = [
    None,
    True,
    0,
    -1,
    1e308,
    -1e-300,
    2**70,
    "",
    "x",
    [],
    {},
    [[]],
    [[[0, 0]]],
    [1, 2],
    {"a": 1},
]


def store(rng: random.Random, damage: bool) -> bytes:
    """A TIAToolbox store, some of its cells replaced if it is to be damaged."""
    packed = rng.random() < 0.5
    with closing(sqlite3.connect(":memory:")) as base:
        base.execute("CREATE TABLE metadata (key TEXT, value TEXT)")
        facts = [("version", '"1.0.1"'), ("compression", '"zlib"' if packed else "null")]
        base.executemany("INSERT INTO metadata VALUES (?, ?)", facts)
        base.execute(
            "CREATE TABLE annotations (id INTEGER PRIMARY KEY, key TEXT, objtype TEXT, "
            "cx, cy, geometry, properties, area)"
        )
        for k, ring in enumerate(squares()):
            blob = shapely.Polygon(ring).wkb
            if damage and rng.random() < 0.3:
                blob = damaged(rng, blob)
            row: list[Any] = [
                None,
                f"{k}",
                "Polygon",
                1,
                1,
                zlib.compress(blob) if packed else blob,
            ]
            row += ['{"type": "Tumor"}', 1]
            if damage and rng.random() < 0.3:
                row[rng.randrange(1, len(row))] = rng.choice([None, 1, 1.5, "x", b"y", "{}", "[]"])
            base.execute("INSERT INTO annotations VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        base.commit()
        return base.serialize()


# Damage


def damaged(rng: random.Random, data: bytes) -> bytes:
    """The bytes with some of them changed, taken out or put in."""
    text = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(len(text) + 1)
        size = rng.choice([1, 1, 2, 4, 8, 64])
        new = rng.choice([b"\0", b"\xff", b"\x7f", b"[", b"9", rng.randbytes(1)]) * size
        how = rng.randrange(6)
        if how < 3:
            text[at : at + size] = new[: len(text) - at]
        elif how == 3:
            del text[at : at + size]
        elif how == 4:
            text[at:at] = text[at : at + size * 8]
        elif rng.random() < 0.3:
            del text[at:]
    return bytes(text)


def mutated(rng: random.Random, value: Any) -> Any:
    """JSON with one of its values replaced, dropped, doubled, nested or swapped."""
    places = [(value, key) for key in keys_of(value)]
    for container, key in places:
        places += [(container[key], inner) for inner in keys_of(container[key])]
    for _ in range(rng.choice([1, 1, 2, 4])):
        container, key = rng.choice(places)
        if key not in keys_of(container):
            continue
        how = rng.randrange(6)
        if how < 3:
            container[key] = rng.choice(ODD)
        elif how == 3:
            del container[key]
        elif how == 4:
            for _ in range(rng.choice([1, 2, 30, 2000])):
                container[key] = [container[key]]
        else:
            other, place = rng.choice(places)
            if place in keys_of(other):
                container[key] = json.loads(dumped(other[place]))
    return value


def keys_of(value: Any) -> list:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list) else []


def dumped(value: Any) -> bytes:
    """JSON of any depth."""
    sys.setrecursionlimit(20000)
    return json.dumps(value).encode()


def in_a_zip(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return file.getvalue()


JSON = {
    "a.geojson": geojson,
    "hovernet.json": hovernet,
    "cellvit.json": cellvit,
    "coco.json": coco,
    "dsa.json": dsa,
}
TEXTS = {"imagescope.xml": imagescope, "asap.xml": asap, "wkt.csv": wkt, "xenium.csv": xenium}
BINARY = {
    "lizard.mat": lizard,
    "hovernet.mat": hovernet_mat,
    "consep.mat": consep,
    "a.tif": tiff,
    "a.png": png,
    "a.npy": npy,
    "a.npz": npz,
}
NAMES = [*JSON, *JSON, *TEXTS, *BINARY, "a.db"]


def damaged_file(seed: int) -> tuple[str, bytes]:
    """The name and the bytes of the file that a seed stands for."""
    rng = random.Random(seed)
    name = rng.choice(NAMES)
    if name == "a.db":
        if rng.random() < 0.5:
            return name, store(rng, damage=True)
        return name, damaged(rng, store(rng, damage=False))
    if name in BINARY:
        return name, damaged(rng, BINARY[name](rng))
    if name in TEXTS:
        data = damaged(rng, TEXTS[name]())
    elif rng.random() < 0.7:
        data = dumped(mutated(rng, JSON[name]()))
    else:
        data = damaged(rng, dumped(JSON[name]()))
    if rng.random() < 0.2:
        data = rng.choice([gzip.compress, lambda text: in_a_zip(name, text)])(data)
        name += ".gz"
        data = data if rng.random() < 0.5 else damaged(rng, data)
    return name, data

"""What a file holds, in rows of (name, value)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from .dataset import read_manifest
from .errors import CheckpointError
from .nuclei import Nuclei
from .ome_zarr import is_ome_zarr
from .rendering import read_annotations
from .slides import open_slide

Rows = list[tuple[str, str]]

ANNOTATIONS = (".geojson", ".json", ".geojson.gz", ".json.gz", ".zip", ".mat")


def describe(path: Path, **reading: Any) -> Rows:
    """Rows about a slide, an annotation file, a prepared dataset or a checkpoint.

    ``reading`` goes to `rendering.read_annotations`.

    Raises:
        NasdmError: the file cannot be read as what it seems to be.
    """
    path = Path(path)
    if path.is_dir() and not is_ome_zarr(path):
        return _dataset(path)
    if path.suffix == ".safetensors":
        return _checkpoint(path)
    if path.name.lower().endswith(ANNOTATIONS):
        # Nothing printed depends on the resolution, which a GeoJSON does not tell.
        return _annotations(read_annotations(path, mpp=0.5, **reading))
    return _slide(path)


def _dataset(path: Path) -> Rows:
    manifest = read_manifest(path)
    regions = manifest["regions"]
    counts: dict[str, int] = {}
    for region in regions:
        for name, count in region["nuclei"].items():
            counts[name] = counts.get(name, 0) + count
    held = sum((y1 - y0) * (x1 - x0) for r in regions for y0, x0, y1, x1 in r["held_out"])
    published = sum(r["published"] for r in regions)
    return [
        ("kind", "prepared dataset"),
        ("regions", f"{len(regions)}"),
        ("pixels", f"{published:,} published at {manifest['mpp']} mpp, {held:,} held out"),
        *((name, f"{count:,} nuclei") for name, count in counts.items()),
    ]


def _checkpoint(path: Path) -> Rows:
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})["nasdm-wsi-1"])
            names = list(file.keys())
            sizes = [file.get_slice(name).get_shape() for name in names]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is no checkpoint of nasdm-wsi, or damaged") from error
    kind = "weights" if "family" in header else "training checkpoint"
    values = sum(int(np.prod(size)) for size in sizes)
    return [
        ("kind", kind),
        ("values", f"{values:,} in {len(names)} tensors"),
        *((key, f"{value}") for key, value in header.items()),
    ]


def _annotations(nuclei: Nuclei) -> Rows:
    y0, x0, y1, x1 = nuclei.extent()
    return [
        ("kind", "annotations"),
        ("nuclei", f"{len(nuclei):,}"),
        *((name, f"{count:,}") for name, count in nuclei.counts().items()),
        ("extent", f"x {x0:.1f} to {x1:.1f}, y {y0:.1f} to {y1:.1f} pixels"),
        ("tissue outline", "no" if nuclei.tissue is None else "yes"),
    ]


def _slide(path: Path) -> Rows:
    with open_slide(path) as slide:
        return [
            ("kind", f"slide ({slide.format})"),
            ("size", f"{slide.size[1]} x {slide.size[0]} pixels"),
            ("mpp", f"{slide.mpp:g}" if slide.mpp else "unknown"),
            ("levels", ", ".join(f"{w} x {h}" for h, w in slide.levels)),
        ]

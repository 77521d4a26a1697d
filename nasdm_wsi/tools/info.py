"""Describe a file in rows of (name, value)."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..annotations.contents import Contents
from ..annotations.findings import Findings
from ..annotations.formats import is_annotation, read_contents
from ..checkpoints import read_header
from ..slides.formats import find_format
from ..slides.reading import open_slide
from .dataset import read_manifest

Rows = list[tuple[str, str]]


def describe(path: Path, **reading: Any) -> Rows:
    """Rows about a slide, an annotation file, a prepared dataset or a checkpoint.

    ``reading`` holds further arguments of `formats.read_contents`. The rows of annotations end with
    a table of their classes, even if some of these could not be rendered.

    Raises:
        NasdmError: the file cannot be read.
    """
    path = Path(path)
    if path.is_dir() and not is_annotation(path):
        return _slide(path) if find_format(path) else _dataset(path)
    if path.suffix == ".safetensors":
        return _checkpoint(path)
    if is_annotation(path):
        # A GeoJSON has no pixel size, and nothing that is printed depends on it.
        return _annotations(read_contents(path, mpp=0.5, **reading))
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
    header, shapes = read_header(path)
    values = sum(math.prod(shape) for shape in shapes.values())
    told = {**asdict(header), **{f"training: {k}": v for k, v in vars(header.training).items()}}
    return [
        ("kind", "weights" if header.kind == "weights" else "training checkpoint"),
        ("values", f"{values:,} in {len(shapes)} tensors"),
        *((key, f"{value}") for key, value in told.items() if key not in ("kind", "training")),
    ]


def _annotations(contents: Contents) -> Rows:
    nuclei = contents.nuclei
    rows = [("kind", f"annotations, {contents.kind}"), ("nuclei", f"{len(nuclei):,}")]
    rows += [(name, f"{count:,}") for name, count in nuclei.counts().items()]
    if len(nuclei) or nuclei.tissue is not None:
        y0, x0, y1, x1 = nuclei.extent()
        rows.append(("extent", f"x {x0:.1f} to {x1:.1f}, y {y0:.1f} to {y1:.1f} pixels"))
    rows.append(("tissue outline", "no" if nuclei.tissue is None else "yes"))
    if notes := contents.findings.summary():
        rows.append(("also found", notes))
    return [*rows, ("", ""), *_class_rows(contents.findings)]


def _class_rows(findings: Findings) -> Rows:
    """Class name, what it is read as, and count."""
    table = [("read as", "count"), *((meaning, f"{n:,}") for _, meaning, n in findings.rows())]
    left, right = (max(map(len, column)) for column in zip(*table, strict=True))
    names = ["class", *(name for name, _, _ in findings.rows())]
    lines = [f"{meaning:<{left}}  {count:>{right}}" for meaning, count in table]
    return list(zip(names, lines, strict=True))


def _slide(path: Path) -> Rows:
    with open_slide(path) as slide:
        return [
            ("kind", f"slide ({slide.format})"),
            ("size", f"{slide.size[1]} x {slide.size[0]} pixels"),
            ("mpp", f"{slide.mpp:g}" if slide.mpp else "unknown"),
            ("levels", ", ".join(f"{w} x {h}" for h, w in slide.levels)),
        ]

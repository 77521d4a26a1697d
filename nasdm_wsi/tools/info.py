"""Description of a file, as JSON values for programs and as rows of (name, value) for people."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..annotations.contents import Contents
from ..annotations.formats import is_annotation, read_contents
from ..annotations.regions import Regions
from ..checkpoints import read_header
from ..provenance import facts_of, is_synthetic, legible_facts
from ..slides.formats import find_format
from ..slides.reading import open_slide
from .dataset import read_manifest

Rows = list[tuple[str, str]]
Facts = dict[str, Any]


def describe(path: str | Path, **reading: Any) -> Rows:
    """Describe a slide, an annotation file, a prepared dataset or a checkpoint in rows.

    ``reading`` holds further arguments of `formats.read_contents`. The rows of annotations end with
    a table of their classes, even if some of these could not be rendered.

    Raises:
        NasdmError: the file cannot be read.
    """
    facts = examine(path, **reading)
    rows = {"slide": _slide_rows, "annotations": _annotation_rows, "dataset": _dataset_rows}
    return rows.get(facts["kind"], _checkpoint_rows)(facts)


def examine(path: str | Path, **reading: Any) -> Facts:
    """Describe a file as JSON values; "kind" determines which other members there are.

    Raises:
        NasdmError: the file cannot be read.
    """
    path = Path(path)
    if path.is_dir() and not is_annotation(path):
        return _slide(path) if find_format(path) else _dataset(path)
    if path.suffix == ".safetensors":
        return _checkpoint(path)
    if is_annotation(path):
        # Most GeoJSON has no pixel size; without it, sizes in micrometres are not weighed.
        return _annotations(read_contents(path, assumed_mpp=0.5, **reading))
    return _slide(path)


def _dataset(path: Path) -> Facts:
    manifest = read_manifest(path)
    regions = manifest["regions"]
    counts: dict[str, int] = {}
    for region in regions:
        for name, count in region["nuclei"].items():
            counts[name] = counts.get(name, 0) + count
    return {
        "kind": "dataset",
        "regions": len(regions),
        "mpp": manifest["mpp"],
        "published": sum(r["published"] for r in regions),
        "held_out": sum((y1 - y0) * (x1 - x0) for r in regions for y0, x0, y1, x1 in r["held_out"]),
        "nuclei": counts,
        "labels": {kind: _origins(regions, kind) for kind in ("nuclei", "regions")},
    }


def _origins(regions: list[Facts], kind: str) -> dict[str, int]:
    """Return how many pictures have labels of a kind, by where these come from."""
    return dict(Counter(region["labels"][kind] for region in regions))


def _dataset_rows(facts: Facts) -> Rows:
    published, held = (f"{facts[name]:,}" for name in ("published", "held_out"))
    return [
        ("kind", "prepared dataset"),
        ("regions", f"{facts['regions']}"),
        ("pixels", f"{published} published at {facts['mpp']} mpp, {held} held out"),
        *(
            (f"labels of {kind}", ", ".join(f"{n} {origin}" for origin, n in origins.items()))
            for kind, origins in facts["labels"].items()
        ),
        *((name, f"{count:,} nuclei") for name, count in facts["nuclei"].items()),
    ]


def _checkpoint(path: Path) -> Facts:
    header, shapes = read_header(path)
    values = sum(math.prod(shape) for shape in shapes.values())
    return {**asdict(header), "values": values, "tensors": len(shapes)}


def _checkpoint_rows(facts: Facts) -> Rows:
    training = {f"training: {name}": value for name, value in facts["training"].items()}
    told_above = ("kind", "training", "values", "tensors")
    return [
        ("kind", "weights" if facts["kind"] == "weights" else "training checkpoint"),
        ("values", f"{facts['values']:,} in {facts['tensors']} tensors"),
        *((k, f"{value}") for k, value in {**facts, **training}.items() if k not in told_above),
    ]


def _annotations(contents: Contents) -> Facts:
    nuclei, extent = contents.nuclei, None
    if len(nuclei) or nuclei.regions or nuclei.tissue is not None:
        extent = dict(zip(("y0", "x0", "y1", "x1"), nuclei.extent(), strict=True))
    classes = [
        {"name": name, "read_as": meaning, "count": count}
        for name, meaning, count in contents.findings.rows()
    ]
    return {
        "kind": "annotations",
        "format": contents.kind,
        "nuclei": len(nuclei),
        "types": nuclei.counts(),
        "regions": _regions(nuclei.regions, contents.findings.mpp_is_known),
        "extent": extent,
        "canvas": nuclei.canvas_size and {**_side(nuclei.canvas_size), "mpp": nuclei.mpp},
        "tissue": nuclei.tissue is not None,
        "also_found": contents.findings.summary() or None,
        "warnings": contents.findings.warnings,
        "error": contents.findings.problem or None,
        "classes": classes,
    }


def _regions(regions: Regions | None, mpp_is_known: bool) -> Facts:
    """Return number and area of each region; the area is None if the pixel size is not known."""
    if not regions:
        return {}
    areas = regions.square_millimetres() if mpp_is_known else {}
    counts = regions.counts().items()
    return {name: {"count": n, "square_millimetres": areas.get(name)} for name, n in counts}


def _annotation_rows(facts: Facts) -> Rows:
    rows = [("kind", f"annotations, {facts['format']}"), ("nuclei", f"{facts['nuclei']:,}")]
    rows += [(name, f"{count:,}") for name, count in facts["types"].items()]
    for name, region in facts["regions"].items():
        area = region["square_millimetres"]
        rows.append((f"region {name}", f"{region['count']:,}" + _area(area)))
    if facts["extent"]:
        text = "x {x0:.1f} to {x1:.1f}, y {y0:.1f} to {y1:.1f} pixels"
        rows.append(("extent", text.format(**facts["extent"])))
    if facts["canvas"]:
        text = "{width} x {height} pixels at {mpp:g} mpp"
        rows.append(("canvas", text.format(**facts["canvas"])))
    rows.append(("tissue outline", "yes" if facts["tissue"] else "no"))
    if facts["also_found"]:
        rows.append(("also found", facts["also_found"]))
    rows += [("warning", warning) for warning in facts["warnings"]]
    if facts["error"]:
        rows.append(("error", facts["error"]))
    return [*rows, ("", ""), *_class_rows(facts["classes"])]


def _area(square_millimetres: float | None) -> str:
    return "" if square_millimetres is None else f", {square_millimetres:.4g} mm2"


def _class_rows(classes: list[Facts]) -> Rows:
    """Return class name, meaning and count of each class."""
    table = [("read as", "count"), *((c["read_as"], f"{c['count']:,}") for c in classes)]
    left, right = (max(map(len, column)) for column in zip(*table, strict=True))
    names = ["class", *(c["name"] for c in classes)]
    lines = [f"{meaning:<{left}}  {count:>{right}}" for meaning, count in table]
    return list(zip(names, lines, strict=True))


def _slide(path: Path) -> Facts:
    with open_slide(path) as slide:
        return {
            "kind": "slide",
            "format": slide.format,
            **_side(slide.size),
            "mpp": slide.mpp,
            "levels": [_side(level) for level in slide.levels],
            "synthetic": is_synthetic(slide.description),
            "provenance": facts_of(slide.description),
            "description": slide.description,
        }


def _side(size: tuple[int, int]) -> dict[str, int]:
    """Return a size (h, w) as a dict with named members."""
    return {"width": size[1], "height": size[0]}


def _slide_rows(facts: Facts) -> Rows:
    size = "{width} x {height}"
    rows = [
        ("kind", f"slide ({facts['format']})"),
        ("size", f"{size.format(**facts)} pixels"),
        ("mpp", f"{facts['mpp']:g}" if facts["mpp"] else "unknown"),
        ("levels", ", ".join(size.format(**level) for level in facts["levels"])),
    ]
    if facts["synthetic"]:
        made = legible_facts(facts["description"]) or [("description", facts["description"])]
        how_much = "in part" if facts["provenance"].get("known") else "yes"
        rows += [("synthetic", f"{how_much}: not for diagnosis"), *made]
    return rows

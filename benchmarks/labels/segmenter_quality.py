"""Judge the segmenter of nuclei on the squares of Lizard and CoNSeP that training kept aside.

    python benchmarks/labels/segmenter_quality.py DATA WEIGHTS

Prints JSON: Dice of nuclei against background, F1 of detection (centroids within `REACH` pixels or
an overlap of a half), panoptic quality, and how often types agree.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from pictures import pictures
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from segmenter import UNKNOWN, Segmenter, decode, load, predict

from nasdm_wsi.annotations.types import TYPES

REACH = 6  # pixels; centroids this close are the same nucleus
SMALLEST = 10  # pixels; smaller pieces of nuclei at the border of a square are not counted
MARGIN = 64  # pixels round a square that the segmenter sees


def centroids(instances: np.ndarray) -> np.ndarray:
    """Centroids (n, 2) as y, x of instances 1..n."""
    n = int(instances.max())
    return np.array(ndimage.center_of_mass(instances > 0, instances, np.arange(1, n + 1))).reshape(
        -1, 2
    )


def compact(
    instances: np.ndarray, types: np.ndarray, smallest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Instances numbered 1..n without pieces below ``smallest``, and the type of each (n,)."""
    ids, flat = np.unique(instances, return_inverse=True)
    sizes = np.bincount(flat.ravel())
    good = (sizes >= smallest) & (ids > 0)
    table = np.zeros(len(ids), np.int32)
    table[good] = np.arange(1, good.sum() + 1)
    out = table[flat].reshape(instances.shape)
    kinds = np.zeros(good.sum() + 1, np.uint8)
    kinds[out.ravel()] = types.ravel()
    return out, kinds[1:]


def compare(truth, true_kinds, found, found_kinds) -> dict:
    """Counts of one rectangle: pixels, pairs, sums of IoU, and by type."""
    n, m = len(true_kinds), len(found_kinds)
    both = np.zeros((n + 1, m + 1))
    np.add.at(both, (truth.ravel(), found.ravel()), 1)
    iou = both[1:, 1:] / np.maximum(both.sum(1)[1:, None] + both.sum(0)[None, 1:] - both[1:, 1:], 1)
    gap = np.full((n, m), 99.0)
    if n and m:
        gap = np.linalg.norm(centroids(truth)[:, None] - centroids(found)[None], axis=-1)
    allowed = (gap < REACH) | (iou > 0.5)
    a, b = linear_sum_assignment(np.where(allowed, -1 - iou + gap / 100, 0))
    good = allowed[a, b]
    a, b = a[good], b[good]
    same = true_kinds[a] == found_kinds[b]
    confusion = np.zeros((7, 7), int)
    np.add.at(confusion, (true_kinds[a], found_kinds[b]), 1)
    return {
        "overlap": int(((truth > 0) & (found > 0)).sum()),
        "area": int((truth > 0).sum() + (found > 0).sum()),
        "pairs": len(a),
        "truth": n,
        "found": m,
        "iou_pairs": int((iou > 0.5).sum()),
        "iou_sum": float(iou[iou > 0.5].sum()),
        "tp": np.bincount(true_kinds[a][same], minlength=7),
        "true": np.bincount(true_kinds, minlength=7),
        "pred": np.bincount(found_kinds, minlength=7),
        "confusion": confusion,
    }


def summary(rows: list[dict]) -> dict:
    """Measures over the counts of several squares."""
    s = {k: sum(r[k] for r in rows) for k in rows[0]}
    by_type = 2 * s["tp"] / np.maximum(s["true"] + s["pred"], 1)
    return {
        "nuclei": s["truth"],
        "found": s["found"],
        "dice": round(2 * s["overlap"] / s["area"], 4),
        "detection_f1": round(2 * s["pairs"] / (s["truth"] + s["found"]), 4),
        "panoptic_quality": round(2 * s["iou_sum"] / (s["truth"] + s["found"]), 4),
        "segmentation_quality": round(s["iou_sum"] / max(s["iou_pairs"], 1), 4),
        "type_accuracy_of_matched": round(float(s["tp"].sum() / max(s["pairs"], 1)), 4),
        "f1_by_type": {TYPES[k]: round(float(by_type[k]), 4) for k in range(1, 7) if s["true"][k]},
        "true_counts": {TYPES[k]: int(s["true"][k]) for k in range(1, 7)},
        "found_counts": {TYPES[k]: int(s["pred"][k]) for k in range(1, 7)},
        "confusion_true_by_found": s["confusion"][1:, 1:].tolist(),
    }


def judged(picture: Any, model: Segmenter) -> dict:
    """Counts for the square of one picture."""
    image, (types, instances) = picture.rgb(), picture.nuclei()
    y0, x0, y1, x1 = picture.held_out()
    top, left = max(y0 - MARGIN, 0), max(x0 - MARGIN, 0)
    seen = image[top : y1 + MARGIN, left : x1 + MARGIN]
    square = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    found_types, found = (array[square] for array in decode(predict(seen, model)))
    types, instances = types[y0:y1, x0:x1], instances[y0:y1, x0:x1]
    found = np.where(types == UNKNOWN, 0, found)
    if picture.set == "consep":  # its inflammatory nuclei are not told apart
        found_types = np.where(np.isin(found_types, (1, 4, 5)), 3, found_types)
    truth = compact(instances, types, SMALLEST)
    return compare(*truth, *compact(found, found_types, SMALLEST))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    options = parser.parse_args()
    model = load(options.weights)
    rows = {
        name: [judged(picture, model) for picture in pictures(options.data, name)]
        for name in ("lizard", "consep")
    }
    table = {name: summary(counts) for name, counts in rows.items()}
    print(json.dumps(table | {"both": summary(rows["lizard"] + rows["consep"])}, indent=1))


if __name__ == "__main__":
    main()

"""Judge the segmenter of nuclei on the squares of Lizard and CoNSeP that training kept aside.

    python benchmarks/labels/segmenter_quality.py DATA [WEIGHTS]

Prints JSON of the figures of `matching.Matching`: Dice of nuclei against background, F1 of
detection, panoptic quality, and how often types agree.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from pictures import pictures

from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.model.evaluation.matching import Matching
from nasdm_wsi.model.evaluation.segmenter import WEIGHTS, Segmenter, decode, load, predict

MARGIN = 64  # pixels round a square that the segmenter sees
INFLAMMATORY = (1, 4, 5)  # which CoNSeP does not tell from lymphocytes


def judge(picture: Any, model: Segmenter, *counts: Matching) -> None:
    """Count the square of one picture."""
    image, (types, instances) = picture.rgb(), picture.nuclei()
    y0, x0, y1, x1 = picture.held_out()
    top, left = max(y0 - MARGIN, 0), max(x0 - MARGIN, 0)
    seen = image[top : y1 + MARGIN, left : x1 + MARGIN]
    square = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    found_types, found = (array[square] for array in decode(predict(seen, model)))
    if picture.set == "consep":
        found_types = np.where(np.isin(found_types, INFLAMMATORY), 3, found_types)
    for matching in counts:
        matching.add(instances[y0:y1, x0:x1], types[y0:y1, x0:x1], found, found_types)


def summary(matching: Matching) -> dict:
    """All figures, and the counts behind them."""
    figures = {name: round(value, 3) for name, value in matching.figures().items()}
    return figures | {
        "nuclei": matching.nuclei,
        "found": matching.found,
        "nuclei by type": dict(zip(TYPES[1:], matching.by_type[1:].tolist(), strict=True)),
        "found by type": dict(zip(TYPES[1:], matching.found_by_type[1:].tolist(), strict=True)),
        "true by found": matching.confusion[1:, 1:].tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path, nargs="?", default=WEIGHTS)
    options = parser.parse_args()
    model = load(options.weights)
    counts = {name: Matching() for name in ("lizard", "consep", "both")}
    for picture in pictures(options.data, "lizard", "consep"):
        judge(picture, model, counts[picture.set], counts["both"])
    print(json.dumps({name: summary(matching) for name, matching in counts.items()}, indent=1))


if __name__ == "__main__":
    main()

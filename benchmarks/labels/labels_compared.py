"""How much do the pseudo-labels of GlaS change with another segmenter?

    python benchmarks/labels/labels_compared.py DATA NUCLEI [WEIGHTS] [--count 10]

Labels pictures of GlaS, evenly spread over the collection, with the segmenter in WEIGHTS (without
it, the one in the package), as `nuclei.py` does, and compares the result with the labels in NUCLEI.
Neither is the truth. Prints the figures of `matching.Matching` with the labels in NUCLEI in place
of published ones.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from nuclei import glas
from pictures import pictures
from segmenter_quality import summary

from nasdm_wsi.model.evaluation.matching import Matching
from nasdm_wsi.model.evaluation.segmenter import WEIGHTS, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("nuclei", type=Path)
    parser.add_argument("weights", type=Path, nargs="?", default=WEIGHTS)
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, matching = load(options.weights), Matching()
    all_of_glas = pictures(options.data, "glas")
    chosen = np.linspace(0, len(all_of_glas) - 1, options.count).round().astype(int)
    for picture in (all_of_glas[k] for k in chosen):
        types, instances = glas(picture, model)
        before = np.load(options.nuclei / f"{picture.key}.npz")
        matching.add(before["instances"], before["types"], instances, types)
    print(json.dumps(summary(matching), indent=1))


if __name__ == "__main__":
    main()

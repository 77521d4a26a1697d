"""A picture of what segmenters of `utility.py` read.

    python benchmarks/utility_seen.py WORK OUT.jpg [--sets masks layouts] [--kinds real painted]

For each kind a segmenter is trained as in `utility.py`, with seed 0 and all labelled pictures but
those of dpath; its weights are kept in WORK/seen. Each row shows a part of a picture of a set:
pixels, labels, and the reading of each segmenter, in the colours of the types. Of the sets real and
masks it is a part of a picture of dpath.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.segmentation import find_boundaries

sys.path.insert(0, str(Path(__file__).parent / "labels"))

from train_segmenter import fit  # noqa: E402
from utility_training import ALL, KINDS, Run, Shelf  # noqa: E402

from nasdm_wsi.annotations.types import PALETTE  # noqa: E402
from nasdm_wsi.model.evaluation.segmenter import Segmenter, decode, load, predict  # noqa: E402

FOLD = "dpath"
SHOWN = {
    "real": ("lizard-dpath_62", (384, 256)),
    "masks": ("lizard-dpath_62", (0, 0)),
    "layouts": ("layout-3", (300, 200)),
}
SIDE = 320  # pixels of a part
GAP = 6


def segmenter(work: Path, kind: str, *, steps: int, batch: int) -> Segmenter:
    """Return the segmenter of a kind, trained if its weights are not there."""
    file = work / "seen" / f"{kind}.safetensors"
    if not file.exists():
        groups = Shelf(work / "sets").groups(Run(FOLD, kind, ALL, 0))
        state = fit(groups, lambda step: step / steps, batch=batch).state_dict()
        file.parent.mkdir(exist_ok=True)
        weights = {k: v.half().contiguous() for k, v in state.items() if v.is_floating_point()}
        save_file(weights, file)
    return load(file)


def outlined(image: np.ndarray, instances: np.ndarray, types: np.ndarray) -> np.ndarray:
    """The picture with the border of each nucleus in the colour of its type."""
    border = find_boundaries(instances, mode="inner")
    out = image.copy()
    out[border] = PALETTE[types[border]]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SHOWN, default=["masks", "layouts"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["real", "painted"])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    given = {"steps": options.steps, "batch": options.batch}
    segmenters = [segmenter(options.work, kind, **given) for kind in options.kinds]
    rows = []
    sets = Shelf(options.work / "sets").sets
    for way in options.sets:
        name, (y, x) = SHOWN[way]
        (picture,) = (p for p in sets[way] if p.name == name)
        cut = np.s_[y : y + SIDE, x : x + SIDE]
        image, types, instances = (
            a[cut] for a in (picture.image, picture.types, picture.instances)
        )
        row = [image, outlined(image, instances, types)]
        for network in segmenters:
            types, instances = decode(predict(image, network))
            row.append(outlined(image, instances, types))
        framed = [np.pad(p, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for p in row]
        rows.append(np.hstack(framed))
    Image.fromarray(np.vstack(rows)).save(options.out, quality=85)


if __name__ == "__main__":
    main()

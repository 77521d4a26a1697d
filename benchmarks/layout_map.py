"""How many real nuclei survive the map that the layout network paints: encoded and decoded.

    python benchmarks/layout_map.py data/colon

A nucleus is kept if a decoded one overlaps it by more than half (intersection over union) and has
its type. Fragments of less than `LEAST_AREA` do not count.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from measure import machine, table

from nasdm_wsi.annotations.dense import dense
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.model.layouts.encoding import LEAST_AREA, encode, outlined
from nasdm_wsi.tools.dataset import Region, read_regions
from nasdm_wsi.tools.sources import UNPUBLISHED


def survivors(region: Region) -> tuple[np.ndarray, np.ndarray, int]:
    """Return types (n,) of a picture's nuclei, overlaps (n,) of those kept, and nuclei too many."""
    types = np.where(region.types == UNPUBLISHED, 0, region.types)
    instances, _ = dense(region.instances)
    found, kinds = outlined(encode(instances, types, mpp=region.mpp))
    instances, types = (a[: found.shape[0], : found.shape[1]] for a in (instances, types))
    sizes, made = np.bincount(instances.ravel()), np.bincount(found.ravel())
    pairs, common = np.unique([instances.ravel(), found.ravel()], axis=1, return_counts=True)
    both = (pairs > 0).all(axis=0)
    (ours, theirs), common = pairs[:, both], common[both]
    overlap = common / (sizes[ours] + made[theirs] - common)
    own = np.zeros(len(sizes), np.uint8)
    own[instances.ravel()] = types.ravel()
    kept = np.zeros(len(sizes))
    same = (overlap > 0.5) & (kinds[theirs - 1] == own[ours])
    kept[ours[same]] = overlap[same]
    least = LEAST_AREA / region.mpp**2
    real = np.flatnonzero(sizes >= least)[1:]
    return own[real], kept[real], int((made[1:] >= least).sum() - (kept[real] > 0).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="a prepared dataset")
    options = parser.parse_args()
    print(machine("scikit-image"))
    types, kept, extra = zip(*map(survivors, read_regions(options.dataset)), strict=True)
    types, kept = np.concatenate(types), np.concatenate(kept)
    rows = []
    for number, name in enumerate(("all", *TYPES[1:])):
        mine = kept[(types == number) | (number == 0)]
        share, overlap = (mine > 0).mean(), mine[mine > 0].mean()
        rows.append((name, f"{len(mine):,}", f"{share:.3f}", f"{overlap:.3f}"))
    table(("type", "nuclei", "kept", "mean overlap"), rows)
    print(f"{sum(extra)} decoded nuclei are none of these")


if __name__ == "__main__":
    main()

"""Lay out nuclei in the regions of annotated pictures, for `layouts.py` to judge.

    python benchmarks/layouts_in_regions.py data/colon OUT [--nuclei rules] [--pictures PATTERN]

OUT receives NAME.geojson for each picture NAME with labelled regions. The densities are those of
the picture, region by region, so that only the arrangement of nuclei differs from the real one.
"""

from __future__ import annotations

import argparse
import time
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from nasdm_wsi.annotations.geojson import write_geojson
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.geometry import Box, shape
from nasdm_wsi.layouts.outlines import shapes
from nasdm_wsi.layouts.populate import Populated
from nasdm_wsi.layouts.tissues import Tissue
from nasdm_wsi.model.layouts.encoding import MPP
from nasdm_wsi.model.layouts.source import Learned
from nasdm_wsi.model.planes import REGIONS
from nasdm_wsi.model.training.maps import LayoutMap, filled, smoothed
from nasdm_wsi.tools.dataset import read_regions

SOURCES = {"learned": Learned, "rules": Populated}


def tissue_of(picture: LayoutMap) -> Tissue:
    """Return a kind of tissue with the densities of a picture."""
    mixes = {
        region: {kind: float(row[k]) for k, kind in enumerate(TYPES) if k and row[k]}
        for region, row in zip(REGIONS, picture.densities[1:], strict=True)
    }
    # The densities are those of the picture everywhere.
    return Tissue(mixes=mixes, rows=(6.0, 12.0, 18.0), spread=2.2, solid=True, varied=0.0)


def source_of(picture: LayoutMap, kind: type[Populated], regions: np.ndarray) -> Populated:
    """Return a source of nuclei in regions (h, w), which go on beyond their border."""
    tissue = tissue_of(picture)

    class InPicture(kind):  # type: ignore[misc, valid-type]
        def _labels(self, box: Box) -> np.ndarray:
            y, x = (np.arange(box[k], box[k + 2]).clip(0, regions.shape[k] - 1) for k in (0, 1))
            return regions[y[:, None], x]

    def tissues(box: Box) -> tuple[np.ndarray, tuple[Tissue, ...]]:
        return np.zeros(shape(box), np.uint8), (tissue,)

    return InPicture(lambda box: None, seed=1, tissue=tissues)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="a prepared dataset with labelled regions")
    parser.add_argument("out", type=Path)
    parser.add_argument("--nuclei", choices=SOURCES, default="learned")
    parser.add_argument("--pictures", nargs="+", default=["*"], help="patterns of names")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    seconds = area = 0.0
    for region in read_regions(options.dataset):
        wanted = any(fnmatchcase(region.name, pattern) for pattern in options.pictures)
        if region.regions is None or not wanted:
            continue
        picture = LayoutMap.of(region, region.regions)
        step = round(MPP / region.mpp)
        regions = smoothed(filled(region.regions[::step, ::step]))
        begin = time.process_time()
        source = source_of(picture, SOURCES[options.nuclei], regions)
        nuclei, _ = shapes(source.nuclei((0, 0, *regions.shape)), seed=1)
        seconds += time.process_time() - begin
        area += regions.size / 1e6
        write_geojson(options.out / f"{region.name}.geojson", nuclei.scaled(0.5))
        print(region.name, nuclei)
    print(f"{seconds / area:.1f} seconds of a core for a square millimetre")


if __name__ == "__main__":
    main()

"""Run a segmenter on pictures, and write what `nasdm-wsi` reads: an example for `stress.py`.

    python benchmarks/segmenters.py own PICTURES PREDICTIONS
    python benchmarks/segmenters.py histomicstk PICTURES PREDICTIONS

- own: the segmenter of `nasdm-wsi evaluate`, which tells six types. Writes GeoJSON.
- histomicstk: nuclei detection of HistomicsTK 1.4 (colour deconvolution, difference of Gaussians,
  local maximum clustering; after Al-Kofahi and others, 2010) with the defaults of its command
  NucleiDetection at 20x, but with Otsu's threshold of the picture: the default threshold, which
  counts on statistics of a whole slide, finds few nuclei in a single picture. It has no network and
  tells no types. Writes label images as arrays.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RADII, AREA, SEARCH = (6, 20), 80, 10.0  # defaults of NucleiDetection in HistomicsTK 1.4.0
MPP = 0.5


@cache
def segmenter() -> Any:
    """The network, loaded once."""
    from nasdm_wsi.model.evaluation.segmenter import load

    return load()


def own(path: Path, out: Path) -> None:
    """Write NAME.geojson of a picture."""
    from nasdm_wsi.annotations.geojson import write_geojson
    from nasdm_wsi.annotations.labels import from_labels
    from nasdm_wsi.model.evaluation.segmenter import decode, predict

    picture = np.array(Image.open(path).convert("RGB"))
    types, instances = decode(predict(picture, segmenter()))
    write_geojson(out / f"{path.stem}.geojson", from_labels(instances, types, mpp=MPP))


def histomicstk(path: Path, out: Path) -> None:
    """Write NAME.npy of a picture, the numbers of its nuclei."""
    from histomicstk.preprocessing.color_deconvolution import color_deconvolution, stain_color_map
    from histomicstk.segmentation.nuclear import detect_nuclei_kofahi
    from skimage.filters import threshold_otsu

    picture = np.array(Image.open(path).convert("RGB"))
    stains = [stain_color_map[name] for name in ("hematoxylin", "eosin", "null")]
    nuclei = color_deconvolution(picture, np.array(stains).T).Stains[..., 0].astype(float)
    dark = nuclei < threshold_otsu(nuclei)
    found = detect_nuclei_kofahi(nuclei, dark, *RADII, AREA, SEARCH)
    np.save(out / f"{path.stem}.npy", found.astype(np.int32))


SEGMENTERS = {"own": own, "histomicstk": histomicstk}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("segmenter", choices=SEGMENTERS)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("predictions", type=Path)
    options = parser.parse_args()
    options.predictions.mkdir(parents=True, exist_ok=True)
    for path in sorted(options.pictures.glob("*.png")):
        SEGMENTERS[options.segmenter](path, options.predictions)


if __name__ == "__main__":
    main()

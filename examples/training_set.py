"""From slides with their nuclei to one training set for a segmentation network.

    python examples/training_set.py set a.ome.tif b.ome.tif

Each slide has its GeoJSON beside it, as `nasdm-wsi render` leaves it. SET receives pairs of
NAME.png and NAME_masks.png, which Cellpose and StarDist train on; a mask numbers the nuclei from 1.
The command `nasdm-wsi export` does the same.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from nasdm_wsi.tools.sets import export_set, find_sources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", type=Path)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--tile", type=int, default=512, help="pixels a side at most")
    options = parser.parse_args()
    export_set(find_sources(options.slides), options.set, form="masks", tile=options.tile)
    for mask in sorted(options.set.glob("*_masks.*")):
        nuclei = len(np.unique(np.array(Image.open(mask)))) - 1
        print(f"{mask.name}: {nuclei} nuclei")


if __name__ == "__main__":
    main()

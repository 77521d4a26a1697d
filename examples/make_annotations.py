"""Invent the regions and nuclei of a piece of colon and write them as QuPath GeoJSON.

`nasdm-wsi layout` does the same on the command line; its page is docs/layouts.md. The same seed
gives the same file.
"""

import argparse
from pathlib import Path

from nasdm_wsi import layout


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw annotations of an invented colon.")
    parser.add_argument("-o", "--output", type=Path, default=Path("annotations.geojson"))
    parser.add_argument("--size", type=int, default=1536, help="width and height in pixels")
    parser.add_argument("--seed", type=int, default=7, help="another seed, another tissue")
    options = parser.parse_args()
    counts = layout(options.output, (options.size, options.size), seed=options.seed, overwrite=True)
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    main()

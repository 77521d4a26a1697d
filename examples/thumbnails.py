"""The pictures of a README: a slide as a thumbnail, and a part of it at full size.

python examples/thumbnails.py slide.ome.tif slide.jpg detail.jpg --at 300 500
"""

import argparse
from pathlib import Path

from PIL import Image

from nasdm_wsi import open_slide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("whole", type=Path)
    parser.add_argument("part", type=Path)
    parser.add_argument("--at", type=int, nargs=2, default=(0, 0), metavar=("X", "Y"))
    parser.add_argument("--size", type=int, nargs=2, default=(900, 600), metavar=("W", "H"))
    parser.add_argument("--side", type=int, default=1024, help="of the thumbnail")
    options = parser.parse_args()
    (x, y), (width, height) = options.at, options.size
    with open_slide(options.slide) as slide:
        mpp = slide.mpp or 0.5
        part = slide.read((y, x, y + height, x + width), mpp=mpp)
        Image.fromarray(slide.thumbnail(options.side)).save(options.whole, quality=90)
    Image.fromarray(part).save(options.part, quality=90)


if __name__ == "__main__":
    main()

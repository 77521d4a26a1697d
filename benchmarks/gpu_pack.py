"""Pack pictures and labels compactly, for training on a GPU (`on_gpu.py`).

    python benchmarks/gpu_pack.py PICTURES NUCLEI REGIONS OUT --share lizard=0.5 glas=0.5
        [--pseudo glas] [--without NAME ...]

Files are called SET-NAME in all three folders: pictures in any format, nuclei as NAME.npz with
``types`` and ``instances`` (255 where there are no labels), regions as NAME.png (`labels/`). Labels
are at 0.5 micrometres a pixel, and pictures are enlarged to their size when they are read. In each
picture the rectangle that `nasdm-wsi prepare` holds out is held out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from nasdm_wsi.annotations.raster import edges
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.errors import SlideError
from nasdm_wsi.model.planes import REGIONS
from nasdm_wsi.slides.stain import StainStatistics
from nasdm_wsi.tools.dataset import UNPUBLISHED
from nasdm_wsi.tools.prepare import HELD_OUT, held_out_box

LARGEST = 40  # MB of a pack
# Types that pseudo-labels tell; the segmenter never finds the other three.
PSEUDO_TYPES = [TYPES.index(name) for name in ("epithelial", "lymphocyte", "connective")]
STROMA = REGIONS.index("stroma") + 1


def labels_code(
    types: np.ndarray, instances: np.ndarray, regions: np.ndarray, unusable: np.ndarray
) -> np.ndarray:
    """One byte a pixel: bits 0 to 2 the type, 3 an edge, 4 to 6 the region, 7 not to be used."""
    code = np.where(types == UNPUBLISHED, 0, types).astype(np.uint8)
    code |= edges(instances).astype(np.uint8) << 3
    code |= np.where(regions > len(REGIONS), STROMA, regions).astype(np.uint8) << 4
    return code | unusable.astype(np.uint8) << 7


def held_out(types: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """Bool (h, w) at the labels' size: the square that a picture of ``size`` (h, w) keeps aside."""
    published = Image.fromarray(types != UNPUBLISHED).resize(size[::-1], Image.Resampling.NEAREST)
    box = np.array(held_out_box(np.asarray(published), HELD_OUT, name, 0))
    y0, x0, y1, x1 = np.rint(box * types.shape[0] / size[0]).astype(int)
    mask = np.zeros(types.shape, bool)
    mask[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = True
    return mask


def pack(picture: Path, nuclei: Path, regions: Path, out: Path, *, pseudo: bool) -> dict:
    """Write a picture and its labels, and return its row of the index."""
    image = Image.open(picture).convert("RGB")
    with np.load(nuclei) as file:
        types, instances = file["types"], file["instances"]
    h, w = types.shape
    known = np.asarray(Image.open(regions)) if regions.exists() else np.zeros((h, w), np.uint8)
    if known.shape != types.shape:
        raise SystemExit(f"{regions} is {known.shape}, and {nuclei} is {types.shape}")
    enlarged = np.asarray(image.resize((w, h), Image.Resampling.BICUBIC))
    stain = StainStatistics.of(enlarged[types != UNPUBLISHED])
    own_name = picture.stem.split("-", 1)[1]
    unusable = (types == UNPUBLISHED) | held_out(
        types, image.size[::-1], picture.stem if pseudo else own_name
    )
    suffix = ".webp" if pseudo else ".jpg"
    target = out / f"{picture.stem}{suffix}"
    if pseudo:
        image.save(target, quality=74, method=4)
    else:
        image.save(target, quality=90, subsampling=0, optimize=True)
    code = labels_code(types, instances, known, unusable)
    Image.fromarray(code).save(out / f"{picture.stem}.png", optimize=True)
    return {
        "name": picture.stem,
        "suffix": suffix,
        "set": picture.stem.split("-")[0],
        "size": [h, w],
        "mean": stain.mean.tolist(),
        "covariance": stain.covariance.tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("pictures", "nuclei", "regions", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--share", nargs="+", required=True, metavar="SET=SHARE")
    parser.add_argument("--pseudo", nargs="*", default=[], metavar="SET")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    sets = {}
    for text in options.share:
        name, share = text.split("=")
        pseudo = name in options.pseudo
        types = PSEUDO_TYPES if pseudo else list(range(1, len(TYPES)))
        sets[name] = {"share": float(share), "pseudo": pseudo, "types": types}

    rows = []
    for picture in sorted(options.pictures.iterdir()):
        name, kind = picture.stem, picture.stem.split("-")[0]
        nuclei = options.nuclei / f"{name}.npz"
        if name in options.without or kind not in sets or not nuclei.exists():
            continue
        regions = options.regions / f"{name}.png"
        try:
            rows.append(pack(picture, nuclei, regions, options.out, pseudo=sets[kind]["pseudo"]))
        except SlideError as error:
            print(f"{name} is left out: {error}")
    (options.out / "index.json").write_text(json.dumps({"sets": sets, "pictures": rows}))

    size = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    area = sum(row["size"][0] * row["size"][1] for row in rows) / 1e6
    print(f"{len(rows)} pictures, {area:.1f} megapixels, {size:.1f} MB")
    if size > LARGEST:
        raise SystemExit(f"more than {LARGEST} MB: leave pictures out with --without")


if __name__ == "__main__":
    main()

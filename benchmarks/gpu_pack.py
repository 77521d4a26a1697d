"""Pack a prepared dataset compactly, for training on a GPU (`on_gpu.py`).

    python benchmarks/gpu_pack.py DATASET OUT --share lizard=0.5 consep=0.2 glas=0.18 crc=0.12

DATASET is what `nasdm-wsi prepare` wrote from a table of pictures (`labels/table.py`), and --share
says how often crops are drawn from each collection of the table. Pictures are stored at their own
pixel size and enlarged to that of the labels when they are read. What is held out is not used.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from nasdm_wsi.annotations.raster import edges
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.model.planes import REGIONS
from nasdm_wsi.tools.dataset import UNPUBLISHED, Region, read_manifest, read_regions

# Rare types are drawn from published labels alone.
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


def pack(region: Region, row: dict, out: Path, quality: int) -> dict:
    """Write a picture and its labels, and return its row of the index."""
    h, w = region.types.shape
    scale = row["mpp"] / row["source_mpp"]
    own = Image.fromarray(region.image).resize((round(w * scale), round(h * scale)))
    pseudo = region.nuclei != "published"
    suffix = ".webp" if pseudo else ".jpg"
    target = out / f"{region.name}{suffix}"
    if pseudo:
        own.save(target, quality=quality - 16, method=4)
    else:
        own.save(target, quality=quality, subsampling=0, optimize=True)
    regions = np.zeros((h, w), np.uint8) if region.regions is None else region.regions
    code = labels_code(region.types, region.instances, regions, ~region.usable)
    Image.fromarray(code).save(out / f"{region.name}.png", optimize=True)
    return {
        "name": region.name,
        "suffix": suffix,
        "set": row["collection"],
        "size": [h, w],
        "mean": region.stain.mean.tolist(),
        "covariance": region.stain.covariance.tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("dataset", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--share", nargs="+", required=True, metavar="COLLECTION=SHARE")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--most", type=float, default=60, metavar="MB", help="size of the pack")
    parser.add_argument("--quality", type=int, default=90, help="of JPEG; of WebP 16 less")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    shares = {name: float(share) for name, share in (text.split("=") for text in options.share)}
    manifest = read_manifest(options.dataset)["regions"]
    told = {row["name"]: row for row in manifest}

    rows, pseudo = [], dict.fromkeys(shares, False)
    for region in read_regions(options.dataset):
        row = told[region.name]
        chosen = row["collection"] in shares and region.name not in options.without
        if chosen and region.nuclei != "none" and region.usable.any():
            rows.append(pack(region, row, options.out, options.quality))
            pseudo[row["collection"]] |= region.nuclei != "published"
    sets = {
        name: {
            "share": share,
            "pseudo": pseudo[name],
            "types": PSEUDO_TYPES if pseudo[name] else list(range(1, len(TYPES))),
        }
        for name, share in shares.items()
    }
    (options.out / "index.json").write_text(json.dumps({"sets": sets, "pictures": rows}))

    size = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    area = sum(row["size"][0] * row["size"][1] for row in rows) / 1e6
    print(f"{len(rows)} pictures, {area:.1f} megapixels, {size:.1f} MB")
    if size > options.most:
        raise SystemExit(
            f"more than {options.most:g} MB: lower --quality, or leave pictures out with --without"
        )


if __name__ == "__main__":
    main()

"""Writing the pyramid: ours in any order, stopped and resumed, against libvips in row order.

    python benchmarks/pyramid.py [--sides 5000 10000 20000]

Both write the same pixels in tiles of 512 as JPEG of quality 85. Ours takes them from finished
blocks, as a render does; libvips takes them from one raw file.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from measure import apart, machine, table, unpainted
from scipy import ndimage as ndi

from nasdm_wsi.geometry import Plan, cells_in
from nasdm_wsi.mosaic.engine import Mosaic
from nasdm_wsi.mosaic.store import RunStore
from nasdm_wsi.slides import ome_tiff
from nasdm_wsi.slides.pyramid import Pyramid

SIDE = 512


def texture() -> np.ndarray:
    """A block that compresses as tissue does: uint8 (512, 512, 3)."""
    rng = np.random.default_rng(0)
    spots = ndi.gaussian_filter(rng.normal(size=(SIDE, SIDE, 1)), (3, 3, 0), mode="wrap") * 8
    fine = ndi.gaussian_filter(rng.normal(size=(SIDE, SIDE, 3)), (1, 1, 0), mode="wrap") * 20
    return np.clip([200, 140, 190] - 60 * (spots > 0.6) + fine, 0, 255).astype(np.uint8)


def mosaic_of(folder: str, side: int) -> Mosaic:
    """A store of finished blocks, and the pyramid that is cut from them."""
    plan = Plan((side, side), SIDE, 0, 0, 1, ((0, 1),))
    return Mosaic(unpainted(plan), RunStore(Path(folder)), Pyramid((side, side, 3)))


def prepare(folder: str, side: int) -> None:
    """Write the same pixels as blocks and as a raw file."""
    block, mosaic = texture(), mosaic_of(folder, side)
    for place in cells_in((0, 0, *mosaic.job.plan.blocks)):
        y0, x0, y1, x1 = mosaic.job.plan.owned(place)
        mosaic.store.write("pixels", place, block[: y1 - y0, : x1 - x0])
    with open(Path(folder, "raw"), "wb") as file:
        across = np.tile(block, (1, -(-side // SIDE), 1))[:, :side]
        for y in range(0, side, SIDE):
            file.write(across[: side - y].tobytes())


def ours(folder: str, side: int, tiles: int | None = None) -> int:
    """Cut at most ``tiles`` tiles in random order, and write the file when all are cut."""
    rng, mosaic, done = random.Random(0), mosaic_of(folder, side), 0
    ledger, ready = mosaic.ledger(), []
    while ledger.left:
        while task := ledger.next():
            ready.append(task)
        k = rng.randrange(len(ready))
        ready[k], ready[-1] = ready[-1], ready[k]
        task = ready.pop()
        mosaic.do(task)
        ledger.finish(task)  # the blocks are kept for libvips' turn
        done += 1
        if done == tiles:
            return done
    ome_tiff.write_tiles(
        Path(folder, "ours.tif"), mosaic.pyramid, mosaic.encoded, mpp=0.5, description="benchmark"
    )
    return done


def vips(folder: str, side: int) -> None:
    """Write the pyramid with libvips from the raw file."""
    import pyvips

    image = pyvips.Image.rawload(str(Path(folder, "raw")), side, side, 3)
    image = image.copy(interpretation="srgb")
    image.tiffsave(
        str(Path(folder, "vips.tif")),
        compression="jpeg",
        Q=85,
        tile=True,
        tile_width=SIDE,
        tile_height=SIDE,
        pyramid=True,
        bigtiff=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[5_000, 10_000, 20_000])
    options = parser.parse_args()
    print(machine("pyvips", "imagecodecs", "tifffile"))
    rows = []
    for side in options.sides:
        with TemporaryDirectory() as folder:
            prepare(folder, side)
            theirs = apart(vips, folder, side)
            begun = apart(ours, folder, side, (side // SIDE) ** 2 // 2)
            ended = apart(ours, folder, side)
            cpu = begun["cpu"] + ended["cpu"]
            rows.append(
                (
                    f"{side:,}",
                    cpu,
                    theirs["cpu"],
                    cpu / theirs["cpu"],
                    f"{max(begun['peak'], ended['peak']) / 1e6:.0f} MB",
                    f"{theirs['peak'] / 1e6:.0f} MB",
                    f"{Path(folder, 'ours.tif').stat().st_size / 1e6:.0f} MB",
                    f"{Path(folder, 'vips.tif').stat().st_size / 1e6:.0f} MB",
                )
            )
    table(
        (
            "side",
            "CPU s, ours",
            "libvips",
            "ratio",
            "memory, ours",
            "libvips",
            "file, ours",
            "libvips",
        ),
        rows,
    )


if __name__ == "__main__":
    main()

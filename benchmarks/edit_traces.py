"""Look for traces of edits that no single measure names, in the edits that `edits.py` has written.

    python benchmarks/edit_traces.py OUT [--side 128]

OUT is the folder of `edits.py`.

- Told apart: a small network is trained to tell crops of 32 pixels of edits from crops of the
  untouched pictures at the same places. Half of the crops lie on the border of the edit, half of
  them inside. It is trained on half of the pictures and tested on the others, and the reverse. If
  the border had traces of its own, crops on the border would be told apart more often than those
  inside, although only half of their pixels are painted.
- JPEG: each picture is written as a tiled OME-TIFF (JPEG, quality 85, colour at half resolution),
  the edit is laid into a copy as `nasdm-wsi edit` does, and the tables of quantisation of touched
  tiles are compared with those of the others. Blockiness is the mean gradient of luma across lines
  between blocks of 8 pixels, over that across all other lines; coefficients are those of luma that
  the file does not round to zero, as a share. Both inside the edit, over the same place before.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import shapely
import torch
from edits import RING
from PIL import Image
from scipy.fft import dctn
from tifffile import TiffFile
from torch import nn

from nasdm_wsi.geometry import Box, inside
from nasdm_wsi.slides import ome_tiff, patched
from nasdm_wsi.slides.jpeg import joined
from nasdm_wsi.slides.reading import open_slide
from nasdm_wsi.tools.seams import LUMA

CROP, TILE = 32, 64
STEPS, BATCH = 250, 64


def crops(
    pictures: np.ndarray, where: str, side: int, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return crops (n, CROP, CROP, 3) on the border or inside of edits, and which are painted.

    pictures: uint8 (edits, 2, h, w, 3), before and after.
    """
    half, found, painted = CROP // 2, [], []
    for _ in range(count):
        along, edge = int(rng.integers(half, side - half)), int(rng.integers(4))
        depth = 0 if where == "border" else int(rng.integers(CROP, side // 2))
        if edge >= 2:
            depth = side - depth
        y, x = (depth, along) if edge % 2 else (along, depth)
        y, x = y + RING - half, x + RING - half
        picture, after = int(rng.integers(len(pictures))), int(rng.integers(2))
        crop = pictures[picture, after, y : y + CROP, x : x + CROP]
        found.append(np.rot90(crop, rng.integers(4)))
        painted.append(after)
    return np.stack(found), np.array(painted)


def network() -> nn.Module:
    """Return an untrained network: from crops (n, 3, CROP, CROP) to logits (n, 1)."""
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 16, 1), (16, 24, 2), (24, 32, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1))


def told_apart(pictures: np.ndarray, side: int) -> dict[str, float]:
    """Return the shares of crops that a network tells apart: on the border, and inside."""
    right: dict[str, list[np.ndarray]] = {"border": [], "inside": []}
    numbers = np.arange(len(pictures))
    for fold in (0, 1):
        torch.manual_seed(fold)
        rng, model = np.random.default_rng(fold), network()
        optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
        for _ in range(STEPS):
            parts = [
                crops(pictures[numbers % 2 == fold], where, side, BATCH // 2, rng)
                for where in right
            ]
            batch, painted = (np.concatenate(part) for part in zip(*parts, strict=True))
            logits = model(signal(batch))[:, 0]
            loss = nn.functional.binary_cross_entropy_with_logits(
                logits, torch.from_numpy(painted).float()
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        model.eval()
        for where, found in right.items():
            batch, painted = crops(pictures[numbers % 2 != fold], where, side, 1000, rng)
            with torch.inference_mode():
                found.append((model(signal(batch))[:, 0].numpy() > 0) == painted)
    return {where: float(np.mean(found)) for where, found in right.items()}


def signal(batch: np.ndarray) -> torch.Tensor:
    """Return crops (n, h, w, 3) as a tensor (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(batch.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)


def jpeg_traces(before: np.ndarray, after: np.ndarray, side: int) -> tuple[float, float, bool]:
    """Return blockiness and coefficients in an edit over those before, and if tables are the same.

    before, after: uint8 (h, w, 3), of which the edit is a box of ``side`` pixels `RING` off the
    border.
    """
    at = RING // 16 * 16
    box: Box = at, at, at + side, at + side
    with TemporaryDirectory() as folder:
        source, copy = Path(folder, "a.ome.tif"), Path(folder, "b.ome.tif")
        ome_tiff.write(source, before, mpp=0.5, description="", tile=TILE)
        shutil.copyfile(source, copy)
        patched.change(copy, lambda part: after[inside(part, (0, 0, *after.shape[:2]))], area(box))
        tables = {path: quantisation(path) for path in (source, copy)}
        measures = [
            jpeg_measures(decoded(path)[at : at + side, at : at + side], tables[source])
            for path in (source, copy)
        ]
    blocks, coefficients = np.array(measures[1]) / measures[0]
    same = all(np.array_equal(tables[source], table) for table in tables.values())
    return float(blocks), float(coefficients), same


def area(box: Box) -> shapely.Polygon:
    """Return a box as a polygon."""
    y0, x0, y1, x1 = box
    return shapely.box(x0, y0, x1, y1)


def decoded(path: Path) -> np.ndarray:
    """Return the pixels of a slide."""
    with open_slide(path) as slide:
        return slide.read((0, 0, *slide.size), mpp=0.5)


def quantisation(path: Path) -> np.ndarray:
    """Return the table of luma of all tiles, (8, 8), which must be one."""
    found = set()
    with TiffFile(path) as tiff:
        page = tiff.pages.first
        tables = page.jpegtables
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            tiff.filehandle.seek(offset)
            tile = tiff.filehandle.read(count)
            picture = Image.open(io.BytesIO(joined(tables, tile) if tables else tile))
            found.add(tuple(picture.quantization[0]))  # type: ignore[attr-defined]
    (table,) = found
    return np.array(table).reshape(8, 8)


def jpeg_measures(pixels: np.ndarray, table: np.ndarray) -> tuple[float, float]:
    """Return blockiness, and the share of coefficients of luma that are not zero."""
    luma = pixels @ LUMA
    across = np.abs(np.diff(luma, axis=1)).mean(axis=0)
    line = np.arange(1, len(across) + 1) % 8 == 0
    h, w = (n // 8 for n in luma.shape)
    blocks = luma[: 8 * h, : 8 * w].reshape(h, 8, w, 8).swapaxes(1, 2) - 128
    rounded = np.rint(dctn(blocks, axes=(2, 3), norm="ortho") / table)
    return float(across[line].mean() / across[~line].mean()), float((rounded != 0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=128)
    options = parser.parse_args()
    with np.load(options.out / "edits.npz") as file:
        pictures = file["pictures"]
    for where, right in told_apart(pictures, options.side).items():
        print(f"told apart, {where}: {right:.0%} of crops of {CROP} pixels (50 % is chance)")
    traces = [jpeg_traces(before, after, options.side) for before, after in pictures]
    for name, values in (
        ("blockiness", [t[0] for t in traces]),
        ("coefficients", [t[1] for t in traces]),
    ):
        low, middle, high = np.quantile(values, [0, 0.5, 1])
        print(f"JPEG {name}, edit over source: median {middle:.2f} ({low:.2f} to {high:.2f})")
    same = sum(t[2] for t in traces)
    print(f"the same tables of quantisation in all tiles: {same} of {len(traces)}")


if __name__ == "__main__":
    main()

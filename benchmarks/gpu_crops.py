"""Training batches cut on a GPU that holds all pictures in memory.

`gpu_pack.py` writes the pictures. A pixel is one int32: red, green, blue, and above them the byte
of labels that `gpu_pack.labels_code` describes.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.color import hed_from_rgb, rgb_from_hed
from torch import Tensor

from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.model.diffusion import Condition
from nasdm_wsi.model.planes import ALL_PLANES, REGIONS
from nasdm_wsi.model.training.data import Batch
from nasdm_wsi.model.training.forgetting import known_pixels, told_regions

CORNERS = 4_000_000  # places of crops in the table from which they are drawn
NUCLEI = 200_000  # places of nuclei of each type
TRIES = 6  # places of a crop round a nucleus; the first that is free is taken
RARE = 0.5  # share of the crops that are near a nucleus of a type drawn uniformly
HIDDEN = 0.35  # share of the pictures with pseudo-labels whose nuclei are not told
DROPPED = 0.1  # share of the samples whose nuclei and regions are not told
UNCHANGED = 0.25  # share of the samples whose stain stays
AMOUNT, MIXING = 0.27, 0.05  # how much the others' amounts change, and how much they mix


@dataclass(frozen=True)
class Picture:
    """A packed picture: pixels int32 (h, w), where a crop may have its corner, and its labels."""

    pixels: np.ndarray
    free: np.ndarray
    code: np.ndarray


def read_picture(folder: Path, row: dict, crop: int) -> Picture:
    """The picture of a row of the index, enlarged to the size of its labels."""
    name, (h, w) = row["name"], row["size"]
    image = Image.open(folder / f"{name}{row['suffix']}").convert("RGB")
    if image.size != (w, h):
        image = image.resize((w, h), Image.Resampling.BICUBIC)
    red, green, blue = np.moveaxis(np.asarray(image, np.int32), 2, 0)
    code = np.asarray(Image.open(folder / f"{name}.png"))
    pixels = red | green << 8 | blue << 16 | (code & 127).astype(np.int32) << 24
    return Picture(pixels, _free(code >> 7, crop), code)


def _free(unusable: np.ndarray, crop: int) -> np.ndarray:
    """Bool (h, w): where a crop may have its upper left corner."""
    free = np.zeros(unusable.shape, bool)
    if min(unusable.shape) >= crop:
        sums = np.pad(unusable.cumsum(0, np.int32).cumsum(1), [(1, 0), (1, 0)])
        inside = sums[crop:, crop:] - sums[:-crop, crop:] - sums[crop:, :-crop]
        inside = inside + sums[:-crop, :-crop]
        free[: inside.shape[0], : inside.shape[1]] = inside == 0
    return free


class GpuCrops:
    """Random crops with quarter turns, flips, other stains, and conditions that are told in part.

    Args:
        folder: what `gpu_pack.py` wrote.
        crop: pixels a side.
        device: where all pictures and the generator of random numbers are.
    """

    def __init__(self, folder: Path, crop: int, device: torch.device, *, seed: int = 0):
        index = json.loads((folder / "index.json").read_text())
        rows, self.crop, self.device = index["pictures"], crop, device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.seen = 0
        with ThreadPoolExecutor() as pool:
            pictures = list(pool.map(lambda row: read_picture(folder, row, crop), rows))

        self.pixels = self._here(np.concatenate([p.pixels.ravel() for p in pictures]))
        self.free = self._here(np.concatenate([p.free.ravel() for p in pictures]))
        areas = [p.code.size for p in pictures]
        self.begin = self._here(np.cumsum([0, *areas[:-1]]))
        self.width = self._here(np.array([p.code.shape[1] for p in pictures]))
        self.mean = self._here(np.array([row["mean"] for row in rows], np.float32))
        self.covariance = self._here(np.array([row["covariance"] for row in rows], np.float32))
        self.pseudo = self._here(np.array([index["sets"][r["set"]]["pseudo"] for r in rows]))
        self._fill_tables(pictures, rows, index["sets"], np.random.default_rng(seed))

    def _here(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _fill_tables(
        self, pictures: list[Picture], rows: list[dict], sets: dict, rng: np.random.Generator
    ) -> None:
        """The places from which crops are drawn: (2, n) of pixel and picture, on the device."""
        begin = self.begin.cpu().numpy()
        corners: dict[str, list[np.ndarray]] = {name: [] for name in sets}
        nuclei: list[list[np.ndarray]] = [[] for _ in TYPES[1:]]
        for k, (picture, row) in enumerate(zip(pictures, rows, strict=True)):
            if not picture.free.any():
                continue

            def at(where: np.ndarray, most: int, k: int = k) -> np.ndarray:
                places = np.flatnonzero(where)
                places = rng.choice(places, min(len(places), most), replace=False)
                return np.stack([places + begin[k], np.full_like(places, k)])

            corners[row["set"]].append(at(picture.free, 40_000 + picture.free.size // 8))
            usable = picture.code < 128
            for kind in sets[row["set"]]["types"]:
                nuclei[kind - 1].append(at(usable & (picture.code & 7 == kind), 4_000))

        drawn = [
            _drawn(rng, places, round(CORNERS * sets[name]["share"]))
            for name, places in corners.items()
            if places
        ]
        near = [_drawn(rng, places, NUCLEI) for places in nuclei if sum(p.size for p in places)]
        self.corners = self._here(np.concatenate(drawn, axis=1))
        self.nuclei = self._here(np.stack(near, axis=1))

    def batch(self, count: int) -> Batch:
        """The next ``count`` samples, as objectives take them."""
        where, picture = self._places(count)
        packed = self._cut(where, picture)
        rgb = torch.stack([packed & 255, packed >> 8 & 255, packed >> 16 & 255], dim=-1)
        matrix = self._stain_matrices(count)
        pixels = self._restained(rgb.float(), matrix)
        condition = self._condition(packed >> 24, pixels, picture)
        condition = Condition(condition, self._styles(picture, matrix), ALL_PLANES)
        indices = range(self.seen, self.seen + count)
        self.seen += count
        return Batch(
            indices,
            pixels,
            condition.drop(self._uniform(count) < DROPPED),
            self._uniform(count).clamp(1e-6, 1 - 1e-6),
            self._normal(*pixels.shape),
        )

    def styles(self, count: int) -> Tensor:
        """Style vectors (count, 6) as training meets them."""
        return self._styles(self._places(count)[1], self._stain_matrices(count))

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, device=self.device, generator=self.generator)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device, generator=self.generator)

    def _below(self, end: int, *shape: int) -> Tensor:
        return torch.randint(end, shape, device=self.device, generator=self.generator)

    def _places(self, count: int) -> tuple[Tensor, Tensor]:
        """Upper left corners (n,) of crops and their pictures (n,)."""
        anywhere = self.corners[:, self._below(self.corners.shape[1], count)]
        _, types, places = self.nuclei.shape
        kind = self._below(types, count, 1).expand(-1, TRIES)
        nucleus, picture = self.nuclei[:, kind, self._below(places, count, 1).expand(-1, TRIES)]
        width = self.width[picture]
        inside = nucleus - self.begin[picture]
        y = inside // width - self._below(self.crop, count, TRIES)
        x = inside % width - self._below(self.crop, count, TRIES)
        corner = self.begin[picture] + y.clamp(min=0) * width + x.clamp(min=0)
        fits = (y >= 0) & (x >= 0) & self.free[corner]
        first = fits.float().argmax(1, keepdim=True)
        near = torch.stack([corner.gather(1, first)[:, 0], picture[:, 0]])
        chosen = fits.any(1) & (self._uniform(count) < RARE)
        corner, picture = torch.where(chosen, near, anywhere)
        return corner, picture

    def _cut(self, corner: Tensor, picture: Tensor) -> Tensor:
        """Crops int32 (n, c, c), turned and flipped at random."""
        side = torch.arange(self.crop, device=self.device)
        rows, columns = side[:, None], side[None, :]
        swap, up, left = (self._below(2, len(corner), 1, 1).bool() for _ in range(3))
        y, x = torch.where(swap, columns, rows), torch.where(swap, rows, columns)
        y = torch.where(up, self.crop - 1 - y, y)
        x = torch.where(left, self.crop - 1 - x, x)
        return self.pixels[corner[:, None, None] + y * self.width[picture][:, None, None] + x]

    def _stain_matrices(self, count: int) -> Tensor:
        """Random changes of stain, (n, 3, 3), as `data.stain_matrix` but wider."""
        same = torch.eye(3, device=self.device)
        amounts = torch.diag_embed(torch.exp(AMOUNT * self._normal(count, 3)))
        other = amounts + MIXING * self._normal(count, 3, 3) * (1 - same)
        return torch.where(self._uniform(count, 1, 1) < UNCHANGED, same, other)

    def _restained(self, rgb: Tensor, matrix: Tensor) -> Tensor:
        """Pixels (n, 3, c, c) in [-1, 1] of rgb (n, c, c, 3) in 0..255, as `stain.restain`."""
        to_amounts, to_density = (
            torch.tensor(m, dtype=torch.float32, device=self.device)
            for m in (hed_from_rgb, rgb_from_hed)
        )
        density = -(rgb.clamp(min=1) / 255).log()
        density = torch.einsum("nyxc,ncd->nyxd", density, to_amounts @ matrix @ to_density)
        levels = (255 * torch.exp(-density)).round().clamp(0, 255)
        return (levels / 127.5 - 1).permute(0, 3, 1, 2).contiguous()

    def _styles(self, picture: Tensor, matrix: Tensor) -> Tensor:
        """Style vectors (n, 6) of pictures whose stain is changed."""
        mean = torch.bmm(self.mean[picture][:, None], matrix)[:, 0]
        covariance = matrix.transpose(1, 2) @ self.covariance[picture] @ matrix
        variance = covariance.diagonal(dim1=1, dim2=2).clamp(min=0)
        return torch.cat([mean, variance.sqrt()], dim=1)

    def _condition(self, code: Tensor, pixels: Tensor, picture: Tensor) -> Tensor:
        """Planes (n, 18, c, c) in the order of `ALL_PLANES`, told in part."""
        types, region = code & 7, code >> 4 & 7
        nuclei = [types == k for k in range(1, len(TYPES))]
        nuclei += [(code >> 3 & 1).bool(), torch.ones_like(types, dtype=torch.bool)]
        hidden = self.pseudo[picture] & (self._uniform(len(code)) < HIDDEN)
        shown = torch.stack(nuclei, dim=1) & ~hidden[:, None, None, None]
        regions = torch.stack([region == k for k in range(1, len(REGIONS) + 1)], dim=1)
        return torch.cat(
            [
                shown.float(),
                told_regions(regions.float(), self.generator),
                known_pixels(pixels, self.generator),
            ],
            dim=1,
        )


def _drawn(rng: np.random.Generator, places: list[np.ndarray], count: int) -> np.ndarray:
    whole = np.concatenate(places, axis=1)
    return whole[:, rng.integers(0, whole.shape[1], count)]

"""A small segmenter of nuclei for H&E of colon at 0.5 micrometres per pixel: types and instances.

`Segmenter` is a U-Net of 1.5 million parameters that works on blocks of two by two pixels and
writes nine maps at full resolution: nucleus or not, depth inside a nucleus, closeness to the centre
of a nucleus, and six types. `predict` runs it over a picture and `decode` turns the maps into
nuclei by a watershed from their centres. benchmarks/labels/train_segmenter.py makes the weights.

Types: 0 background, 1 neutrophil, 2 epithelial, 3 lymphocyte, 4 plasma, 5 eosinophil,
6 connective.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed
from torch import Tensor, nn

WIDTHS = (32, 64, 128, 192)  # channels at 1/2, 1/4, 1/8, 1/16 of the resolution
STRIDE = 16  # a picture's sides are padded to a multiple of this
MPP = 0.5
WEIGHTS = Path(__file__).with_name("segmenter.safetensors")
TYPES = 6
MAPS = 3 + TYPES  # nucleus, depth, centre, types
UNKNOWN = 255  # label code: pixel without label

CENTRE_SPREAD = 2.0  # pixels; standard deviation of the bump at a nucleus' centre
SMALLEST = 20  # pixels; smaller pieces are no nuclei
DEPTH_SHARE = 0.5  # of the depth map beside the centre map, in finding centres
SMOOTHING = 1.5  # pixels; of their sum
APART = 5  # pixels; centres are at least this far apart


# Model


class Block(nn.Module):
    """Two 3 x 3 convolutions with a shortcut; (n, c, h, w) to the same shape."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first_norm(self.first(x)), inplace=True)
        return F.relu(self.second_norm(self.second(y)) + x, inplace=True)


class Segmenter(nn.Module):
    """RGB in 0..1, (n, 3, h, w) with sides divisible by 16, to logits (n, 9, h, w).

    Channels of the output: 0 nucleus, 1 depth inside the nucleus (0 edge, 1 deepest), 2 bump at
    its centre, 3..8 the six types.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        self.stem = nn.Conv2d(12, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(Block(w) for w in widths)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.up = nn.ModuleList(
            nn.Conv2d(b, a, 1) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.up_blocks = nn.ModuleList(Block(w) for w in widths[:-1])
        self.head = nn.Conv2d(widths[0], 4 * MAPS, 3, padding=1)

    def forward(self, rgb: Tensor) -> Tensor:
        x = self.stem(F.pixel_unshuffle(2 * rgb - 1, 2))
        skips = []
        for k, block in enumerate(self.down_blocks):
            x = block(self.down[k - 1](x) if k else x)
            skips.append(x)
        for k in reversed(range(len(self.up))):
            x = F.interpolate(self.up[k](x), scale_factor=2, mode="nearest") + skips[k]
            x = self.up_blocks[k](x)
        return F.pixel_shuffle(self.head(x), 2)


# Inference


@dataclass(frozen=True)
class Maps:
    """What the network sees in a picture, float32 in 0..1.

    nucleus, depth, centre: (h, w). types: (6, h, w), sums to one: the type if it is a nucleus.
    """

    nucleus: np.ndarray
    depth: np.ndarray
    centre: np.ndarray
    types: np.ndarray


def load(path: Path = WEIGHTS) -> Segmenter:
    """Return the network with the weights (float16) of ``path``, ready for inference."""
    model = Segmenter()
    model.load_state_dict({k: v.float() for k, v in load_file(path).items()}, strict=False)
    return model.eval()


@torch.inference_mode()
def predict(
    rgb: np.ndarray, model: Segmenter, *, tile: int = 1024, halo: int = 32, views: int = 1
) -> Maps:
    """Return the maps of a picture, uint8 (h, w, 3) at 0.5 micrometres per pixel.

    It is worked through in tiles of ``tile`` pixels which see ``halo`` pixels around them, both
    multiples of 16. ``views`` (1 to 4) mirrored versions are averaged.
    """
    h, w = rgb.shape[:2]
    sides = [-(-s // STRIDE) * STRIDE for s in (h, w)]
    padded = np.pad(
        rgb, [(halo, sides[0] - h + halo), (halo, sides[1] - w + halo), (0, 0)], mode="symmetric"
    )
    out = np.zeros((MAPS, *sides), np.float32)
    device = next(model.parameters()).device
    for y in range(0, sides[0], tile):
        for x in range(0, sides[1], tile):
            window = padded[y : y + tile + 2 * halo, x : x + tile + 2 * halo]
            batch = torch.from_numpy(window).to(device).permute(2, 0, 1)[None].float() / 255
            total = torch.zeros((), device=device)
            for view in range(views):
                turned = _turn(batch, view).contiguous(memory_format=torch.channels_last)
                logits = _turn(model(turned), view)[0]
                total = total + torch.cat([logits[:3].sigmoid(), logits[3:].softmax(0)])
            inner = (total / views)[:, halo:-halo, halo:-halo].cpu().numpy()
            out[:, y : y + inner.shape[1], x : x + inner.shape[2]] = inner
    out = out[:, :h, :w]
    return Maps(out[0], out[1], out[2], out[3:])


def _turn(x: Tensor, view: int) -> Tensor:
    """Return the view-th of four mirrored versions of (n, c, h, w); each is its own inverse."""
    return x.flip([[], [3], [2], [2, 3]][view]) if view else x


def decode(
    maps: Maps,
    *,
    threshold: float | np.ndarray = 0.45,
    seeds: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return types uint8 (h, w) and instances int32 (h, w), 1-based, from the network's maps.

    A pixel belongs to a nucleus where the nucleus map is above ``threshold`` (a number or (h, w)).
    Watershed from the centres tells touching nuclei apart; ``seeds`` int (n, 2), known centres
    (y, x), take the place of the network's own within 6 pixels.
    """
    mask = ndimage.binary_opening(maps.nucleus > threshold, iterations=1)
    mask = _fill_small_holes(mask)
    height = ndimage.gaussian_filter(maps.centre + DEPTH_SHARE * maps.depth, SMOOTHING)
    own = peak_local_max(
        height, min_distance=APART, labels=mask.astype(np.int32), exclude_border=False
    )
    markers = np.zeros(mask.shape, np.int32)
    if seeds is not None and len(seeds):
        known = np.zeros(mask.shape, bool)
        known[tuple(seeds.T)] = True
        away = ndimage.distance_transform_edt(~known)
        own = own[away[tuple(own.T)] > 6]
        own = np.concatenate([seeds[mask[tuple(seeds.T)]], own])
    markers[tuple(own.T)] = np.arange(1, len(own) + 1)
    pieces, n = ndimage.label(mask)
    empty = np.flatnonzero(ndimage.maximum(markers, pieces, np.arange(1, n + 1)) == 0) + 1
    if len(empty):  # a piece without a centre is one nucleus
        spots = np.array(ndimage.maximum_position(height, pieces, empty))
        markers[tuple(spots.T)] = len(own) + 1 + np.arange(len(empty))
    instances = watershed(-height, markers, mask=mask).astype(np.int32)
    return relabel(instances, maps)


def relabel(instances: np.ndarray, maps: Maps) -> tuple[np.ndarray, np.ndarray]:
    """Return types and instances (h, w) without tiny pieces; a nucleus has its likeliest type."""
    sizes = np.bincount(instances.ravel())
    good = sizes >= SMALLEST
    good[0] = False
    table = np.zeros(len(sizes), np.int32)
    table[good] = np.arange(1, good.sum() + 1)
    instances = table[instances]
    votes = type_votes(instances, maps)
    types = np.concatenate([[0], votes.argmax(1) + 1]).astype(np.uint8)[instances]
    return types, instances


def type_votes(instances: np.ndarray, maps: Maps) -> np.ndarray:
    """Return the mean probability of the six types for each nucleus, float (n, 6)."""
    n = instances.max()
    weight = instances.ravel()
    sums = [np.bincount(weight, m.ravel(), n + 1)[1:] for m in maps.types]
    return np.stack(sums, 1) / np.maximum(np.bincount(weight, minlength=n + 1)[1:, None], 1)


def _fill_small_holes(mask: np.ndarray, largest: int = 20) -> np.ndarray:
    holes, _ = ndimage.label(~mask)
    return mask | (np.bincount(holes.ravel()) <= largest)[holes]

"""Pseudo-labels of nuclei for the pictures of GlaS and CRCHistoPhenotypes, by the segmenter.

    python benchmarks/labels/nuclei.py DATA WEIGHTS NUCLEI [--part 0 --parts 1]

NUCLEI receives SET-NAME.npz with types and instances at 0.5 micrometres a pixel. In GlaS the gland
masks help to tell epithelium; in CRCHistoPhenotypes the points say where nuclei are, and of which
kind. These are guesses of a small network: `docs/labels.md` says how good they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from pictures import INFLAMMATORY, UNTYPED, Picture, glas_rows, pictures
from scipy import ndimage
from skimage.color import hed_from_rgb
from skimage.filters import threshold_otsu

from nasdm_wsi.model.evaluation.segmenter import (
    SMALLEST,
    Maps,
    Segmenter,
    decode,
    load,
    predict,
    type_votes,
)

REACH = 6  # pixels; the centre of a nucleus is this close to its point
PIECE = 40  # pixels; a smaller dark spot at a point becomes a disc


def unlikely(instances: np.ndarray, maps: Maps, rgb: np.ndarray) -> np.ndarray:
    """Bool (n,): nuclei 1..n which look like red cells, ink or noise."""
    index = np.arange(1, instances.max() + 1)
    sure = ndimage.mean(maps.nucleus, instances, index)
    red = ndimage.mean(rgb[..., 0].astype(float), instances, index)
    blue = ndimage.mean(rgb[..., 2].astype(float), instances, index)
    return (sure < 0.6) | ((red - blue > 35) & (red > 150))


def remove(
    instances: np.ndarray, types: np.ndarray, bad: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    table = np.concatenate([[0], np.where(bad, 0, np.cumsum(~bad))]).astype(np.int32)
    instances = table[instances]
    return np.where(instances > 0, types, 0).astype(np.uint8), instances


def gland_prior(
    instances: np.ndarray, maps: Maps, glands: np.ndarray, malignant: bool
) -> np.ndarray:
    """Types uint8 (h, w), helped by where the glands are, bool (h, w): epithelium is in glands.

    Single tumour cells lie outside glands, and lymphocytes inside: both remain possible; connective
    nuclei inside hardly are. Outside, small round nuclei are rather lymphocytes, long ones rather
    connective.
    """
    votes = type_votes(instances, maps)
    index = np.arange(1, instances.max() + 1)
    inside = ndimage.mean(glands.astype(float), instances, index)
    low = 0.5 if malignant else 0.2
    votes[:, 1] *= low * (3 / low) ** inside
    votes[:, 5] *= 0.15**inside
    area = np.bincount(instances.ravel())[1:]
    ratio = roundness(instances)
    round_ = (ratio > 0.65) & (area < 220) & (inside < 0.5)
    votes[round_, 5] *= 0.5
    votes[round_, 2] *= 1.6
    votes[(ratio < 0.5) & (inside < 0.5), 5] *= 1.5
    return np.concatenate([[0], votes.argmax(1) + 1]).astype(np.uint8)[instances]


def roundness(instances: np.ndarray) -> np.ndarray:
    """Shorter axis over longer (n,), from the second moments of instances 1..n."""
    y, x = np.nonzero(instances)
    k, n = instances[y, x], instances.max() + 1
    size = np.maximum(np.bincount(k, minlength=n), 1)
    y, x = (v - (np.bincount(k, v, n) / size)[k] for v in (y, x))
    yy, xx, xy = (
        np.bincount(k, v, n)[1:] / size[1:] + e
        for v, e in ((y * y, 0.08), (x * x, 0.08), (x * y, 0))
    )
    middle, spread = (yy + xx) / 2, np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    return np.sqrt(np.maximum(middle - spread, 0) / (middle + spread))


def glas(picture: Picture, model: Segmenter) -> tuple[np.ndarray, np.ndarray]:
    """Types and instances (h, w) of a GlaS picture."""
    image = picture.rgb()
    maps = predict(image, model)
    types, instances = decode(maps)
    if instances.max():
        malignant = glas_rows(picture.data)[picture.name]["grade"] == "malignant"
        types = gland_prior(instances, maps, picture.glands(), malignant)
        types, instances = remove(instances, types, unlikely(instances, maps, image))
    return types, instances


def with_points(picture: Picture, model: Segmenter) -> tuple[np.ndarray, np.ndarray]:
    """Types and instances (h, w) that agree with the points of a CRCHistoPhenotypes picture."""
    image = picture.rgb()
    maps = predict(image, model)
    centres, codes = picture.points()
    at = np.clip(np.floor(centres).astype(int), 0, np.array(image.shape[:2]) - 1)
    at, kept = np.unique(at, axis=0, return_index=True)
    known = np.zeros(image.shape[:2], bool)
    known[tuple(at.T)] = True
    away = ndimage.distance_transform_edt(~known) if len(at) else np.full(known.shape, 99.0)
    _, instances = decode(maps, threshold=np.where(away <= 7, 0.35, 0.45), seeds=at)
    owner = owners(instances, at)
    add_missing(instances, owner, at, image)

    votes = type_votes(instances, maps)
    pointed = np.zeros(len(votes), bool)
    for nucleus, code in zip(owner, codes[kept], strict=True):
        if nucleus:
            pointed[nucleus - 1] = True
            if code == INFLAMMATORY:
                votes[nucleus - 1, [1, 5]] = -1
            elif code != UNTYPED:
                votes[nucleus - 1] = np.eye(6)[code - 1]
    types = np.concatenate([[0], votes.argmax(1) + 1]).astype(np.uint8)[instances]
    index = np.arange(1, len(votes) + 1)
    faint = ndimage.mean(maps.nucleus, instances, index) < 0.8
    flat = ndimage.maximum(maps.centre, instances, index) < 0.5
    small = np.bincount(instances.ravel())[1:] < 30
    bad = faint | flat | small | unlikely(instances, maps, image)
    return remove(instances, types, bad & ~pointed)


def owners(instances: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The nucleus of each point (n,): the one under it, or else a free one close to it, or 0."""
    owner, taken = np.zeros(len(at), int), set()
    for k, (y, x) in enumerate(at):
        nucleus = int(instances[y, x])
        if nucleus and nucleus not in taken:
            owner[k] = nucleus
            taken.add(nucleus)
    for k in np.flatnonzero(owner == 0):
        y, x = at[k]
        top, left = max(y - REACH, 0), max(x - REACH, 0)
        part = instances[top : y + REACH + 1, left : x + REACH + 1]
        rows, columns = np.nonzero(part)
        gap = np.hypot(rows + top - y, columns + left - x)
        for j in np.argsort(gap):
            nucleus = int(part[rows[j], columns[j]])
            if gap[j] <= REACH and nucleus not in taken:
                owner[k] = nucleus
                taken.add(nucleus)
                break
    return owner


def add_missing(
    instances: np.ndarray, owner: np.ndarray, at: np.ndarray, image: np.ndarray
) -> None:
    """Draw a nucleus, in place, at each point that has none and does not lie in one."""
    density = -np.log(np.maximum(image, 1) / 255.0) @ hed_from_rgb[:, 0]
    density = ndimage.gaussian_filter(density, 0.7)
    for k in np.flatnonzero(owner == 0):
        y, x = at[k]
        if instances[y, x]:
            continue
        top, left = max(y - 12, 0), max(x - 12, 0)
        box = np.s_[top : y + 13, left : x + 13]
        rows, columns = np.indices(instances[box].shape)
        gap = np.hypot(rows + top - y, columns + left - x)
        piece = dark_piece(density[box], instances[box] == 0, gap)
        if piece.sum() >= SMALLEST:
            owner[k] = instances.max() + 1
            instances[box][piece] = owner[k]


def dark_piece(density: np.ndarray, free: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Bool (h, w): the free dark spot nearest to the point that is ``gap`` away, or a disc."""
    piece = np.zeros(density.shape, bool)
    if np.ptp(density) > 0.1:
        dark = (density > threshold_otsu(density)) & free & (gap <= 9)
        dark = ndimage.binary_opening(dark)
        pieces, _ = ndimage.label(dark)
        near = np.where(dark & (gap <= 4), gap, 99)
        if near.min() < 99:
            piece = pieces == pieces.flat[near.argmin()]
    return piece if piece.sum() >= PIECE else (gap <= 4.5) & free


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "weights", "nuclei"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--part", type=int, default=0, help="of several processes, this one")
    parser.add_argument("--parts", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load(options.weights)
    for picture in pictures(options.data, "glas", "crc")[options.part :: options.parts]:
        label = glas if picture.set == "glas" else with_points
        types, instances = label(picture, model)
        target = options.nuclei / f"{picture.key}.npz"
        np.savez_compressed(target, types=types, instances=instances)


if __name__ == "__main__":
    main()

"""Pseudo-labels of tissue regions for pictures of colon at 0.5 micrometres a pixel.

    python benchmarks/labels/regions.py DATA CACHE REGIONS [--part 0 --parts 1]

CACHE is what `glands.py` wrote; REGIONS receives SET-NAME.png. Values: 0 unknown, 1 lumen (glass,
gland lumen, tears, fat), 2 epithelium, 3 stroma (muscle too), 4 mucus, 5 blood.

Epithelium is in GlaS the gland masks; elsewhere the log odds of the gland network are added to
those of the density of epithelial against other nuclei. The rest are rules (`rules.py`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from debris import in_closed_glands, in_glands, islands
from glands import read
from masks import blur, closed, distance, grow, large, opened, resize
from pictures import Picture, pictures
from PIL import Image
from rules import blood, white_space
from scipy import ndimage
from skimage.morphology import remove_small_holes

UNKNOWN, LUMEN, EPITHELIUM, STROMA, MUCUS, BLOOD = range(6)
LEAST = ((EPITHELIUM, 250), (STROMA, 120), (MUCUS, 40), (BLOOD, 60), (UNKNOWN, 60))  # pixels


def label(picture: Picture, gland: np.ndarray, shell: np.ndarray) -> np.ndarray:
    """The map uint8 (h, w) of a picture.

    gland (h/2, w/2): probability of gland. shell (3, h/2, w/2): SHELL's probabilities.
    """
    rgb, published, nuclei, mask = read(picture)
    size = rgb.shape[1::-1]
    gland, shell = resize(gland, size), np.stack([resize(c, size) for c in shell])
    density = -np.log10(np.clip(rgb / np.float32(255), 1 / 255, 1))
    smooth = blur(density, 1.5)
    mean = smooth.mean(-1)

    if nuclei is not None:
        gland, epithelial, other = with_nuclei(gland, nuclei, picture.set)
        gland[distance(nuclei == 2) > 60] = 0  # fat and pale stroma look like mucus
    inside = mask
    if inside is None:
        inside = large(remove_small_holes(gland > 0.5, max_size=200), 400)
    if nuclei is not None:
        inside = fill_crypts(inside, np.isin(nuclei, [1, 3, 4, 5, 6]))
    near = distance(inside) < (40 if mask is not None else 200)
    white, texture = white_space(density, smooth, picture.set, near)
    tissue = (mean > 0.15) & published
    usual = np.median(mean[tissue]) if tissue.sum() > 500 else 0.3

    mucus, goblets = mucus_of(mean, usual, white, texture, inside)
    white &= ~goblets
    lake = lakes(density, mean, usual, white | inside)
    red = blood(smooth, density, inside | ~published, picture.set) & ~inside

    out = np.where(inside, EPITHELIUM, STROMA).astype(np.uint8)
    pale = white | mucus
    out[in_glands(inside, white, mucus, shell, nuclei)] = UNKNOWN
    out[islands(inside, pale) | in_closed_glands(inside, white, pale)] = UNKNOWN
    if nuclei is not None:
        doubt(out, inside, nuclei, epithelial, other)
        if picture.set != "crc":
            doubt_empty(out, inside, nuclei, mean, usual)
        out[opened((blur(mean, 3) < 0.055) & (out == STROMA), 3)] = UNKNOWN
        wrong = (nuclei == 6) & (out == EPITHELIUM)
        out[grow(wrong | ((nuclei == 2) & (out == STROMA)), 1)] = UNKNOWN
        out[opened(np.abs(gland - 0.5) < 0.1, 4)] = UNKNOWN
    else:  # an epithelium that the gland masks leave out
        out[large(opened((gland > 0.9) & ~grow(mask, 6), 6), 1500)] = UNKNOWN
    out[mucus] = MUCUS
    out[smears(mucus, white)] = UNKNOWN
    out[lake & near] = MUCUS
    out[lake & ~near] = UNKNOWN
    out[red] = BLOOD
    out[white] = LUMEN
    out = without_bits(out)
    out[~published] = UNKNOWN
    return out


def mucus_of(
    mean: np.ndarray, usual: float, white: np.ndarray, texture: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mucus in glands, which is pale and no glass, and the part of it that passed for white."""
    pale = opened((blur(mean, 1) < min(0.38 * usual, 0.1)) & ~white, 3)
    mucus = large(pale & inside, 60)
    pieces, n = ndimage.label(white)
    area, index = np.bincount(pieces.ravel(), minlength=n + 1), np.arange(n + 1)
    held = ndimage.mean(grow(inside, 2), pieces, index)
    uneven = ndimage.mean(texture, pieces, index)
    round_ = np.pi * ndimage.maximum(distance(~white), pieces, index) ** 2 > 0.45 * area
    tiny = (area < 500) & (uneven > 0.003)
    small = (area < 3000) & (uneven > 0.0042) & round_
    goblets = (held > 0.95) & (tiny | small)
    goblets[0] = False
    return mucus | goblets[pieces], goblets[pieces]


def lakes(density: np.ndarray, mean: np.ndarray, usual: float, taken: np.ndarray) -> np.ndarray:
    """Mucus outside of glands: wide, even, pale and bluish."""
    wide = blur(density, 4)
    uneven = np.sqrt(np.maximum(blur(mean**2, 4) - blur(mean, 4) ** 2, 0))
    bluish = wide[..., 0] > 0.6 * wide[..., 1]
    lake = (wide.mean(-1) < min(0.4 * usual, 0.1)) & bluish & (uneven < 0.035) & ~taken
    return large(opened(lake, 6), 1200)


def doubt(
    out: np.ndarray,
    inside: np.ndarray,
    nuclei: np.ndarray,
    epithelial: np.ndarray,
    other: np.ndarray,
) -> None:
    """Set to unknown, in place, where nuclei speak against the map."""
    out[opened((distance(nuclei == 2) > 44) & inside, 4)] = UNKNOWN
    out[(epithelial > 0.15) & (epithelial > 4 * other) & (out == STROMA)] = UNKNOWN
    out[(other > 0.1) & (other > 5 * epithelial) & (out == EPITHELIUM)] = UNKNOWN


def doubt_empty(
    out: np.ndarray, inside: np.ndarray, nuclei: np.ndarray, mean: np.ndarray, usual: float
) -> None:
    """Set to unknown, in place, what is pale beside a gland and has no nuclei: mucus, or wall."""
    away = distance(nuclei % 2 + (nuclei == 6) + (nuclei == 4) > 0) > 24
    empty = away & (distance(inside) < 120)
    out[opened(empty & (blur(mean, 4) < 0.6 * usual) & (out == STROMA), 4)] = UNKNOWN


def smears(mucus: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Thin smears along white space, which are neither clearly mucus nor wall."""
    pieces, n = ndimage.label(mucus)
    width = ndimage.maximum(distance(~mucus), pieces, np.arange(n + 1))
    rim = np.bincount(pieces[grow(white, 3) & mucus], minlength=n + 1)
    smear = (width < 7) & (rim > 0.25 * np.bincount(pieces.ravel(), minlength=n + 1))
    smear[0] = False
    return smear[pieces]


def without_bits(out: np.ndarray) -> np.ndarray:
    """The map with pieces that are too small given to what is nearest."""
    for value, least in LEAST:
        here = out == value
        bits = here & ~large(here, least)
        if bits.any() and not bits.all():
            source = ndimage.distance_transform_edt(
                bits, return_distances=False, return_indices=True
            )
            out = out[tuple(source)]
    return out


def fill_crypts(inside: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Add to ``inside`` what a wall encloses without nuclei of the stroma: mucus, lumen."""
    filled = ndimage.binary_fill_holes(closed(inside, 5))
    pieces, n = ndimage.label(filled & ~inside)
    index = np.arange(n + 1)
    fill = (np.bincount(pieces.ravel(), minlength=n + 1) < 60000) & (
        ndimage.mean(others, pieces, index) < 0.015
    )
    fill[0] = False
    return inside | fill[pieces]


def with_nuclei(
    gland: np.ndarray, nuclei: np.ndarray, kind: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gland with the log odds of the nuclei's density (sigma 12 px), and densities at 9 px."""
    k = 3.0 if kind == "crc" else 1.0  # CRC has points, and not for every nucleus

    def densities(sigma: float, connective: float, rest: float) -> tuple[np.ndarray, np.ndarray]:
        return k * blur(nuclei == 2, sigma), k * (
            connective * blur(nuclei == 6, sigma)
            + rest * blur(np.isin(nuclei, [1, 3, 4, 5]), sigma)
        )

    e, s = densities(12, 1.5, 0.7)
    odds = np.log((gland + 0.02) / (1.02 - gland)) + 1.3 * np.log((e + 0.03) / (s + 0.03))
    return 1 / (1 + np.exp(-odds)), *densities(9, 1.0, 0.6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "cache", "regions"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--part", type=int, default=0, help="of several processes, this one")
    parser.add_argument("--parts", type=int, default=1)
    options = parser.parse_args()
    options.regions.mkdir(parents=True, exist_ok=True)
    for picture in pictures(options.data)[options.part :: options.parts]:
        gland = np.load(options.cache / f"g-{picture.key}.npy")
        with np.load(options.cache / f"u-{picture.key}.npz") as file:
            shell = file["x"][3:].astype(np.float32)
        labels = label(picture, gland, shell)
        Image.fromarray(labels).save(options.regions / f"{picture.key}.png")


if __name__ == "__main__":
    main()

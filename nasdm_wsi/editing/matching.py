"""What an edit paints is matched to the slide round it: in stain, and in sharpness and grain.

Networks paint softer than many scanners record, and not exactly the stain of a place. Both are
measured after the painting, on the tissue between nuclei, where an edit changes the content least:

- stain: the mean optical density of red, green and blue, of what is painted and of the slide at the
  same pixels. Densities of what is painted are multiplied by a power of their ratio.
- sharpness: the power of luma in three bands of size, of what is painted and of the slide there and
  in a ring round it. The bands of what is painted are amplified by the root of their ratio.

The bands are differences of Gaussians. A pixel depends only on those within `REACH`, so that it is
the same in every box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import shapely
from scipy import ndimage

from ..annotations.raster import Cover, Drawing
from ..geometry import Box, grow, inside, intersect, shape
from ..job import Job
from ..slides.tissue import optical_density
from .areas import box_of
from .source import EditedSlide, edited_slide

SIGMAS = (0.8, 1.6, 3.2)  # pixels; each band lies between two of them, the first below the first
REACH = 10  # pixels: three times the largest, rounded up
STAIN_LIMITS = 0.8, 1.25  # of the factors of optical density
OF_STAIN = 0.7  # of a difference in density, on a logarithmic scale; the rest is that of content
BAND_LIMITS = 0.6, 1.6  # of the factors of bands
RING = 16  # pixels round the area in which the sharpness of the slide is measured
MEASURED = RING + REACH  # pixels round the area that are read
BESIDE_NUCLEI = 2  # pixels round a nucleus that do not count as tissue between nuclei
MOST_PARTS, MOST_SIDE = 16, 512  # parts of an area that are measured, and their side in pixels
FEW_OF_STAIN, FEW_OF_BANDS = 100, 1000  # pixels at which a measure counts half
FAINT = 0.02  # optical density that is added to both, so that white is no stain
ROUNDS = 2  # of finding the factors of bands, which overlap
LUMA = np.array([0.299, 0.587, 0.114])

Pixels = Callable[[Box], np.ndarray]


@dataclass(frozen=True)
class Match:
    """Factors of what is painted.

    Attributes:
        stain: of the optical density in red, green and blue.
        bands: of the three bands, from the finest.
    """

    stain: tuple[float, ...] = (1.0, 1.0, 1.0)
    bands: tuple[float, ...] = (1.0, 1.0, 1.0)

    def of(self, pixels: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Return pixels (h, w, 3) in 0..255 after the match, float64.

        Args:
            share: (h, w, 1), how far a pixel is painted: 0 leaves it as it is.
        """
        light = (pixels.astype(np.float64) + 1) / 256
        light **= 1 + (np.array(self.stain) - 1) * share
        *bands, _ = split(light * 256 - 1)
        more = sum((by - 1) * band for by, band in zip(self.bands, bands, strict=True))
        return np.clip(light * 256 - 1 + share * more, 0, 255)


def split(pixels: np.ndarray) -> list[np.ndarray]:
    """Return three bands of pixels (h, w, 3), from the finest, and what is left; they add up."""
    blurred = [
        ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest", radius=(REACH, REACH, 0))
        for sigma in SIGMAS
    ]
    finer = [pixels, *blurred[:-1]]
    return [a - b for a, b in zip(finer, blurred, strict=True)] + [blurred[-1]]


def matched(job: Job, pixels: Pixels, *, gone: np.ndarray | None = None) -> tuple[Pixels, Match]:
    """Match the pixels of a finished edit to the slide.

    Args:
        job: from `edit.plan_edit`.
        pixels: maps a box of the canvas to the pixels of the edit, uint8 (h, w, 3).
        gone: polygons (n,) in canvas pixels, nuclei that the slide shows and the edit does not.

    Returns:
        A function as ``pixels``, and the match. Known pixels stay exactly as they are.
    """
    known = edited_slide(job)
    match = _measured(known, job, pixels, gone)

    def result(box: Box) -> np.ndarray:
        out = pixels(box).copy()
        groups, _ = ndimage.label(~known.mask(box))
        for rows, columns in ndimage.find_objects(groups):
            y, x = box[0], box[1]
            part = (y + rows.start, x + columns.start, y + rows.stop, x + columns.stop)
            context = intersect(grow(part, REACH), (0, 0, *known.size))
            better = match.of(pixels(context), known.share(context))
            out[rows, columns] = np.rint(better[inside(part, context)])
        return out

    return result, match


@dataclass
class _Place:
    """A place of the edit: pixels before and after it, (h, w, 3), and which of them are compared.

    share: (h, w, 1), as in `Match.of`. painted, real: bool (h, w), tissue between nuclei after and
    before the edit.
    """

    before: np.ndarray
    after: np.ndarray
    share: np.ndarray
    painted: np.ndarray
    real: np.ndarray


def _measured(known: EditedSlide, job: Job, pixels: Pixels, gone: np.ndarray | None) -> Match:
    """Return the match that brings what is painted to the slide."""
    places = list(_places(known, job, pixels, gone))
    count = sum(place.painted.sum() for place in places)
    if not count:
        return Match()
    before = _density([(place.before, place.painted) for place in places])
    after = _density([(place.after, place.painted) for place in places])
    ratio = (before + FAINT) / (after + FAINT)
    in_stain = OF_STAIN * count / (count + FEW_OF_STAIN)
    match = Match(_rounded(np.clip(ratio**in_stain, *STAIN_LIMITS)))
    in_bands = count / (count + FEW_OF_BANDS)
    wanted = _power([(p.before, p.real) for p in places])
    for _ in range(ROUNDS):
        got = _power([(match.of(p.after, p.share), p.painted) for p in places])
        factors = match.bands * (wanted / got) ** (in_bands / 2)
        match = Match(match.stain, _rounded(np.clip(factors, *BAND_LIMITS)))
    return match


def _rounded(factors: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(factor), 4) for factor in factors)


def _density(pictures: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the mean optical density, (3,), over masks (h, w) of pictures (h, w, 3)."""
    return np.concatenate([optical_density(p[mask]) for p, mask in pictures]).mean(0, np.float64)


def _power(pictures: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the mean power of luma in each band, (3,), over masks (h, w) of pictures (h, w, 3)."""
    sums, count = np.zeros(len(SIGMAS)), 0
    for picture, mask in pictures:
        *bands, _ = split(picture.astype(np.float64))
        sums += [((band[mask] @ LUMA) ** 2).sum() for band in bands]
        count += mask.sum()
    return sums / max(count, 1) + 1e-3


def _places(
    known: EditedSlide, job: Job, pixels: Pixels, gone: np.ndarray | None
) -> Iterable[_Place]:
    """Yield places of an edit, at most `MOST_PARTS`, chosen at random."""
    parts = shapely.get_parts(known.area)
    drawing = Drawing(job.nuclei)
    removed = None
    if gone is not None and len(gone):
        removed = Cover(shapely.multipolygons(shapely.get_parts(gone)))
    for part in parts[np.random.default_rng(0).permutation(len(parts))[:MOST_PARTS]]:
        box = intersect(grow(_middle(part), MEASURED), (0, 0, *known.size))
        nuclei = drawing.labels(box)[1] > 0
        if removed is not None:
            nuclei |= removed.mask(box)
        plain = ~ndimage.binary_dilation(nuclei, iterations=BESIDE_NUCLEI)
        share = known.share(box)
        near = ndimage.binary_dilation(~known.mask(box), iterations=RING)
        painted = plain & (share[..., 0] == 1)
        yield _Place(known.pixels(box), pixels(box), share, painted, plain & near)


def _middle(part: shapely.Polygon) -> Box:
    """Return the bounding box of a part, or its middle if it is large."""
    box = box_of(part)
    h, w = shape(box)
    more_y, more_x = max(h - MOST_SIDE, 0) // 2, max(w - MOST_SIDE, 0) // 2
    return box[0] + more_y, box[1] + more_x, box[2] - more_y, box[3] - more_x

"""Outlines of nuclei, by place and without overlaps.

An outline is star-shaped: an ellipse whose radius varies in three to five bulges. Areas,
elongations and the heights of the bulges are distributed as those of the nuclei of Lizard and
CoNSeP at 0.5 micrometres a pixel; the tables below are these statistics. No outline of the data
sets is stored.

Two outlines that would overlap are both cut along one line between them. A nucleus that would lose
too much is left out. Both steps depend only on the nuclei within `REACH`.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import ndtri

from ..annotations.columns import offsets
from ..annotations.nuclei import Nuclei
from .keyed import uniforms
from .source import Proposals

VERTICES = 24
GAP = 0.1  # between two outlines
FARTHEST = 24  # micrometres between the centres of two nuclei that can touch
REACH = 2 * FARTHEST
DEEPEST = 0.3  # overlap, as a share of both extents, at which one of two nuclei is left out
LEAST_KEPT = 0.6  # share of a nucleus' area that must be left
_STREAM = 11  # of the random numbers of this file
_TURNS = 2 * np.pi / VERTICES * np.arange(VERTICES)  # directions of vertices from the long axis

# Shares of nuclei that are smaller, or less elongated, than the values of the rows below.
_SHARES = np.array([0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99])
# By nucleus type, from 1: areas in square micrometres.
AREAS = np.array(
    [
        [5.1, 8.2, 9.3, 14.1, 19.8, 27.4, 35.9, 41.3, 51.8],
        [4.3, 7.9, 11.2, 18.3, 28.3, 42.1, 59.0, 72.0, 102.3],
        [4.4, 6.6, 7.9, 10.6, 13.9, 17.3, 20.5, 22.6, 27.9],
        [5.2, 8.3, 9.6, 12.5, 15.7, 19.2, 23.5, 26.9, 34.6],
        [5.4, 7.2, 9.5, 14.3, 25.6, 34.2, 39.7, 44.2, 53.2],
        [3.5, 5.2, 6.8, 10.8, 17.1, 25.7, 35.8, 42.8, 64.9],
    ]
)
# The axis ratio of the ellipse with the same second moments.
ELONGATIONS = np.array(
    [
        [1.06, 1.09, 1.12, 1.22, 1.35, 1.55, 1.72, 1.91, 2.22],
        [1.05, 1.11, 1.16, 1.30, 1.53, 1.88, 2.34, 2.69, 3.45],
        [1.03, 1.07, 1.11, 1.18, 1.32, 1.51, 1.76, 1.92, 2.28],
        [1.03, 1.07, 1.10, 1.17, 1.29, 1.48, 1.70, 1.87, 2.35],
        [1.03, 1.06, 1.10, 1.21, 1.35, 1.62, 1.90, 2.26, 3.02],
        [1.05, 1.14, 1.21, 1.39, 1.69, 2.12, 2.62, 3.00, 3.90],
    ]
)
# Standard deviations of the logarithm of the radius, in three, four and five swells.
_SWELLS = np.array(
    [
        [0.040, 0.022, 0.015],
        [0.049, 0.026, 0.022],
        [0.035, 0.020, 0.016],
        [0.034, 0.020, 0.016],
        [0.037, 0.019, 0.018],
        [0.046, 0.024, 0.021],
    ]
)


def quantiles(table: np.ndarray, types: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the values of ``table`` (`AREAS` or `ELONGATIONS`) at shares of the types: (n,).

    Shares below 0.02 and above 0.98 count as these, so that cuts leave the middle 98 %.
    """
    shares = np.clip(shares, 0.02, 0.98)
    values = np.empty(len(types))
    for kind, row in enumerate(table, 1):
        mine = types == kind
        values[mine] = np.interp(shares[mine], _SHARES, row)
    return values


def shapes(proposals: Proposals, *, seed: int) -> tuple[Nuclei, np.ndarray]:
    """Return nuclei at 1 micrometre a pixel, and the index (m,) of their proposals.

    No two outlines overlap. The order is that of the proposals.
    """
    radii = _radii(proposals, seed)
    areas = _areas(radii)
    keys = uniforms(proposals.centres, 1, seed + _STREAM)[:, 0]
    index = np.flatnonzero(~_crowded_out(proposals, radii, keys))
    few, kept = proposals.take(index), radii[index]
    pairs, lines = _separations(few, kept)
    cut = _cut(few, kept, pairs, lines)
    left = _areas(cut)
    smallest = AREAS[few.types - 1, 0]
    whole = (left >= LEAST_KEPT * areas[index]) & (left >= smallest)
    return _nuclei(few.take(whole), cut[whole]), index[whole]


def _directions(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines and sines, (n, VERTICES) each, of the directions of vertices."""
    turns = angles[:, None] + _TURNS
    return np.cos(turns), np.sin(turns)


def _radii(proposals: Proposals, seed: int) -> np.ndarray:
    """Return the distances of the vertices from the centres, (n, VERTICES), before any cut."""
    types = proposals.types
    drawn = uniforms(proposals.centres, 7, seed)
    stretch = np.sqrt(quantiles(ELONGATIONS, types, drawn[:, 0]))[:, None]
    ellipse = 1 / np.hypot(np.cos(_TURNS) / stretch, np.sin(_TURNS) * stretch)
    heights = np.clip(ndtri(drawn[:, 1:]), -2, 2).reshape(-1, 2, 3) * _SWELLS[types - 1][:, None]
    swells = np.arange(3, 6)[:, None] * _TURNS
    log_radius = np.zeros((len(types), VERTICES))
    for k in range(3):  # one by one: a matrix product may round differently for other sizes
        log_radius += heights[:, 0, k, None] * np.cos(swells[k])
        log_radius += heights[:, 1, k, None] * np.sin(swells[k])
    radii = ellipse * np.exp(log_radius)
    return radii * np.sqrt(proposals.areas / _areas(radii))[:, None]


def _areas(radii: np.ndarray) -> np.ndarray:
    """Return the areas of star-shaped outlines, (n,)."""
    products = radii * np.roll(radii, -1, axis=1)
    return np.sin(2 * np.pi / VERTICES) / 2 * _row_sums(products)


def _row_sums(values: np.ndarray) -> np.ndarray:
    """Return the sums of rows, added in the same order whatever the number of rows."""
    sums = values[:, 0].copy()
    for column in values.T[1:]:
        sums += column
    return sums


def _crowded_out(proposals: Proposals, radii: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return bool (n,): nuclei that overlap one with a higher key too deeply."""
    pairs, lines = _separations(proposals, radii)
    deep = pairs[lines[:, 0] > DEEPEST]
    lower = np.where(keys[deep[:, 0]] < keys[deep[:, 1]], deep[:, 0], deep[:, 1])
    out = np.zeros(len(radii), bool)
    out[lower] = True
    return out


def _separations(proposals: Proposals, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of nuclei that overlap (p, 2), and a line between each two: (p, 5).

    The columns of a line are the depth of the overlap as a share of both extents, the line's
    normal y and x from the first to the second nucleus, and its distance from either centre.
    """
    pairs = _near(proposals.centres, radii)
    step = proposals.centres[pairs[:, 1]] - proposals.centres[pairs[:, 0]]
    length = np.maximum(np.hypot(*step.T), 1e-9)
    normals = [step / length[:, None]]
    for side in (0, 1):
        angle = proposals.angles[pairs[:, side]]
        normals += [np.stack(n, axis=1) for n in _axes(angle)]
    best = np.full((len(pairs), 5), np.inf)
    cos, sin = _directions(proposals.angles)
    y, x = radii * sin, radii * cos
    for normal in normals:
        along = step[:, 0] * normal[:, 0] + step[:, 1] * normal[:, 1]
        normal = normal * np.where(along < 0, -1, 1)[:, None]
        along = np.abs(along)
        ahead = _extent(y, x, pairs[:, 0], normal)
        behind = _extent(y, x, pairs[:, 1], -normal)
        depth = (ahead + behind + GAP - along) / (ahead + behind)
        room = np.maximum(along - GAP, 0) / (ahead + behind)
        line = np.column_stack([depth, normal, room * ahead, room * behind])
        best = np.where((depth < best[:, 0])[:, None], line, best)
    overlap = best[:, 0] > 0
    return pairs[overlap], best[overlap]


def _near(centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the pairs of nuclei whose enclosing circles meet, int (p, 2)."""
    if len(centres) < 2:
        return np.empty((0, 2), int)
    longest = radii.max(axis=1)
    pairs = cKDTree(centres).query_pairs(FARTHEST, output_type="ndarray")
    apart = np.hypot(*(centres[pairs[:, 0]] - centres[pairs[:, 1]]).T)
    return pairs[apart < longest[pairs[:, 0]] + longest[pairs[:, 1]] + GAP]


def _axes(angle: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Return the directions (y, x) of the long and the short axis."""
    return (np.sin(angle), np.cos(angle)), (np.cos(angle), -np.sin(angle))


def _extent(y: np.ndarray, x: np.ndarray, index: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return how far the outlines of an index reach from their centres along normals (p, 2)."""
    return (y[index] * normal[:, :1] + x[index] * normal[:, 1:]).max(axis=1)


def _cut(
    proposals: Proposals, radii: np.ndarray, pairs: np.ndarray, lines: np.ndarray
) -> np.ndarray:
    """Return radii of outlines that end at the lines between them."""
    cos, sin = _directions(proposals.angles)
    owner = np.concatenate([pairs[:, 0], pairs[:, 1]])
    normal = np.concatenate([lines[:, 1:3], -lines[:, 1:3]])
    distance = np.concatenate([lines[:, 3], lines[:, 4]])
    along = normal[:, :1] * sin[owner] + normal[:, 1:] * cos[owner]
    limit = np.where(along > 1e-6, distance[:, None] / np.maximum(along, 1e-6), np.inf)
    cut = radii.copy()
    np.minimum.at(cut, owner, limit)
    return cut


def _nuclei(proposals: Proposals, radii: np.ndarray) -> Nuclei:
    cos, sin = _directions(proposals.angles)
    x = proposals.centres[:, 1:] + radii * cos
    y = proposals.centres[:, :1] + radii * sin
    rings = np.stack([x, y], axis=2)
    rings = np.concatenate([rings, rings[:, :1]], axis=1)
    count = len(rings)
    return Nuclei(
        rings.reshape(-1, 2),
        offsets(np.full(count, VERTICES + 1)),
        np.arange(count + 1),
        proposals.types,
        mpp=1.0,
    )

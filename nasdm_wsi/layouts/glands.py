"""Glands by place: pieces on a jittered lattice, grown until they meet, joined and smoothed.

A piece is a star-shaped outline about its seed. It ends at the Voronoi cell of its seed, shrunk by
the gap between glands, and where the ground ends. Every second piece may be joined to one of its
four neighbours, so that a gland depends on the pieces within two steps of the lattice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import shapely
from scipy.spatial import cKDTree
from scipy.special import ndtr
from shapely import Polygon

from ..geometry import Box, grow, shape
from .keyed import generator, lattice, smooth
from .tissues import Glands

RAYS = 48
STEP = 4  # along a ray, and of the ground
LONGEST = 160  # of a ray
SEEDS = 640  # round a square that matter for glands whose first seed lies in it, with their ground
GLAND = 352  # no gland reaches farther from its square
NEIGHBOURS = 12  # of a seed that matter for its cell
JITTER = 0.32  # of a seed, as a share of the spacing
WARP = 64  # length over which neighbouring places move together
LEAST_AREA = 700.0  # of a gland in square micrometres
ROUND = 14.0  # radius of the corners of a gland
_DRAW = 2200  # the first of the draws of random numbers in this file
_TURNS = 2 * np.pi / RAYS * np.arange(RAYS)  # directions of the rays, from x (right) to y (down)

Allowed = Callable[[Box], np.ndarray]
"""Where glands may lie: bool, one value for every `STEP` micrometres of a box."""
Named = tuple[str, Polygon]  # a region's name and its outline


class Seeds(NamedTuple):
    """Pieces of glands.

    Attributes:
        places: float64 (n, 2), y and x.
        rows, columns: int (n,), places in the lattice.
        roots: int (n, 2), the row and the column of the first piece of the gland.
        draws: float64 (n, 4), unit Gaussian numbers.
    """

    places: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    roots: np.ndarray
    draws: np.ndarray

    def take(self, index: np.ndarray) -> Seeds:
        """Return the pieces of an index or a mask."""
        return Seeds(*(column[index] for column in self))


def glands(style: Glands, box: Box, *, allowed: Allowed, seed: int, draw: int) -> list[list[Named]]:
    """Return the glands whose first seed lies in a box, each as a list of regions.

    Args:
        allowed: where glands may lie.
        draw: kinds of glands with different numbers are independent.
    """
    around = grow(box, SEEDS)
    ground = allowed(around)
    if not ground.any():
        return []
    base = _DRAW + 10 * draw
    seeds = _seeds(style, around, seed, base)
    mine = {tuple(root) for root in seeds.take(_first_in(box, seeds)).roots.tolist()}
    # A seed off the ground has no piece, so the pieces beside it need not leave room for one.
    seeds = seeds.take(_at(ground, around, seeds.places))
    members = np.array([tuple(root) in mine for root in seeds.roots.tolist()], bool)
    if not members.any():
        return []
    radii = _radii(style, seeds, np.flatnonzero(members), ground, around)
    near = grow(box, GLAND)
    rings = _rings(style, seeds.places[members], radii, near, seed, base)
    pieces: dict[tuple, list[Polygon]] = {}
    for root, ring in zip(seeds.roots[members].tolist(), rings, strict=True):
        pieces.setdefault(tuple(root), []).append(Polygon(ring))
    out = []
    for root, parts in sorted(pieces.items()):
        rng = generator(seed, base + 5, *root)
        out += [_gland(style, outline, rng) for outline in _joined(parts)]
    return out


def _first_in(box: Box, seeds: Seeds) -> np.ndarray:
    """Return bool (n,): seeds in a box that are the first of a gland."""
    y, x = seeds.places.T
    here = (y >= box[0]) & (x >= box[1]) & (y < box[2]) & (x < box[3])
    return here & (seeds.roots[:, 0] == seeds.rows) & (seeds.roots[:, 1] == seeds.columns)


def _seeds(style: Glands, box: Box, seed: int, draw: int) -> Seeds:
    """Return all seeds in and just around a box."""
    sy, sx = style.spacing
    frame = (
        int(box[0] // sy) - 1,
        int(box[1] // sx) - 2,
        int(box[2] // sy) + 2,
        int(box[3] // sx) + 2,
    )
    draws = lattice(frame, 8, seed=seed, draw=draw).reshape(8, -1).T
    rows, columns = (k.ravel() for k in np.mgrid[frame[0] : frame[2], frame[1] : frame[3]])
    shares = ndtr(draws[:, :4])
    y = (rows + 0.5 + JITTER * (2 * shares[:, 0] - 1)) * sy
    x = (columns + 0.5 * (rows % 2) + 0.5 + JITTER * (2 * shares[:, 1] - 1)) * sx
    joins = ((rows + columns) % 2 == 1) & (shares[:, 2] < style.joined)
    way = (4 * shares[:, 3]).astype(int)
    dy, dx = np.array([-1, 1, 0, 0])[way], np.array([0, 0, -1, 1])[way]
    roots = np.stack([rows + joins * dy, columns + joins * dx], axis=1)
    return Seeds(np.stack([y, x], axis=1), rows, columns, roots, draws[:, 4:])


def _radii(
    style: Glands, seeds: Seeds, index: np.ndarray, ground: np.ndarray, frame: Box
) -> np.ndarray:
    """Return the radii (m, RAYS) of the pieces of an index."""
    rays = np.stack([np.sin(_TURNS), np.cos(_TURNS)])
    wanted = style.radius[0] + style.radius[1] * np.clip(seeds.draws[index, :1], -2, 2)
    phase = 2 * np.pi * ndtr(seeds.draws[index, 1:3, None])
    for k, height in ((2, style.oblique), (3, style.rough)):
        wanted = wanted * np.exp(height * np.cos(k * _TURNS + phase[:, k - 2]))
    limit = _cells(style, seeds, index, rays)
    limit = np.minimum(limit, _to_the_border(seeds.places[index], rays, ground, frame))
    # A soft minimum and an average over neighbouring rays leave no corners.
    radii = (wanted**-4 + np.maximum(limit, 4) ** -4) ** -0.25
    for _ in range(3):
        radii = (np.roll(radii, 1, axis=1) + 2 * radii + np.roll(radii, -1, axis=1)) / 4
    return radii


def _cells(style: Glands, seeds: Seeds, index: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Return the distances (m, RAYS) to the borders of the Voronoi cells."""
    nearest = np.arange(1, 1 + min(1 + NEIGHBOURS, len(seeds.places)))
    _, near = cKDTree(seeds.places).query(seeds.places[index], k=nearest)
    limit = np.full((len(index), rays.shape[1]), np.inf)
    for other in near[:, 1:].T:  # after the seed itself
        step = seeds.places[other] - seeds.places[index]
        length = np.hypot(*step.T)
        same = (seeds.roots[other] == seeds.roots[index]).all(axis=1)
        half = length / 2 + np.where(same, 25.0, -style.gap / 2)
        along = (step[:, :1] * rays[0] + step[:, 1:] * rays[1]) / length[:, None]
        border = np.where(along > 0.05, half[:, None] / np.maximum(along, 0.05), np.inf)
        limit = np.minimum(limit, border)
    return limit


def _to_the_border(
    places: np.ndarray, rays: np.ndarray, ground: np.ndarray, frame: Box
) -> np.ndarray:
    """Return the distances (m, RAYS) to the end of the ground."""
    out = np.full((len(places), rays.shape[1]), float(LONGEST))
    for distance in range(LONGEST, 0, -STEP):
        at = places[:, :, None] + distance * rays
        out[~_at(ground, frame, at.transpose(0, 2, 1))] = distance
    return out


def _at(ground: np.ndarray, frame: Box, places: np.ndarray) -> np.ndarray:
    """Return the values of the ground at places (..., 2); False outside the frame."""
    index = np.floor((places - frame[:2]) / STEP).astype(int)
    inside = ((index >= 0) & (index < ground.shape)).all(axis=-1)
    y, x = np.where(inside[..., None], index, 0).transpose(-1, *range(index.ndim - 1))
    return ground[y, x] & inside


def _rings(
    style: Glands, places: np.ndarray, radii: np.ndarray, frame: Box, seed: int, draw: int
) -> np.ndarray:
    """Return the outlines (m, RAYS, 2) as x, y, moved by a smooth field that bends them."""
    y = places[:, :1] + radii * np.sin(_TURNS)
    x = places[:, 1:] + radii * np.cos(_TURNS)
    index = np.floor((np.stack([y, x], axis=2) - frame[:2]) / STEP).astype(int)
    height, width = (side // STEP for side in shape(frame))
    row, column = np.clip(index[..., 0], 0, height - 1), np.clip(index[..., 1], 0, width - 1)
    fields = [
        smooth(frame, step=STEP, scale=WARP, seed=seed, draw=draw + k)[row, column] for k in (2, 3)
    ]
    return np.stack([x + style.warp * fields[0], y + style.warp * fields[1]], axis=2)


def _joined(parts: list[Polygon]) -> list[Polygon]:
    """Return the union of outlines, smoothed, without pieces that are too small for a gland."""
    whole = shapely.union_all(shapely.make_valid(np.array(parts)))
    smoothed = shapely.get_parts(whole.buffer(8).buffer(-8 - ROUND).buffer(ROUND)).tolist()
    return [Polygon(p.exterior).simplify(0.3) for p in smoothed if p.area >= LEAST_AREA]


def _gland(style: Glands, outline: Polygon, rng: np.random.Generator) -> list[Named]:
    """Return the epithelium of a gland, and over it its lumens and the mucus of goblet cells."""
    # Drawn in too far and widened again, a lumen has no corners.
    inner = outline.buffer(-style.wall * rng.uniform(0.8, 1.0) - 7).buffer(7).simplify(0.3)
    fate = rng.random()
    if fate < style.solid:
        lumens = []
    elif fate < style.solid + style.holes:
        lumens = _holes(outline.buffer(-0.55 * style.wall), rng)
    else:
        lumens = [part for part in shapely.get_parts(inner).tolist() if part.area > 25]
    mucus = _goblets(style, outline, lumens, rng)
    return [
        ("epithelium", outline),
        *(("lumen", part) for part in lumens),
        *(("mucus", part) for part in mucus),
    ]


def _holes(room: Polygon, rng: np.random.Generator) -> list[Polygon]:
    """Return round lumens in a gland, as in cribriform growth."""
    holes: list[Polygon] = []
    x0, y0, x1, y1 = room.bounds if not room.is_empty else (0, 0, 0, 0)
    tries = int((x1 - x0) * (y1 - y0) / 500)
    for x, y, radius in rng.uniform((x0, y0, 5), (x1, y1, 15), (tries, 3)):
        hole = shapely.affinity.scale(shapely.Point(x, y).buffer(radius, 8), 1, rng.uniform(0.6, 1))
        if room.contains(hole) and all(hole.distance(other) > 16 for other in holes):
            holes.append(hole)
    return holes


def _goblets(
    style: Glands, outline: Polygon, lumens: list[Polygon], rng: np.random.Generator
) -> list[Polygon]:
    """Return the mucus of goblet cells: drops in a row above the nuclei."""
    if not style.goblets:
        return []
    row = outline.buffer(-style.wall * 0.56)
    share = min(1.0, style.goblets * rng.uniform(0.6, 1.3))
    drops: list[Polygon] = []
    open_ = shapely.union_all(np.array(lumens)) if lumens else Polygon()
    for part in shapely.get_parts(row).tolist():
        ring = part.exterior
        steps = np.cumsum(rng.uniform(8.0, 11.5, int(ring.length / 8.0) + 1))
        steps = steps[(steps < ring.length) & (rng.random(len(steps)) < share)]
        here = shapely.get_coordinates(shapely.line_interpolate_point(ring, steps))
        ahead = shapely.get_coordinates(shapely.line_interpolate_point(ring, steps + 0.5))
        for at, to in zip(here, ahead, strict=True):
            across = np.arctan2(*(to - at)[::-1]) + np.pi / 2
            drops.append(drop(at, across, rng))
    room, rim = open_.buffer(-2), open_.buffer(1)
    return [mucus.difference(rim) for mucus in drops if mucus.disjoint(room)]


def drop(at: np.ndarray, angle: float, rng: np.random.Generator) -> Polygon:
    """Return the mucus of a goblet cell at x, y, whose long axis points to an angle."""
    turn = 2 * np.pi / 16 * np.arange(16)
    size = rng.uniform(0.75, 1.2)
    long, wide = size * rng.uniform(5.5, 7.5), size * rng.uniform(3.8, 5.0)
    along, across = long * np.cos(turn), wide * np.sin(turn)
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = along * cos - across * sin, along * sin + across * cos
    return Polygon(np.stack([at[0] + x, at[1] + y], axis=1))

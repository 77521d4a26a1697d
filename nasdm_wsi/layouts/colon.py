"""The colon: regions by rules, at any size, and the nuclei in them.

The ground is the map of tissues, with one value for every `STEP` micrometres. The mucosa gets
crypts, an epithelium on its surface and muscle below it; tumours get glands of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Protocol

import numpy as np
import shapely
from scipy import ndimage
from scipy.special import ndtri
from shapely import Polygon
from skimage.measure import find_contours

from ..annotations.regions import REGIONS, Regions
from ..geometry import (
    Block,
    Box,
    cells_in,
    grow,
    inside,
    intersect,
    shape,
    square_box,
    squares_of,
)
from . import tissues
from .densities import Densities
from .glands import GLAND, LONGEST, STEP, Named, drop
from .glands import glands as glands_by_rules
from .keyed import generator, smooth
from .populate import Populated
from .source import Proposals
from .tissues import Tissue

# Kinds of ground, in the numbers of the plans of slides.
GLASS, MUCOSA, DEBRIS, TUMOUR, FAT, MUCUS, MUSCLE, STROMA, LYMPHOCYTES, ADENOMA = range(10)

BLOCK = 512  # the ground is cut into squares of this side, and glands belong to them
NEAR = 128  # of ground around a square that matters in it
SURFACE = 22.0  # height of the epithelium that faces the glass
MUSCULARIS = 44.0  # height of the muscle below the mucosa
ROUGH = 0.9  # of borders of the ground
_DRAW = 2250  # of random numbers in this file
CLEAR = 10.0  # between the crypts and what bounds the mucosa
BARE = 128  # length of the places of a tumour without glands

_TISSUES = {
    MUCOSA: tissues.NORMAL,
    TUMOUR: tissues.CARCINOMA,
    ADENOMA: tissues.ADENOMA,
    LYMPHOCYTES: tissues.AGGREGATE,
}
GLANDULAR = (MUCOSA, ADENOMA, TUMOUR)  # in the order of `tools.sources.HISTOLOGIES`
# Painted glands: what is smaller is left out, and how far lumens keep from the end of the ground.
LEAST_AREAS = {"epithelium": 500.0, "lumen": 60.0, "mucus": 20.0}
WALL = 15.0
_STROMA = REGIONS.index("stroma") + 1  # lies below all other tissue
_REGIONS = {DEBRIS: "debris", FAT: "fat", MUCUS: "mucus", MUSCLE: "muscle"}


Layer = tuple[list[Named], np.ndarray]
"""Regions and their bounds, float (n, 4) as (x0, y0, x1, y1)."""


class Plan(Protocol):
    """What lies where, at a large scale."""

    def ground(self, box: Box) -> np.ndarray:
        """Return kinds of ground, uint8, one for every `STEP` micrometres of a box."""


class PaintedGlands(Protocol):
    """Glands as heights, a function of place, for the kinds of tissue that it was made with."""

    def heights(self, box: Box) -> dict[str, np.ndarray]:
        """Return how far each place of a box lies inside epithelium, lumen and mucus.

        In micrometres, negative outside, one value for every `STEP`. The epithelium includes the
        lumens and the mucus in it, which lie over it. The box is a square of `BLOCK` with at most
        `NEAR` around it.
        """


Glands = Callable[..., PaintedGlands]
"""Makes `PaintedGlands` of a function of a box and a ``seed``.

The function says which glands belong where, one number for every `STEP` micrometres: 0 for none,
else the place in `GLANDULAR` + 1.
"""


class Colon:
    """A source of layouts: the colon after a plan.

    Args:
        plan: which kind of ground lies where.
        seed: another seed, other tissue.
        densities: numbers of nuclei that are wanted instead of those of the tissues.
        populate: the source of the nuclei in the regions.
        glands: makes the painter of the glands; by default they follow rules.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        seed: int,
        densities: Densities | None = None,
        populate: type[Populated] = Populated,
        glands: Glands | None = None,
    ):
        self._plan, self._seed = plan, seed
        self._blocks = lru_cache(maxsize=64)(self._block)
        self._kept = lru_cache(maxsize=1024)(self._square)
        self._rooms = lru_cache(maxsize=1024)(self._room_of_square)
        self._populate, self._glands = populate, glands
        self._painted = glands and glands(self._gland_tissue, seed=seed)
        self._nuclei = populate(self.regions, seed=seed, tissue=self._kinds, densities=densities)

    def __reduce__(self) -> tuple:
        # Another process gets what this one was made from, without what it keeps.
        make = partial(
            Colon,
            seed=self._seed,
            densities=self._nuclei.densities,
            populate=self._populate,
            glands=self._glands,
        )
        return make, (self._plan,)

    def regions(self, box: Box) -> Regions:
        """Return the regions that meet a box."""
        # Painted glands are cut at the squares, as the ground is.
        reach = GLAND if self._painted is None else 0
        near = cells_in(squares_of(grow(box, reach), BLOCK))
        blocks = [self._blocks(place) for place in near]
        y0, x0, y1, x1 = box
        found: list[Named] = []
        for layer in (0, 1):  # the glands of all squares lie over the ground of all
            for block in blocks:
                named, bounds = block[layer]
                a, b, c, d = bounds.T
                meet = (a <= x1) & (b <= y1) & (c >= x0) & (d >= y0)
                found += [named[k] for k in np.flatnonzero(meet)]
        shapes, names = [polygon for _, polygon in found], [name for name, _ in found]
        return Regions.from_polygons(shapes, names, mpp=1.0).within(box)

    def tissue(self, box: Box) -> shapely.Geometry:
        """Return the tissue in a box; outside it is glass."""
        regions = self.regions(box)
        ground = regions.take(np.flatnonzero(regions.types == _STROMA)).polygons()
        return shapely.union_all(ground).intersection(shapely.box(box[1], box[0], box[3], box[2]))

    def nuclei(self, box: Box) -> Proposals:
        """Return the nuclei whose centres lie in a box."""
        return self._nuclei.nuclei(box)

    def _kinds(self, box: Box) -> tuple[np.ndarray, Sequence[Tissue]]:
        ground = self._ground(box).repeat(STEP, 0).repeat(STEP, 1)
        return ground, [_TISSUES.get(kind, tissues.LOOSE) for kind in range(10)]

    def _square(self, place: Block) -> np.ndarray:
        return self._plan.ground(square_box(place, BLOCK))

    def _ground(self, box: Box) -> np.ndarray:
        """Return the ground of a box from squares that are kept."""
        return _assembled(box, self._kept)

    def _block(self, place: Block) -> tuple[Layer, Layer]:
        """Return the regions of the ground of a square, and those of its glands."""
        box = square_box(place, BLOCK)
        raised = self._by_rules(box) if self._painted is None else []
        return _layer(self._flat(box)), _layer(raised)

    def _by_rules(self, box: Box) -> list[Named]:
        """Return the glands by rules that belong to a square."""
        raised: list[Named] = []
        for number, kind in enumerate((MUCOSA, TUMOUR, ADENOMA)):
            style = _TISSUES[kind].glands
            if style and (self._ground(grow(box, LONGEST)) == kind).any():
                made = glands_by_rules(
                    style,
                    box,
                    allowed=partial(_assembled, squares=partial(self._rooms, kind, style.bare)),
                    seed=self._seed,
                    draw=number,
                )
                raised += [named for gland in made for named in gland]
        return raised

    def _room_of_square(self, kind: int, bare: float, place: Block) -> np.ndarray:
        """Return where glands of a kind may lie in a square, of which a share is stroma alone."""
        box = square_box(place, BLOCK)
        room = self._room(kind, box)
        if bare:
            field = smooth(box, step=STEP, scale=BARE, seed=self._seed, draw=_DRAW + 2)
            room &= field > ndtri(bare)
        return room

    def _gland_tissue(self, box: Box) -> np.ndarray:
        """Return which kind of glands belongs where in a box, as `Glands` numbers them."""
        out = np.zeros([side // STEP for side in shape(box)], np.uint8)
        for number, kind in enumerate(GLANDULAR, 1):
            if (self._ground(box) == kind).any():
                out[self._room(kind, box)] = number
        return out

    def _painted_glands(self, around: Box) -> list[tuple[str, np.ndarray]]:
        """Return heights of painted glands, sampled in a frame, later over earlier."""
        room = self._gland_tissue(around) > 0
        if self._painted is None or not room.any():
            return []
        depth = _distance(room)
        heights = self._painted.heights(around)
        heights["epithelium"] = np.minimum(heights["epithelium"], depth)
        for name in ("lumen", "mucus"):
            heights[name] = np.minimum(heights[name], heights["epithelium"])
            heights[name] = np.minimum(heights[name], depth - WALL)
        return [(name, _without_specks(h, LEAST_AREAS[name])) for name, h in heights.items()]

    def _room(self, kind: int, box: Box) -> np.ndarray:
        """Return where glands of a kind may lie in a box."""
        around = grow(box, NEAR)
        ground = self._ground(around)
        room = _distance(ground == kind) > CLEAR / 2
        if kind != TUMOUR:
            room &= _distance(ground != GLASS) > SURFACE + CLEAR
        return room[_cells(box, around)]

    def _flat(self, box: Box) -> list[Named]:
        """Return the regions of the ground in a square, cut at its sides, later over earlier."""
        around = grow(box, NEAR)
        ground = self._ground(around)
        layers = [("glass", ground == GLASS), ("stroma", ground != GLASS)]
        layers += [(name, ground == kind) for kind, name in _REGIONS.items()]
        # A little roughness hides that the ground is sampled.
        rough = ROUGH * smooth(around, step=STEP, scale=16, seed=self._seed, draw=_DRAW)
        named = [
            (name, ndimage.gaussian_filter(mask.astype(float), 1.0) - 0.5 + rough / (3 * STEP))
            for name, mask in layers
        ]
        lined = (ground == MUCOSA) | (ground == ADENOMA)
        if lined.any():
            below = MUSCULARIS - _distance(~lined)
            below[lined | np.isin(ground, (GLASS, LYMPHOCYTES))] = -STEP
            above = SURFACE - _distance(ground != GLASS)
            above[~lined] = -STEP
            named += [("muscle", _eased(below) + rough), ("epithelium", _eased(above) + rough)]
        named += self._painted_glands(around)
        out = [(name, part) for name, heights in named for part in _outlines(heights, around, box)]
        if lined.any():
            out += self._surface_goblets(np.where(lined, SURFACE - above, NEAR), around, box)
        return out

    def _surface_goblets(self, depth: np.ndarray, frame: Box, box: Box) -> list[Named]:
        """Return the mucus of goblet cells in the epithelium of the surface.

        depth: distance to the glass, sampled in a frame; large where there is no epithelium.
        """
        rng = generator(self._seed, _DRAW + 1, box[0], box[1])
        row, column = np.nonzero(np.abs(depth - SURFACE / 2.6) < STEP / 2)
        slopes = np.gradient(ndimage.gaussian_filter(np.minimum(depth, SURFACE), 1.0))
        places = np.stack([frame[1] + STEP * (column + 0.5), frame[0] + STEP * (row + 0.5)], axis=1)
        square = shapely.box(box[1] + 8, box[0] + 8, box[3] - 8, box[2] - 8)
        drops: list[Polygon] = []
        taken = np.empty((0, 2))
        for k in rng.permutation(len(row)).tolist():
            dy, dx = (slope[row[k], column[k]] for slope in slopes)
            made = drop(places[k], float(np.arctan2(dy, dx)), rng)
            is_free = (np.abs(taken - places[k]).sum(axis=1) > 13).all()
            if rng.random() < 0.5 and is_free and square.contains(made):
                drops.append(made)
                taken = np.vstack([taken, places[k]])
        return [("mucus", mucus) for mucus in drops]


def _layer(named: list[Named]) -> Layer:
    return named, shapely.bounds([polygon for _, polygon in named]).reshape(-1, 4)


def _assembled(box: Box, squares: Callable[[Block], np.ndarray]) -> np.ndarray:
    """Return the values of a box, one for every `STEP` micrometres, from those of squares."""
    places = cells_in(squares_of(box, BLOCK))
    out = np.empty([side // STEP for side in shape(box)], squares(places[0]).dtype)
    for place in places:
        whole = square_box(place, BLOCK)
        part = intersect(whole, box)
        out[_cells(part, box)] = squares(place)[_cells(part, whole)]
    return out


def _eased(heights: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(np.clip(heights, -3 * STEP, 3 * STEP), 0.7)


def _without_specks(heights: np.ndarray, least: float) -> np.ndarray:
    """Return heights that are negative where fewer than ``least`` square micrometres are above 0.

    What reaches the border of the frame stays, because its size is unknown.
    """
    numbers, count = ndimage.label(heights > 0)
    small = np.bincount(numbers.ravel(), minlength=count + 1) * STEP**2 < least
    for side in (numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]):
        small[side] = False
    small[0] = False
    return np.where(small[numbers], -1, heights)


def _distance(mask: np.ndarray) -> np.ndarray:
    """Return how far each place of a mask is from its end, at most `NEAR`."""
    if mask.all():
        return np.full(mask.shape, float(NEAR))
    return np.minimum(STEP * ndimage.distance_transform_edt(mask), NEAR)


def _cells(box: Box, frame: Box) -> tuple[slice, slice]:
    rows, columns = inside(box, frame)
    return (
        slice(rows.start // STEP, rows.stop // STEP),
        slice(columns.start // STEP, columns.stop // STEP),
    )


def _outlines(heights: np.ndarray, frame: Box, box: Box) -> list[Polygon]:
    """Return the polygons of a box where heights, sampled in a frame, are above 0."""
    if (heights <= 0).all():
        return []
    square = shapely.box(box[1], box[0], box[3], box[2])
    if (heights[_cells(grow(box, STEP), frame)] > 0).all():
        return [square]
    lowest = float(heights.min())
    rings = find_contours(np.pad(heights, 1, constant_values=min(lowest, -1.0)), 0.0)
    # Padded by one, sampled at centres; x before y.
    lines = [((ring - 0.5) * STEP + frame[:2])[:, ::-1] for ring in rings if len(ring) >= 4]
    whole = shapely.build_area(shapely.MultiLineString(lines))  # holes take away
    cut = whole.simplify(0.4).buffer(0).intersection(square)
    return [part for part in shapely.get_parts(cut).tolist() if part.geom_type == "Polygon"]

"""Nuclei in regions by a trained network: a source of layouts.

The canvas is cut into blocks of `BLOCK` micrometres. The network paints the map of each block
separately (`painting`), and the nuclei of the map (`encoding`) are assigned to the squares of
`Populated`. In each square their numbers are then adjusted to the wanted ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...annotations.regions import REGIONS as NAMES
from ...annotations.regions import Regions
from ...annotations.types import TYPES
from ...geometry import Box, cells_in, grow, inside, intersect, shape, square_box, squares_of
from ...layouts.densities import Densities, Place
from ...layouts.keyed import generator
from ...layouts.populate import ORDER, TILE, Kinds, Populated, Scene
from ...layouts.source import NOTHING, Proposals
from ..painter import Painter
from ..planes import REGIONS
from .conditions import LEAST_AREA, planes
from .encoding import decode
from .painting import paint_map

WEIGHTS = "layout-nuclei"
BLOCK = 2 * TILE
RIM = 16  # micrometres around a block in which nuclei are looked for, a multiple of the grid
_DRAW = 3000  # of the random numbers of this file
# The types that a nucleus may be given instead of another, the rare ones first.
_RETYPED = [TYPES.index(name) for name in ORDER if name != "epithelial"]
# What the network is told where it does not know a region. The nuclei there are `Populated`'s.
_INSTEAD = {"muscle": "stroma", "debris": "mucus", "fat": "lumen", "glass": "lumen"}
_TOLD = np.array([0, *(1 + REGIONS.index(_INSTEAD.get(name, name)) for name in NAMES)], np.uint8)


class Learned(Populated):
    """A source of layouts: nuclei that a network paints in the regions that ``regions`` gives.

    Args:
        regions, seed, tissue, densities, canvas: as of `Populated`.
        weights: a file of weights, or the name of weights in the package.

    Raises:
        CheckpointError: the weights are damaged, or of another architecture.
    """

    def __init__(
        self,
        regions: Callable[[Box], Regions],
        *,
        seed: int,
        tissue: str | Kinds = "normal",
        densities: Densities | None = None,
        canvas: tuple[int, int] | None = None,
        weights: str | Path = WEIGHTS,
    ):
        super().__init__(regions, seed=seed, tissue=tissue, densities=densities, canvas=canvas)
        self._painter = Painter(weights, guidance=0.0, device="cpu")
        self._remember()

    def _remember(self) -> None:
        self._painted = lru_cache(maxsize=256)(self._paint)
        self._amounts = lru_cache(maxsize=1024)(self._amounts_of)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_painted", "_amounts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._remember()

    def _square(self, row: int, column: int) -> Proposals:
        """Return the nuclei of one square: those painted, as far as wanted, and those missing."""
        scene = self._scene(row, column)
        if scene is None:
            return NOTHING
        count = BLOCK // TILE
        painted = self._painted(row // count, column // count).within(scene.box)
        rng = generator(self._seed, _DRAW, row, column)
        kept, missing = _adjusted(painted, scene, rng)
        scene.darts.place(kept)
        scene.throw(missing)
        return scene.darts.nuclei()

    def _paint(self, row: int, column: int) -> Proposals:
        """Return the nuclei that the network paints in a block."""
        block = square_box((row, column), BLOCK)
        if not np.isin(self._labels(block), _KNOWN).any():
            return NOTHING
        around = grow(block, RIM)
        found = decode(paint_map(self._painter, around, self._planes, seed=self._seed))
        # Binary fractions, so that no sum of theirs depends on its order.
        centres = np.floor(found.centres * 64) / 64 + around[:2]
        return found._replace(centres=centres).within(block)

    def _planes(self, box: Box) -> np.ndarray:
        """Return the planes of the network for a box."""
        labels, (kinds, _) = _TOLD[self._labels(box)], self._kinds(box)
        out = np.zeros((len(self._painter.planes), *shape(box)), np.float32)
        for place in cells_in(squares_of(box, TILE)):
            at = inside(intersect(square_box(place, TILE), box), box)
            for kind, amounts in self._amounts(*place).items():
                told = planes(labels[at], amounts)
                out[:, *at] = np.where(kinds[at] == kind, told, out[:, *at])
        return out

    def _amounts_of(self, row: int, column: int) -> dict[int, np.ndarray]:
        """Return the densities that are wanted in a square, by the number of the kind of tissue.

        Each is float (regions + 1, types): nuclei in a square millimetre of a region.
        """
        scene = self._scene(row, column)
        if scene is None:
            return {}
        return {kind: _amounts(scene, place) for place, kind in enumerate(scene.tissues)}


_KNOWN = [NAMES.index(name) + 1 for name in REGIONS]


def _amounts(scene: Scene, place: int) -> np.ndarray:
    """Return the densities that are wanted in one kind of tissue of a square."""
    tissue = list(scene.tissues.values())[place]
    labels = np.where(scene.places == place, scene.labels, 0)
    areas = np.bincount(labels.ravel(), minlength=len(NAMES) + 1) / 1e6
    counts = np.zeros((len(REGIONS) + 1, len(TYPES)))
    for (where, region, name), count in scene.wanted.items():
        if where == place:
            number = NAMES.index(region) + 1
            if np.isinf(count):
                count = tissue.mix(region).get(name, 0.0) * areas[number]
            counts[_TOLD[number], TYPES.index(name)] += count
    told = np.bincount(_TOLD[labels].ravel(), minlength=len(REGIONS) + 1) / 1e6
    return counts / np.maximum(told, LEAST_AREA)[:, None]


def _adjusted(
    painted: Proposals, scene: Scene, rng: np.random.Generator
) -> tuple[Proposals, dict[Place, float]]:
    """Return the nuclei to keep of those painted in a square, and how many are missing where."""
    y, x = (painted.centres - scene.box[:2]).astype(int).T
    places, labels = scene.places[y, x], scene.labels[y, x]
    types, missing = np.zeros_like(painted.types), dict(scene.wanted)
    tissues = list(scene.tissues.values())
    for place, region in dict.fromkeys(key[:2] for key in scene.wanted if key[1] in REGIONS):
        wanted = {
            TYPES.index(key[2]): count
            for key, count in scene.wanted.items()
            if key[:2] == (place, region)
        }
        here = np.flatnonzero((places == place) & (labels == NAMES.index(region) + 1))

        def variation(kind: int, region=region, tissue=tissues[place], here=here) -> np.ndarray:
            return scene.ground.variation(region, TYPES[kind], tissue)[y[here], x[here]]

        types[here] = _retyped(painted.types[here], wanted, variation, rng)
        for kind, count in wanted.items():
            # Where no number is asked for, as many as the network paints are enough.
            found = float((types[here] == kind).sum())
            missing[place, region, TYPES[kind]] = 0.0 if np.isinf(count) else count - found
    return painted._replace(types=types).take(types > 0), missing


def _retyped(
    painted: np.ndarray,
    wanted: dict[int, float],
    variation: Callable[[int], np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the types (n,) of painted nuclei that are wanted; 0 leaves a nucleus out.

    Of a type that is painted too often, nuclei become those of another that is painted too seldom,
    or are left out. Epithelial nuclei stay epithelial. Nuclei of a type are chosen where its
    density is high.

    Args:
        painted: types (n,) of all nuclei in one region.
        wanted: how many of each type.
        variation: gives the factors (n,) of the density of a type at these nuclei.
    """
    types = painted.copy()
    spare = {k: int(max(0, (painted == k).sum() - wanted.get(k, 0))) for k in range(1, len(TYPES))}

    def likely_first(kind: int, among: np.ndarray) -> np.ndarray:
        # Adding Gumbel noise to the logarithms draws without replacement.
        order = np.log(variation(kind)[among]) + rng.gumbel(size=len(among))
        return among[np.argsort(-order, kind="stable")]

    for kind in _RETYPED:
        lacking = int(min(wanted.get(kind, 0), len(types)) - (painted == kind).sum())
        giving = [other for other in _RETYPED if spare[other]]
        if lacking <= 0 or not giving:
            continue
        for k in likely_first(kind, np.flatnonzero(np.isin(painted, giving) & (types == painted))):
            if lacking and spare[painted[k]]:
                spare[painted[k]] -= 1
                lacking -= 1
                types[k] = kind
    for kind, count in spare.items():
        if count:
            types[likely_first(kind, np.flatnonzero(types == kind))[-count:]] = 0
    return types

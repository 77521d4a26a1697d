"""How many nuclei of each type are wanted: a tissue's own mix, or what the user asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import shapely

from ..annotations.canvas import check_canvas
from ..annotations.nuclei import Nuclei
from ..annotations.raster import Conditioning
from ..annotations.regions import GLASS, REGIONS
from ..annotations.types import TYPES
from ..errors import AnnotationError
from .tissues import Tissue

Key = tuple[str | None, str]  # a region, or None for all, and a nucleus type
Place = tuple[int, str, str]  # an index of the kinds of tissue, a region and a nucleus type

_SIDE = 2048  # micrometres of an annotated slide that are looked at together
MISSED, LEAST_MISSED = 0.2, 5  # a share of the nuclei asked for, and a number of them
_LEAST_AREA = 2000.0  # square micrometres of a region whose densities mean something
NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_ASKED = re.compile(rf"(?:(?P<region>[^:=]+):)?(?P<kind>[^:=]+)=(?P<value>{NUMBER})(?P<x>x?)")


@dataclass(frozen=True)
class Densities:
    """What is asked for.

    Attributes:
        wanted: nuclei per square millimetre of a region, or of all tissue.
        shares: factors on the number that there would be.
    """

    wanted: dict[Key, float] = field(default_factory=dict)
    shares: dict[Key, float] = field(default_factory=dict)

    @classmethod
    def parse(
        cls, density: Iterable[str] = (), share: Iterable[str] = (), like: Nuclei | None = None
    ) -> Densities:
        """Return the densities of ``like``, if given, changed by texts.

        They are texts such as "eosinophil=120", "stroma:eosinophil=120" and "plasma=2x".

        Raises:
            AnnotationError: a text that is not of this form, an unknown type or region.
        """
        wanted = cls.like(like).wanted if like is not None else {}
        wanted |= dict(_asked(text, "density", "eosinophil=120") for text in density)
        shares = dict(_asked(text, "share", "plasma=2x") for text in share)
        return cls(wanted, shares)

    @classmethod
    def like(cls, nuclei: Nuclei) -> Densities:
        """Return the densities of annotated nuclei, by region where regions are drawn."""
        nuclei = nuclei.scaled(1.0)
        y0, x0, y1, x1 = (int(side) for side in np.round(nuclei.extent()))
        check_canvas((y1 - y0, x1 - x0), None, nuclei)
        if min(y0, x0) < 0:  # where no regions are drawn
            nuclei = nuclei.shifted(-y0, -x0)
            y0, x0, y1, x1 = 0, 0, y1 - y0, x1 - x0
        numbers, areas = np.zeros(len(nuclei), int), np.zeros(len(REGIONS) + 1)
        centres = shapely.get_coordinates(shapely.centroid(nuclei.polygons()))
        drawn = Conditioning(nuclei, (max(y1, 1), max(x1, 1)))
        for y in range(y0, y1, _SIDE):
            for x in range(x0, x1, _SIDE):
                box = (y, x, min(y + _SIDE, y1), min(x + _SIDE, x1))
                labels = drawn.regions(box) * drawn.tissue(box)
                if nuclei.regions is None:
                    labels = drawn.tissue(box).astype(np.uint8)
                areas += np.bincount(labels.ravel(), minlength=len(areas))
                here = ((centres >= (x, y)) & (centres < (box[3], box[2]))).all(axis=1)
                column, row = centres[here].astype(int).T
                numbers[here] = labels[row - y, column - x]
        wanted: dict[Key, float] = {}
        for number in np.flatnonzero(areas[1:] >= _LEAST_AREA) + 1:
            region = None if nuclei.regions is None else REGIONS[number - 1]
            counts = np.bincount(nuclei.types[numbers == number], minlength=len(TYPES))
            for kind, count in zip(TYPES[1:], counts[1:], strict=True):
                wanted[region, kind] = float(count) / (areas[number] / 1e6)
        return cls(wanted)

    def unmet(self, areas: np.ndarray, counts: np.ndarray) -> list[str]:
        """Return the densities that were asked for and are not met, in words.

        A density that a later one or a share of a part of the tissue changes is not looked at.

        Args:
            areas: float (len(REGIONS) + 1,), square millimetres of each region by its number.
            counts: int (len(REGIONS) + 1, len(TYPES)), the nuclei there.
        """
        found = []
        for place, (key, density) in enumerate(self.wanted.items()):
            region, kind = key
            later = list(self.wanted)[place + 1 :]
            among = [other for other in (*later, *self.shares) if _overlap(key, other)]
            if any(other in later or other != key for other in among):
                continue
            rows = _numbers(region)
            area, got = areas[rows].sum(), counts[rows, TYPES.index(kind)].sum()
            asked = density * self.shares.get(key, 1.0)
            if asked * area - got > max(MISSED * asked * area, LEAST_MISSED):
                where = f" in {region}" if region else ""
                found.append(f"{kind}{where}: {asked:,.6g} requested, {got / area:,.0f} placed")
        return found

    def counts(
        self,
        here: Sequence[tuple[Tissue, np.ndarray]],
        labels: np.ndarray,
        rng: np.random.Generator,
        *,
        variation: Callable[[str, str, Tissue], np.ndarray] | None = None,
    ) -> dict[Place, float]:
        """Return how many nuclei are wanted, by kind of tissue, region and type.

        Of epithelial nuclei in epithelium there are as many as find room (infinity), unless a
        number is asked for.

        Args:
            here: the kinds of tissue and where they lie, bool (h, w), at 1 micrometre a pixel.
            labels: uint8 (h, w), numbers of regions.
            rng: decides whether parts of a nucleus are rounded up or down.
            variation: gives factors (h, w) by which the density of a type in a region of a tissue
                varies by place, unless it is asked for.
        """
        where = {
            (place, name): mask & (labels == number)
            for place, (_, mask) in enumerate(here)
            for number, name in enumerate(REGIONS, 1)
            if number != GLASS
        }
        areas = {key: float(mask.sum()) / 1e6 for key, mask in where.items() if mask.any()}
        counts: dict[Place, float] = {}
        for (place, name), area in areas.items():
            tissue = here[place][0]
            for kind, density in tissue.mix(name).items():
                mean = density * area
                if variation is not None:
                    mean *= float(variation(name, kind, tissue)[where[place, name]].mean())
                counts[place, name, kind] = float(rng.poisson(mean))
        free = {key for key in counts if key[1:] == ("epithelium", "epithelial")}
        for (region, kind), density in self.wanted.items():
            _set(counts, areas, region, kind, density)
            free -= {*_matching(counts, region, kind)}
        for (region, kind), factor in self.shares.items():
            for key in _matching(counts, region, kind):
                counts[key] *= factor
                free.discard(key)
        whole = {key: float(np.floor(count + rng.random())) for key, count in counts.items()}
        return whole | dict.fromkeys(free, np.inf)


def _overlap(one: Key, other: Key) -> bool:
    """Return whether two keys mean nuclei that can be the same."""
    return one[1] == other[1] and (one[0] == other[0] or None in (one[0], other[0]))


def _numbers(region: str | None) -> list[int]:
    """Return the number of a region, or those of all tissue."""
    tissue = [number for number in range(1, len(REGIONS) + 1) if number != GLASS]
    return tissue if region is None else [REGIONS.index(region) + 1]


def _matching(counts: dict[Place, float], region: str | None, kind: str) -> list[Place]:
    return [key for key in counts if key[2] == kind and region in (None, key[1])]


def _set(
    counts: dict[Place, float],
    areas: dict[tuple[int, str], float],
    region: str | None,
    kind: str,
    density: float,
) -> None:
    """Make the numbers of a type sum to a density, in the proportions that they had."""
    among = {key: area for key, area in areas.items() if region in (None, key[1])}
    target = density * sum(among.values())
    keys = _matching(counts, region, kind)
    total = sum(counts[key] for key in keys)
    if total:
        counts.update({key: counts[key] * target / total for key in keys})
        return
    # No tissue here has any: they go into the stroma, or else wherever there is room.
    chosen = {key: a for key, a in among.items() if region or key[1] == "stroma"} or among
    for (place, name), area in chosen.items():
        counts[place, name, kind] = target * area / sum(chosen.values())


def _asked(text: str, parameter: str, example: str) -> tuple[Key, float]:
    found = _ASKED.fullmatch(text.strip().casefold())
    if not found or (parameter == "density" and found["x"]):
        raise AnnotationError(f"{text!r} is not a valid {parameter}: write `{parameter}` {example}")
    region, kind = found["region"], found["kind"]
    if kind not in TYPES[1:]:
        raise AnnotationError(
            f"{kind!r} is not a nucleus type: choose one of {', '.join(TYPES[1:])}"
        )
    if region and region not in REGIONS:
        raise AnnotationError(f"{region!r} is not a region: choose one of {', '.join(REGIONS)}")
    value = float(found["value"])
    if not math.isfinite(value):
        raise AnnotationError(f"{text!r} is infinite: write `{parameter}` {example}")
    return (region, kind), value

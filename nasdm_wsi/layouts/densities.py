"""How many nuclei of each type are wanted: a tissue's own mix, or what the user asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..annotations.regions import GLASS, REGIONS
from ..annotations.types import TYPES
from ..errors import AnnotationError
from .tissues import Tissue

Key = tuple[str | None, str]  # a region, or None for all, and a nucleus type
Place = tuple[int, str, str]  # an index of the kinds of tissue, a region and a nucleus type

_ASKED = re.compile(r"(?:(?P<region>[^:=]+):)?(?P<kind>[^:=]+)=(?P<value>[0-9.]+)(?P<x>x?)")


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
    def parse(cls, density: Iterable[str] = (), share: Iterable[str] = ()) -> Densities:
        """Read texts such as "eosinophil=120", "stroma:eosinophil=120" and "plasma=2x".

        Raises:
            AnnotationError: a text that is not of this form, an unknown type or region.
        """
        wanted = dict(_asked(text, "density", "eosinophil=120") for text in density)
        shares = dict(_asked(text, "share", "plasma=2x") for text in share)
        return cls(wanted, shares)

    def counts(
        self,
        here: Sequence[tuple[Tissue, np.ndarray]],
        labels: np.ndarray,
        rng: np.random.Generator,
    ) -> dict[Place, float]:
        """Return how many nuclei are wanted, by kind of tissue, region and type.

        Of epithelial nuclei in epithelium there are as many as find room (infinity), unless a
        number is asked for.

        Args:
            here: the kinds of tissue and where they lie, bool (h, w), at 1 micrometre a pixel.
            labels: uint8 (h, w), numbers of regions.
            rng: decides whether parts of a nucleus are rounded up or down.
        """
        areas = {
            (place, name): float((labels[mask] == number).sum()) / 1e6
            for place, (_, mask) in enumerate(here)
            for number, name in enumerate(REGIONS, 1)
            if number != GLASS
        }
        areas = {key: area for key, area in areas.items() if area}
        counts = {
            (place, region, kind): density * area
            for (place, region), area in areas.items()
            for kind, density in here[place][0].mix(region).items()
        }
        free = {key for key in counts if key[1:] == ("epithelium", "epithelial")}
        for (region, kind), factor in self.shares.items():
            for key in _matching(counts, region, kind):
                counts[key] *= factor
                free.discard(key)
        for (region, kind), density in self.wanted.items():
            _set(counts, areas, region, kind, density)
            free -= {*_matching(counts, region, kind)}
        whole = {key: float(np.floor(count + rng.random())) for key, count in counts.items()}
        return whole | dict.fromkeys(free, np.inf)


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
        raise AnnotationError(f"{text!r} is no {parameter}: write `{parameter}` {example}")
    region, kind = found["region"], found["kind"]
    if kind not in TYPES[1:]:
        raise AnnotationError(f"{kind!r} is no type: choose one of {', '.join(TYPES[1:])}")
    if region and region not in REGIONS:
        raise AnnotationError(f"{region!r} is no region: choose one of {', '.join(REGIONS)}")
    return (region, kind), float(found["value"])

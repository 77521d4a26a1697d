"""Parameters of tissues: the numbers and places of nuclei of each type, and the form of glands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

Mix = Mapping[str, float]  # nuclei per square millimetre of a region, by type


@dataclass(frozen=True)
class Glands:
    """How glands are built; lengths in micrometres.

    Attributes:
        spacing: between neighbouring glands, down and across.
        gap: of stroma between two glands.
        radius: the mean and the standard deviation.
        wall: height of the epithelium.
        joined: share of the pieces that are joined to a neighbour, into longer and forked glands.
        rough: how irregular the outlines are.
        oblique: how much longer than wide they are.
        warp: how far neighbouring places are moved against each other.
        goblets: share of the places along the wall that have a goblet cell.
        holes: share of the glands that have several round lumens (cribriform ones).
        solid: share of the glands without a lumen.
        bare: share of the ground that has stroma and no glands.
    """

    spacing: tuple[float, float]
    gap: float
    radius: tuple[float, float]
    wall: float
    joined: float
    rough: float = 0.08
    oblique: float = 0.2
    warp: float = 8.0
    goblets: float = 0.0
    holes: float = 0.0
    solid: float = 0.0
    bare: float = 0.0


@dataclass(frozen=True)
class Tissue:
    """A kind of tissue.

    Attributes:
        mixes: nuclei per square millimetre, by region and type, besides the epithelium.
        rows: depths of the rows of epithelial nuclei below the outer border of the epithelium.
        spread: standard deviation of the depths.
        solid: whether epithelium that is deeper than the rows is full of nuclei, too.
        apart: room between epithelial nuclei, in micrometres.
        clusters: how strongly cells of a type keep together, except rare ones.
        varied: how much the numbers of immune and spindle cells in stroma vary by place.
        glands: how its glands are built; None if it has none.
    """

    mixes: Mapping[str, Mix]
    rows: tuple[float, ...] = (5.5,)
    spread: float = 0.9
    solid: bool = False
    apart: float = 0.8
    clusters: float = 0.6
    varied: float = 0.5
    glands: Glands | None = None

    def mix(self, region: str) -> Mix:
        """Return the nuclei per square millimetre of a region, by type."""
        return self.mixes.get(region, {})


_MUSCLE = {"connective": 1900.0, "lymphocyte": 25.0, "eosinophil": 5.0}
_LOOSE = {
    "connective": 900.0,
    "lymphocyte": 160.0,
    "plasma": 30.0,
    "eosinophil": 10.0,
    "neutrophil": 8.0,
}
_ELSEWHERE = {
    "muscle": _MUSCLE,
    "fat": {"connective": 180.0, "lymphocyte": 15.0},
    "debris": {"neutrophil": 350.0, "lymphocyte": 150.0, "epithelial": 60.0},
    "mucus": {"neutrophil": 15.0, "lymphocyte": 10.0},
    "blood": {"neutrophil": 25.0, "lymphocyte": 20.0},
    "lumen": {"neutrophil": 20.0},
}


def _mixes(stroma: Mix, epithelium: Mix) -> Mapping[str, Mix]:
    # Rules place as many epithelial nuclei as find room, if no number is asked for.
    epithelium = {"epithelial": 6500.0, **epithelium}
    return MappingProxyType({**_ELSEWHERE, "stroma": stroma, "epithelium": epithelium})


NORMAL = Tissue(
    mixes=_mixes(
        stroma={
            "connective": 3200.0,
            "lymphocyte": 2900.0,
            "plasma": 1100.0,
            "eosinophil": 160.0,
            "neutrophil": 50.0,
        },
        epithelium={"lymphocyte": 140.0, "eosinophil": 5.0},
    ),
    glands=Glands(spacing=(86, 78), gap=13, radius=(42, 6), wall=26, joined=0.3, goblets=0.8),
)
ADENOMA = Tissue(
    mixes=_mixes(
        stroma={
            "connective": 3000.0,
            "lymphocyte": 2300.0,
            "plasma": 900.0,
            "eosinophil": 220.0,
            "neutrophil": 90.0,
        },
        epithelium={"epithelial": 10500.0, "lymphocyte": 180.0, "neutrophil": 20.0},
    ),
    rows=(6.0, 12.0, 18.0),
    spread=2.2,
    apart=1.1,
    glands=Glands(
        spacing=(120, 84), gap=11, radius=(58, 10), wall=29, joined=0.5, rough=0.12, goblets=0.12
    ),
)
CARCINOMA = Tissue(
    mixes=_mixes(
        stroma={
            "connective": 3700.0,
            "lymphocyte": 1000.0,
            "plasma": 220.0,
            "eosinophil": 50.0,
            "neutrophil": 110.0,
        },
        epithelium={
            "epithelial": 9500.0,
            "lymphocyte": 150.0,
            "connective": 90.0,
            "neutrophil": 60.0,
        },
    ),
    rows=(6.5, 14.0, 21.0),
    spread=3.2,
    apart=1.3,
    solid=True,
    clusters=0.8,
    glands=Glands(
        spacing=(125, 116),
        gap=22,
        radius=(74, 24),
        wall=31,
        joined=0.62,
        rough=0.2,
        warp=16.0,
        goblets=0.02,
        holes=0.35,
        solid=0.2,
        bare=0.3,
    ),
)
LOOSE = Tissue(mixes=_mixes(stroma=_LOOSE, epithelium={}))
AGGREGATE = Tissue(
    mixes=_mixes(
        stroma={"lymphocyte": 11000.0, "plasma": 250.0, "connective": 500.0}, epithelium={}
    ),
    varied=0.0,
)
TISSUES = {"normal": NORMAL, "adenoma": ADENOMA, "carcinoma": CARCINOMA}

"""Names of the conditioning planes of networks, in groups that can be unknown separately."""

from __future__ import annotations

from ..annotations.regions import REGIONS_KNOWN
from ..annotations.types import EDGE, PLANES, TYPES
from ..job import PIXELS, PIXELS_KNOWN
from ..tools.sources import HISTOLOGIES

NUCLEI = (*TYPES[1:], EDGE)  # the planes that show nuclei
REGIONS = ("lumen", "epithelium", "stroma", "mucus", "blood")  # those that networks learn
ALL_PLANES = (*PLANES, *REGIONS, REGIONS_KNOWN, *PIXELS)
# How many nuclei of each type are wanted where a pixel lies (`layouts.conditions.amount`).
DENSITIES = tuple(f"density of {name}" for name in TYPES[1:])
LAYOUT_PLANES = (*REGIONS, REGIONS_KNOWN, *DENSITIES)
TISSUE_KNOWN = "tissue known"
# Where glands of which kind of tissue lie, and where that is known.
TISSUE_PLANES = (*HISTOLOGIES, TISSUE_KNOWN)

__all__ = [
    "ALL_PLANES",
    "DENSITIES",
    "HISTOLOGIES",
    "LAYOUT_PLANES",
    "NUCLEI",
    "PIXELS",
    "PIXELS_KNOWN",
    "REGIONS",
    "REGIONS_KNOWN",
    "TISSUE_KNOWN",
    "TISSUE_PLANES",
]

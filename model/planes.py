"""Names of the conditioning planes of networks, in groups that can be unknown separately."""

from __future__ import annotations

from ..annotations.regions import REGIONS_KNOWN
from ..annotations.types import EDGE, PLANES, TYPES
from ..job import PIXELS, PIXELS_KNOWN

NUCLEI = (*TYPES[1:], EDGE)  # the planes that show nuclei
REGIONS = ("lumen", "epithelium", "stroma", "mucus", "blood")  # those that networks learn
ALL_PLANES = (*PLANES, *REGIONS, REGIONS_KNOWN, *PIXELS)

__all__ = ["ALL_PLANES", "NUCLEI", "PIXELS", "PIXELS_KNOWN", "REGIONS", "REGIONS_KNOWN"]

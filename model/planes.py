"""Names of the conditioning planes of networks, in groups that can be unknown separately."""

from __future__ import annotations

from ..annotations.regions import REGIONS_KNOWN
from ..annotations.types import EDGE, PLANES, TYPES

NUCLEI = (*TYPES[1:], EDGE)  # the planes that show nuclei
REGIONS = ("lumen", "epithelium", "stroma", "mucus", "blood")  # those that networks learn
PIXELS_KNOWN = "pixels known"  # 1 where the picture itself is given
PIXELS = (PIXELS_KNOWN, "known red", "known green", "known blue")
ALL_PLANES = (*PLANES, *REGIONS, REGIONS_KNOWN, *PIXELS)

__all__ = ["ALL_PLANES", "NUCLEI", "PIXELS", "PIXELS_KNOWN", "REGIONS", "REGIONS_KNOWN"]

"""Names of the conditioning planes of networks, in groups that can be unknown separately."""

from __future__ import annotations

from ..annotations.types import EDGE, PLANES, TYPES
from ..job import PIXELS

NUCLEI = (*TYPES[1:], EDGE)  # the planes that show nuclei
REGIONS = ("lumen", "epithelium", "stroma", "mucus", "blood")
REGIONS_KNOWN = "regions known"  # 1 where it is told which region a pixel lies in
ALL_PLANES = (*PLANES, *REGIONS, REGIONS_KNOWN, *PIXELS)

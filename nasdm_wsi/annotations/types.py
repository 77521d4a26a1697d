"""The six nucleus types, their colours, and the names of the conditioning planes."""

from __future__ import annotations

import numpy as np

TYPES = (
    "background",
    "neutrophil",
    "epithelial",
    "lymphocyte",
    "plasma",
    "eosinophil",
    "connective",
)
PALETTE = np.array(
    [
        (255, 255, 255),
        (255, 165, 0),
        (0, 200, 0),
        (220, 20, 60),
        (0, 190, 255),
        (30, 60, 255),
        (255, 215, 0),
    ],
    np.uint8,
)
EDGE = "edge"  # pixels beside another nucleus or background
NUCLEI_KNOWN = "nuclei known"  # 1 where the types and edges are known
PLANES = (*TYPES[1:], EDGE, NUCLEI_KNOWN)

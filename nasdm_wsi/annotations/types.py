"""Nucleus types: their names, colours and aliases, and the planes made from them.

A new type is a new row of `_ROWS`. Numbers are Lizard's: a row's place is its number.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np

# Name, colour, other names of the class in annotation files.
_ROWS = (
    ("background", (255, 255, 255), ""),
    ("neutrophil", (255, 165, 0), "polymorph, pmn"),
    (
        "epithelial",
        (0, 200, 0),
        "epithelium, neoplastic, neopla, non neoplastic epithelial, no neo, tumor, tumour, "
        "tumor nonmitotic, tumor any, malignant, cancer, normal epithelial, ductal epithelium, "
        "myoepithelium, glandular, surface epithelium, carcinoma, adenocarcinoma, adenoma, "
        "mitosis, mitotic figure, tumor mitotic",
    ),
    ("lymphocyte", (220, 20, 60), "lymph, til, stil, t cell, b cell, cd3, cd8, cd20"),
    ("plasma", (0, 190, 255), "plasmacyte"),
    ("eosinophil", (30, 60, 255), "eos"),
    (
        "connective",
        (255, 215, 0),
        "connec, stroma, stromal, nontil stromal, fibroblast, spindle, spindle shaped, "
        "endothelial, vascular endothelium, muscle, smooth muscle",
    ),
)
TYPES = tuple(name for name, _, _ in _ROWS)
ALIASES = {name: (name, *aliases.split(", ")) for name, _, aliases in _ROWS[1:]}
PALETTE = np.array([colour for _, colour, _ in _ROWS], np.uint8)

EDGE = "edge"  # pixels beside another nucleus or background
NUCLEI_KNOWN = "nuclei known"  # 1 where the types and edges are known
PLANES = (*TYPES[1:], EDGE, NUCLEI_KNOWN)

TISSUE = -1  # stands for the type number of tissue outlines
UNKNOWN = 255  # stands for the type number of classes that name no nuclei
LEFT_OUT = 254  # stands for the type number of classes whose nuclei are left out
TISSUE_CLASSES = ("Tissue", "Region*")
UNCLASSIFIED = "unclassified"  # the class of objects that have none
UNTYPED = "nuclei"  # the class of instances in files that know no classes


def plain_name(name: str) -> str:
    """Normalise a class name: case, hyphens, plural and a final "cells" make no difference.

    Nor does it matter how Unicode composes an accented letter, as macOS takes it apart.
    """
    words = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()
    # "T cells" keeps its noun: a lone letter could mean anything.
    words = re.sub(r"(?<=\w\w)( (cells?|nucleus|nuclei|tissue))+$", "", words)
    return words.removesuffix("s")

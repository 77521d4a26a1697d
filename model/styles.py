"""Hold a style within the stains that a network was trained on."""

from __future__ import annotations

import logging

import numpy as np

log = logging.getLogger(__name__)

REACH = 2.5  # standard deviations of the training styles; measured, see docs/styles.md
FAINTEST = 0.4  # of the training mean: below, a slide has no stain, or no contrast

STAINS = ("haematoxylin", "eosin", "residual colour")
NUMBERS = (*STAINS, *(f"variation of {stain}" for stain in STAINS))
RESIDUAL = NUMBERS.index("residual colour")  # the one amount that may be zero or negative


def held(style: np.ndarray, *, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """The style (6,), each number moved into the range that the training styles had.

    A warning says which numbers were moved. Beyond the range, a network paints nuclei black, the
    ground white, or another stain than it was asked for.

    Args:
        style: float32 (6,), in the order of `NUMBERS`.
        mean: of the training styles, float32 (6,).
        spread: their standard deviations, float32 (6,).
    """
    least, most = mean - REACH * spread, mean + REACH * spread
    faintest = FAINTEST * mean
    faintest[RESIDUAL] = least[RESIDUAL]
    inside = np.clip(style, np.maximum(least, faintest), most).astype(np.float32)
    moves = [
        f"{name} from {asked:.2f} to {used:.2f}"
        for name, asked, used in zip(NUMBERS, style, inside, strict=True)
        if asked != used
    ]
    if moves:
        log.warning(
            "the stain asked for lies outside those that the network was trained on: moved %s",
            ", ".join(moves),
        )
    return inside

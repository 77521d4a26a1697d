"""The limits of a style: the range of stains that a network was trained on."""

from __future__ import annotations

import logging

import numpy as np
from skimage import color

log = logging.getLogger(__name__)

REACH = 2.75  # standard deviations of the training styles; docs/styles.md says why
FAINTEST = 0.33  # of the training mean: below, a slide has no stain, or no contrast

STAINS = ("haematoxylin", "eosin", "residual colour")
NUMBERS = (*STAINS, *(f"variation of {stain}" for stain in STAINS))
RESIDUAL = NUMBERS.index("residual colour")  # the one amount that may be zero or negative


def held(style: np.ndarray, *, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return the style (6,) with each number limited to the range of the training styles.

    Residual colour beyond the range is replaced by the two stains, in the mixture nearest in
    colour, so that the slide does not become lighter. A warning says which numbers were changed.
    Beyond the range, a network paints black nuclei, a white background, or another stain than
    requested.

    Args:
        style: float32 (6,), in the order of `NUMBERS`.
        mean: of the training styles, float32 (6,).
        spread: their standard deviations, float32 (6,).
    """
    least, most = mean - REACH * spread, mean + REACH * spread
    amount = np.arange(len(NUMBERS)) != RESIDUAL
    least = np.where(amount, np.maximum(least, FAINTEST * mean), least)
    beyond = style[RESIDUAL] - np.clip(style[RESIDUAL], least[RESIDUAL], most[RESIDUAL])
    inside = style.copy()
    if beyond:
        inside[:2] += beyond * _in_stains()
    inside = np.clip(inside, least, most).astype(np.float32)
    told = zip(NUMBERS, map(_text, style), map(_text, inside), strict=True)
    moves = [f"{name} from {asked} to {used}" for name, asked, used in told if asked != used]
    if moves:
        log.warning(
            "the requested stain lies outside the range that the network was trained on: "
            "changed %s",
            ", ".join(moves),
        )
    return inside


def _in_stains() -> np.ndarray:
    """Amounts of haematoxylin and eosin that absorb light most nearly as one of the residual."""
    return np.linalg.lstsq(color.rgb_from_hed[:2].T, color.rgb_from_hed[2], rcond=None)[0]


def _text(number: float) -> str:
    return f"{number:.2f}"

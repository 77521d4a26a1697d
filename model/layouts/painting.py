"""Painting the map of nuclei of one box separately, as a function of seed, place and planes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...geometry import Box, grow, shape
from ...job import Window
from ...mosaic.noise import noise
from ..painter import Painter
from .encoding import CHANNELS

Planes = Callable[[Box], np.ndarray]
"""The planes of a painter, float32 (planes, h, w), of any box."""


def paint_map(painter: Painter, box: Box, planes: Planes, *, seed: int) -> np.ndarray:
    """Return the map of nuclei of a box, float32 (3, h, w).

    It is painted with all the context that its pixels depend on: the halo of the network for every
    step, so that a box alone equals the same box of a larger one. The corners of the box are
    multiples of the network's grid.
    """
    steps = len(painter.sigmas) - 1
    view = grow(box, painter.cut.halo * steps)
    window = Window(
        box=view,
        wanted=box,
        state=painter.start(noise(view, seed=seed)),
        planes=planes(view),
        tissue=np.ones(shape(view), bool),
        noise=lambda step: noise(view, seed=seed, step=step),
    )
    return painter.solve((0, steps), [window])[0][:CHANNELS]

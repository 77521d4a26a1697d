"""The painting of a map of nuclei for one box, by itself: a function of seed, place and planes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ...geometry import Box, grow, inside, shape
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
    view = grow(box, painter.halo * len(painter.sigmas[1:]))
    told = planes(view)
    state = painter.start(noise(view, seed=seed))
    for phase, (first, last) in enumerate(painter.phases):
        wanted = grow(view, -painter.halo * (last - first))
        window = Window(
            box=view,
            wanted=wanted,
            state=state,
            planes=told,
            tissue=np.ones(shape(view), bool),
            noise=partial(_noise, view, seed),
        )
        state = painter.solve(phase, [window])[0]
        told = told[:, *inside(wanted, view)]
        view = wanted
    return state[:CHANNELS]


def _noise(box: Box, seed: int, step: int) -> np.ndarray:
    return noise(box, seed=seed, step=step)

"""The data that all stages of a render share, and what is left to paint of each block."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import scipy

from ..geometry import Block, Box, shape
from ..job import Job, Window
from .noise import noise
from .store import RunStore


class Canvas:
    """The data that all stages share: the job, the store, the noise, and what is left to paint."""

    def __init__(self, job: Job, store: RunStore):
        self.job, self.plan, self.painter, self.store = job, job.plan, job.painter, store
        self._glass: dict[Block, bool] = {}
        self._unpainted: dict[Block, list[Box]] = {}

    def noise(self, box: Box, *, step: int | None = None) -> np.ndarray:
        """Return unit noise (3, h, w) of a box, for a solver step or for the start."""
        return noise(box, seed=self.job.seed, step=step)

    def window(self, core: Box, state: np.ndarray) -> Window:
        """Return the input of the painter for a core; its window has state (channels, h, w)."""
        box = self.plan.window(core)
        return Window(
            box=box,
            wanted=self.plan.reached(core),
            state=state,
            planes=self.job.planes(box),
            tissue=self.job.tissue(box),
            noise=lambda step: self.noise(box, step=step),
        )

    def is_glass(self, block: Block) -> bool:
        """Return whether nothing has to be painted where the block contributes."""
        if block not in self._glass:
            self._glass[block] = self.job.is_glass(self.plan.part(block))
        return self._glass[block]

    def known_pixels(self, box: Box) -> np.ndarray:
        """Return the known pixels of a box, uint8 (h, w, 3), in a job that has some."""
        return self.job.known.pixels(box)  # type: ignore[union-attr]

    def cores(self, block: Block) -> list[Box]:
        """Return the cores of a block's windows, or boxes round its pixels that are not known."""
        if self.job.known is None:
            return self.plan.cores(block)
        if block not in self._unpainted:
            self._unpainted[block] = self._boxes_to_paint(self.plan.core(block))
        return self._unpainted[block]

    def _boxes_to_paint(self, core: Box) -> list[Box]:
        """Return boxes, on the grid of the plan, that hold all unknown pixels of a core.

        Pixels whose windows would overlap lie in one box.
        """
        pixels = self.job.unknown(core)
        if not pixels.any():
            return []
        grid = self.plan.grid
        h, w = (n // grid for n in shape(core))
        unknown = pixels.reshape(h, grid, w, grid).any(axis=(1, 3))
        near = scipy.ndimage.maximum_filter(unknown, 1 + 2 * (self.plan.margin // grid))
        groups, _ = scipy.ndimage.label(near, np.ones((3, 3)))
        found = scipy.ndimage.find_objects(groups * unknown)
        return [
            tuple(side * grid + core[k % 2] for k, side in enumerate(sides))
            for rows, columns in found
            for sides in [(rows.start, columns.start, rows.stop, columns.stop)]
        ]

    def is_settled(self, block: Block) -> bool:
        """Return whether nothing has to be painted in a block: it is glass, or known."""
        return self.is_glass(block) or not self.cores(block)

    @cached_property
    def glass_colour(self) -> np.ndarray:
        """The one colour of glass, uint8 (3,)."""
        done = self.plan.phases[-1][1]
        return self.painter.finish(self.painter.glass(done, self.noise((0, 0, 1, 1))))[0, 0]

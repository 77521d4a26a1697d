"""Reports about a running render: its progress, and a thumbnail of the finished part."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from PIL import Image

from ..errors import disk_errors
from ..geometry import Box, intersect, shape
from ..output import replacing
from ..provenance import png_text
from .engine import Mosaic
from .schedule import Task

Progress = Callable[[str, int, int], None]


class Watch:
    """A reporter that reports each finished task and updates a thumbnail of the finished part."""

    SIDE = 1024  # pixels of the thumbnail, at most
    SECONDS = 5.0  # between two writings of it

    def __init__(self, mosaic: Mosaic, progress: Progress | None):
        self.mosaic, self.progress, self.shown = mosaic, progress, time.monotonic()
        self.region = mosaic.job.region
        h, w = shape(self.region)
        self.step = -(-max(h, w) // self.SIDE)
        self.text = png_text(mosaic.job.provenance)
        self.path = mosaic.store.folder / "thumbnail.png"
        self.picture = np.full((-(-h // self.step), -(-w // self.step), 3), 255, np.uint8)
        with suppress(OSError, ValueError):  # that of the run that was stopped
            self.picture[:] = np.array(Image.open(self.path))

    def __call__(self, task: Task, done: int, total: int) -> None:
        if box := self.mosaic.finished_by(task):
            self._add(intersect(box, self.region))
        if self.progress:
            self.progress("painting", done, total)

    def _add(self, box: Box) -> None:
        """Add every n-th pixel of a finished box to the thumbnail."""
        y0, x0 = box[:2]
        top, left = self.region[:2]
        first = -(y0 - top) % self.step, -(x0 - left) % self.step
        seen = self.mosaic.canvas_pixels(box)[first[0] :: self.step, first[1] :: self.step]
        i, j = (y0 - top + first[0]) // self.step, (x0 - left + first[1]) // self.step
        self.picture[i : i + seen.shape[0], j : j + seen.shape[1]] = seen
        if time.monotonic() - self.shown > self.SECONDS:
            self.shown = time.monotonic()
            # PermissionError: on Windows, while somebody looks at it.
            with disk_errors(self.path.parent), suppress(PermissionError):
                with replacing(self.path, flush=False) as part:
                    Image.fromarray(self.picture).save(part, "PNG", pnginfo=self.text)

"""A slide of the page: its tiles, the nuclei and regions over them, and what is known about it."""

from __future__ import annotations

import io
import math
from contextlib import suppress
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any

import numpy as np
from PIL import Image
from werkzeug.exceptions import Gone, NotFound

from ..annotations.regions import PALETTE, REGIONS
from ..geometry import Box, grow, intersect, shape
from ..provenance import is_synthetic, legible_facts
from ..rendering import read_annotations
from ..slides.formats import labels_path
from ..slides.reading import open_slide
from .overlay import Overlay

TILE = 512  # side of a tile in pixels of its level
OVERLAP = 1  # pixels of its neighbours that a tile shows, so that no seam is visible
CELL = 2  # side of a cell in which nuclei are counted, in pixels of its level
OUTLINED = 2  # levels below the top with outlines; on those further down, nuclei are counted
REDUCED = 3  # levels made from the slide's smallest at most, which bounds the memory of a tile
READERS = 8  # threads that may read a slide at the same time
FILLED, BORDER = 50, 255  # opacity of regions and of their borders, of 255


class Shown:
    """One slide of the page: its tiles, its nuclei and what is known about it."""

    def __init__(self, path: Path, labels: Path | None, reading: dict[str, Any]):
        self.labels, self._reading = labels, reading
        self.slide = open_slide(path)
        self.mpp = self.slide.mpp
        self.slide.mpp = self._unit = self.mpp or 1.0  # if it is unknown, pixels are the unit
        longest, smallest = max(self.slide.size), max(self.slide.levels[-1])
        self.top = math.ceil(math.log2(longest))
        below = max(math.log2(longest / TILE), 0), math.log2(longest / smallest) + REDUCED
        self.bottom = self.top - math.ceil(min(below))
        self._readers = READERS if self.slide.thread_safe else 1
        self._turn = Semaphore(self._readers)
        self._loading = Lock()
        self._overlay: Overlay | None = None

    def close(self) -> None:
        """Close the slide as soon as no thread reads it; no thread can read it afterwards."""
        for _ in range(self._readers):
            self._turn.acquire()
        self.slide.__exit__()

    def check_there(self) -> None:
        """Refuse a request for a slide that was deleted, instead of sending blank tiles."""
        if not self.slide.path.exists():
            raise Gone(f"{self.slide.path.name} was deleted or moved: put it back, or view others")

    def about(self) -> dict[str, Any]:
        """Return the facts that the page loads first."""
        self.check_there()
        height, width = self.slide.size
        description = self.slide.description
        facts = legible_facts(description) or [("description", description)] * bool(description)
        return {
            "name": self.slide.path.name,
            "width": width,
            "height": height,
            "mpp": self.mpp,
            "tile": TILE,
            "overlap": OVERLAP,
            "cell": CELL,
            "levels": [self.bottom, self.top],
            "outlined": self.top - OUTLINED,
            "labels": self.labels and self.labels.name,
            "synthetic": is_synthetic(description),
            "facts": [*self._size(), *facts],
            "changed": [_changed(path) for path in (self.slide.path, self.labels) if path],
        }

    def tile(self, level: int, x: int, y: int) -> bytes:
        """Return a tile as JPEG, with ``OVERLAP`` except at the edges of the slide."""
        box, down = self._box(level, x, y)
        seen = self._with_overlap(box, down)
        with self._turn:
            pixels = self.slide.read(seen, mpp=self._unit * down)
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "JPEG", quality=90, subsampling=0)
        return encoded.getvalue()

    def outlines(self, level: int, x: int, y: int) -> bytes:
        """Return the outlines that touch a tile; see `Overlay.outlines`."""
        box, down = self._box(level, x, y)
        if level < self.top - OUTLINED:
            raise NotFound
        return self.overlay.outlines(box, down=down)

    def counts(self, level: int, x: int, y: int) -> bytes:
        """Return the number of nuclei in each cell of a tile; see `Overlay.counts`."""
        box, down = self._box(level, x, y)
        return self.overlay.counts(box, cell=CELL * down).tobytes()

    def regions(self, level: int, x: int, y: int) -> bytes:
        """Return the regions of a tile as a transparent PNG, which has the size of the tile."""
        box, down = self._box(level, x, y)
        picture = Image.fromarray(self.overlay.regions(self._with_overlap(box, down), down=down))
        picture.putpalette(_COLOURS)
        encoded = io.BytesIO()
        picture.save(encoded, "PNG", transparency=_OPACITIES)
        return encoded.getvalue()

    @property
    def overlay(self) -> Overlay:
        """Nuclei and regions in slide pixels.

        They are read at the first request, because a million nuclei take a while.
        """
        if self.labels is None:
            raise NotFound
        with self._loading:
            if self._overlay is None:
                reading = {"mpp": self._unit, "may_be_empty": True, **self._reading}
                nuclei = read_annotations(self.labels, **reading)
                self._overlay = Overlay(nuclei.shifted(*self.slide.bounds))
        return self._overlay

    def _box(self, level: int, x: int, y: int) -> tuple[Box, int]:
        """Return the slide pixels of a tile, and the factor by which it reduces them."""
        if not self.bottom <= level <= self.top:
            raise NotFound
        down = 2 ** (self.top - level)
        side = TILE * down
        box = (y * side, x * side, (y + 1) * side, (x + 1) * side)
        if not all(shape(intersect(box, (0, 0, *self.slide.size)))):
            raise NotFound
        return box, down

    def _with_overlap(self, box: Box, down: int) -> Box:
        """Return the pixels of its level that a tile shows."""
        y0, x0, y1, x1 = (n // down for n in box)
        height, width = (math.ceil(n / down) for n in self.slide.size)
        return intersect(grow((y0, x0, y1, x1), OVERLAP), (0, 0, height, width))

    def _size(self) -> list[tuple[str, str]]:
        height, width = self.slide.size
        rows = [("pixels", f"{width:,} × {height:,}")]
        if self.mpp:
            millimetres = (f"{n * self.mpp / 1000:.2f}" for n in (width, height))
            rows.append(("size", "{} × {} mm".format(*millimetres)))
            rows.append(("pixel size", f"{self.mpp:g} µm"))
        return [*rows, ("format", self.slide.format)]


# Of the numbers that `Overlay.regions` returns.
_COLOURS = np.concatenate([PALETTE, PALETTE[1:]]).tobytes()
_OPACITIES = bytes([0, *[FILLED] * len(REGIONS), *[BORDER] * len(REGIONS)])


def _changed(path: Path) -> int:
    """Return the time of the last change of a file; 0 if it was deleted."""
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return 0


def labels_beside(slide: Path) -> Path | None:
    """Return the annotations beside a slide, if there are any."""
    labels = labels_path(slide)
    return labels if labels.is_file() else None

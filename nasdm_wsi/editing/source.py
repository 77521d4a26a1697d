"""The slide that is edited, as the known pixels of a job."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import shapely
from scipy import ndimage

from ..annotations.raster import Cover
from ..errors import OutputError, PlanError
from ..geometry import Box, grow, inside
from ..job import Job
from ..slides.reading import Slide, open_slide
from ..slides.tissue import tissue_mask

TISSUE = 0.6  # share of the surroundings of a nucleus that has to be tissue
FADE = 4  # pixels inside the border of the area over which the slide fades
BEYOND = 64  # pixels beyond the edge of the slide, near the area, that are painted and not shown
MOST_BOXES = 1000  # areas whose places stand in the provenance


@dataclass(frozen=True)
class EditedSlide:
    """A slide whose pixels are known except in an area; what `job.Known` asks for.

    Attributes:
        path: of the slide.
        mpp: micrometres per pixel of the canvas.
        own_mpp: pixel size of the slide, if it is brought to that of the canvas; None if its own
            pixels are used.
        corner: (y, x) of the canvas on the slide, in pixels of the canvas.
        area: polygons in canvas pixels; the pixels inside are painted.
        cells: (height, width) of the cells that a copy of the slide is changed in, of which the
            area consists; None if the slide is written anew.
        digest: SHA-256 of the file, in hexadecimal digits.
        size: (h, w) of the canvas.
    """

    path: Path
    mpp: float
    own_mpp: float | None
    corner: tuple[int, int]
    area: shapely.Geometry
    cells: tuple[int, int] | None
    digest: str
    size: tuple[int, int]

    def mask(self, box: Box) -> np.ndarray:
        """Return bool (h, w): the pixels outside the area.

        Where the area touches the edge of the slide, pixels beyond the edge are not known either:
        white would be painted as glass there.
        """
        return ~self._cover.mask(box)

    def pixels(self, box: Box) -> np.ndarray:
        """Return the pixels of the slide, uint8 (h, w, 3); beyond it they are white."""
        slide, lock = self._open
        y, x = self.corner
        place = box[0] + y, box[1] + x, box[2] + y, box[3] + x
        with lock:
            return slide.read(place, mpp=self.mpp if self.own_mpp else slide.mpp or self.mpp)

    def finished(self, box: Box, painted: np.ndarray) -> np.ndarray:
        """Return the slide's pixels, uint8 (h, w, 3), and in the area those painted.

        Inside the border of the area, the slide fades into what is painted, because networks paint
        a fine line at the border of what they know.
        """
        source, share = self.pixels(box), self.share(box)
        return np.rint(source + share * (painted.astype(np.float32) - source)).astype(np.uint8)

    def share(self, box: Box) -> np.ndarray:
        """Return how far pixels are painted, float32 (h, w, 1): from 0 outside the area to 1."""
        frame = grow(box, FADE + 1)
        depth = ndimage.distance_transform_edt(~self.mask(frame))[inside(box, frame)]
        return np.clip(depth / (FADE + 1), 0, 1).astype(np.float32)[..., None]

    @property
    def synthetic(self) -> shapely.Geometry:
        """The area that may differ from the slide: what is painted, and pixels that JPEG mixes in.

        Decoders mix the colours of neighbouring JPEG blocks over one pixel if chroma has half the
        resolution.
        """
        mixed = self.cells not in (None, (1, 1), (8, 8))
        return self.area.buffer(1, join_style="mitre") if mixed else self.area

    @property
    def facts(self) -> dict[str, Any]:
        """The name and digest of the file, the area, and the change of the pixel size, if any.

        ``boxes`` are the (y0, x0, y1, x1) of its parts, if there are at most a thousand.
        """
        bounds = shapely.bounds(shapely.get_parts(self.area))[:, [1, 0, 3, 2]]
        facts = {
            "source": self.path.name,
            "SHA-256": self.digest,
            "area": hashlib.sha256(shapely.to_wkb(self.area)).hexdigest()[:16],
            "parts": len(bounds),
        }
        if self.own_mpp:
            facts |= {"brought to mpp": self.mpp, "from mpp": self.own_mpp}
        if len(bounds) <= MOST_BOXES:
            facts["boxes"] = bounds.round(2).tolist()
        return facts

    @property
    def sources(self) -> tuple[Path, ...]:
        """The file that is read."""
        return (self.path,)

    @cached_property
    def _cover(self) -> Cover:
        height, width = self.size
        beyond = self.area.buffer(BEYOND, join_style="mitre") - shapely.box(0, 0, width, height)
        return Cover(self.area | beyond)

    @cached_property
    def _open(self) -> tuple[Slide, Lock]:
        return open_slide(self.path), Lock()

    def __getstate__(self) -> dict[str, Any]:
        # Each process opens the slide for itself.
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


def sha256(path: Path) -> str:
    """Return the digest of a file, or of all files in a folder in the order of their names."""
    if path.is_dir():
        digest = hashlib.sha256()
        for part in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{part.relative_to(path)} {sha256(part)}\n".encode())
        return digest.hexdigest()
    status = path.stat()
    return _sha256_of_file(path, status.st_mtime_ns, status.st_size)


@lru_cache
def _sha256_of_file(path: Path, changed: int, size: int) -> str:
    """Return the digest of a file as it was when it was last changed; kept for further edits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def on_tissue(path: Path, mpp: float) -> Callable[[shapely.Polygon], bool]:
    """Return a test whether an outline, in pixels of ``mpp``, would lie on tissue of a slide."""
    slide = open_slide(path)
    scale = mpp / (slide.mpp or mpp)
    y, x = (n / scale for n in slide.bounds)

    def fits(outline: shapely.Polygon) -> bool:
        x0, y0, x1, y1 = (round(n) for n in outline.bounds)
        box = round(y) + y0, round(x) + x0, round(y) + y1 + 1, round(x) + x1 + 1
        h, w = (round(n / scale) for n in slide.shown)
        if min(y0, x0) < 0 or y1 >= h or x1 >= w:
            return False
        return bool(tissue_mask(slide.read(box, mpp=mpp)).mean() > TISSUE)

    return fits


def edited_slide(job: Job) -> EditedSlide:
    """Return the slide that a job edits; `PlanError` if it edits none."""
    if not isinstance(job.known, EditedSlide):
        raise PlanError("this job is not an edit: make it with plan_edit")
    return job.known


def check_apart(source: Path, out: Path) -> None:
    """Refuse an output inside a slide that is a folder, by an `OutputError`."""
    if source.resolve() in out.resolve().parents:
        raise OutputError(f"{out} lies in the input {source}: choose a place outside")

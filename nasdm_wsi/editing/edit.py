"""Planning and painting of edits."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely

from ..annotations.nuclei import Nuclei
from ..errors import PlanError
from ..geometry import Box
from ..job import Job, Painter
from ..rendering import plan_render, render_region
from ..slides.reading import open_slide
from .source import EditedSlide

SAME_MPP = 1.1  # a slide whose pixels are at most so much larger or smaller is edited in them


def plan_edit(
    path: str | Path,
    nuclei: Nuclei,
    area: shapely.Geometry,
    painter: Painter,
    *,
    seed: int = 0,
    mpp: float | None = None,
    region: Box | None = None,
) -> Job:
    """Plan an edit of a slide; nothing is written yet.

    A slide whose pixel size is within 10 % of the painter's is edited in its own pixels; any other
    is brought to the painter's pixel size.

    Args:
        path: of the slide.
        nuclei: as they shall be, in pixels of any size, counted from the corner of the slide that
            QuPath shows. Outlines of tissue are ignored.
        area: polygons in pixels of ``nuclei``, to be painted anew.
        painter: one that takes known pixels.
        seed: of the noise.
        mpp: pixel size of a slide that does not state its own.
        region: the box (y0, x0, y1, x1) of the canvas to show; by default all.

    Raises:
        SlideError: the slide cannot be read, or its pixel size is unknown.
        PlanError: the area is empty or outside the slide, or the painter takes no known pixels.
    """
    with open_slide(path) as slide:
        own = slide.known_mpp(mpp)
        same = max(own / painter.mpp, painter.mpp / own) <= SAME_MPP
        canvas_mpp = own if same else painter.mpp
        scale = own / canvas_mpp
        height, width = (max(round(n * scale), 1) for n in slide.shown)
        y, x = (round(n * scale) for n in slide.bounds)
    scale = nuclei.mpp / canvas_mpp
    area = shapely.transform(area, lambda xy: xy * scale) & shapely.box(0, 0, width, height)
    if area.is_empty:
        raise PlanError(f"{path}: no part of the slide lies in the area of the edit")
    # The painter takes the slide's pixels as they are, so its nuclei count as of its pixel size.
    nuclei = replace(nuclei.scaled(canvas_mpp), mpp=painter.mpp, tissue=None)
    job = plan_render(nuclei, painter, size=(height, width), region=region, seed=seed)
    known = EditedSlide(Path(path), None if same else canvas_mpp, (y, x), area, sha256(Path(path)))
    return replace(job, known=known)


def sha256(path: Path) -> str:
    """Return the digest of a file, or of all files in a folder in the order of their names."""
    if path.is_dir():
        digest = hashlib.sha256()
        for part in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{part.relative_to(path)} {sha256(part)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def edit_region(
    slide: str | Path, box: Box, nuclei: Nuclei, painter: Painter, *, seed: int = 0
) -> np.ndarray:
    """Paint a box of a slide anew from ``nuclei``, and fit it to the pixels around.

    Args:
        slide: its path.
        box: (y0, x0, y1, x1) in pixels of ``nuclei``.
        nuclei, painter, seed: as in `plan_edit`.

    Returns:
        The box, uint8 (h, w, 3), at the pixel size of the edit.
    """
    y0, x0, y1, x1 = box
    job = plan_edit(slide, nuclei, shapely.box(x0, y0, x1, y1), painter, seed=seed)
    x0, y0, x1, y1 = job.known.area.bounds  # type: ignore[union-attr]
    region = (math.floor(y0), math.floor(x0), math.ceil(y1), math.ceil(x1))
    return render_region(replace(job, region=region))

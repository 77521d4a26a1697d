"""The path from a real slide to the edited one.

`plan_edit` says which pixels are known and which are to be repainted; `edit` paints them and writes
the slide. If the output has the suffix of the source and the source is a tiled TIFF of a usual
kind, the output is a copy in which only the tiles that show the edit change (`slides.patched`).
Otherwise the whole slide is written again with lossless compression.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely

from ..annotations.geojson import foreign_members
from ..annotations.nuclei import Nuclei
from ..delivery import (
    MATCHED,
    check_disk,
    check_output,
    described,
    finish_cleaning,
    nuclei_digest,
    run_folder,
    write_labels,
)
from ..errors import PlanError, SlideError
from ..geometry import Box, grow, inside, intersect, joined, shape
from ..job import Job, Painter
from ..mosaic.painting import painted
from ..mosaic.watch import Progress
from ..output import whole_or_nothing
from ..provenance import provenance
from ..rendering import plan_render, render_region
from ..slides import patched
from ..slides.formats import format_of, stem
from ..slides.reading import open_slide
from ..slides.stain import style_vector
from ..slides.tiling import Rows
from .areas import box_of, holds_pixel, widened
from .changes import Changes, unchanged
from .matching import MEASURED, Pixels, matched
from .source import EditedSlide, check_apart, edited_slide, sha256

SAME_MPP = 1.1  # a slide whose pixels are at most so much larger or smaller is edited in them
STYLE_TILES, STYLE_SIDE = 8, 768  # tiles round the area on which stain is measured, and their side


log = logging.getLogger(__name__)


class StyledPainter(Painter, Protocol):
    """A painter whose stain can be chosen, such as `nasdm_wsi.model.Painter`."""

    def restyled(self, style: np.ndarray) -> Painter:
        """Return the same painter with another style vector (6,)."""


def plan_edit(
    path: str | Path,
    nuclei: Nuclei,
    area: shapely.Geometry,
    painter: StyledPainter,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    mpp: float | None = None,
    local_style: bool = True,
) -> Job:
    """Plan an edit of a slide; nothing is written yet.

    A slide whose pixel size is within 10 % of the painter's is edited in its own pixels; any other
    is brought to the painter's pixel size.

    Args:
        path: of the slide.
        nuclei: those of the edited slide, in pixels of any size, counted from the corner of the
            slide that QuPath shows. Outlines of tissue are ignored.
        area: polygons in pixels of ``nuclei``, to be repainted.
        painter: one that takes known pixels.
        out: the output. If a copy of the slide can be changed into it, the area is widened to whole
            JPEG blocks.
        seed: of the noise.
        mpp: pixel size of a slide that does not state its own.
        local_style: paint in the stain of the slide round the area, and not in that of the painter;
            a warning says so if there is none.

    Raises:
        OutputError: ``out`` lies in the slide, which is a folder.
        SlideError: the slide cannot be read, or its pixel size is unknown.
        PlanError: the area is empty or outside the slide, or the painter takes no known pixels.
    """
    path = Path(path)
    if out is not None:
        check_apart(path, Path(out))
    with open_slide(path) as slide:
        own, whole = slide.known_mpp(mpp), slide.shown == slide.size
        resampled = max(own / painter.mpp, painter.mpp / own) > SAME_MPP
        canvas_mpp = painter.mpp if resampled else own
        scale = own / canvas_mpp
        height, width = (max(round(n * scale), 1) for n in slide.shown)
        y, x = (round(n * scale) for n in slide.bounds)
    cells = None
    if out is not None and not resampled and whole and _ending(path) == _ending(Path(out)):
        cells = patched.grid_of(path)
    if resampled:
        log.warning(
            "%s: edited at %g mpp, the pixel size of the weights; the slide has %g",
            path,
            canvas_mpp,
            own,
        )
    area = shapely.transform(area, lambda xy: xy * (nuclei.mpp / canvas_mpp))
    known = EditedSlide(
        path,
        mpp=canvas_mpp,
        own_mpp=own if resampled else None,
        corner=(y, x),
        area=_painted_area(path, area, cells, (height, width)),
        cells=cells,
        digest=sha256(path),
        size=(height, width),
    )
    # The painter takes the slide's pixels as they are, so its nuclei count as of its pixel size.
    shown = _as_of(replace(nuclei.scaled(canvas_mpp), tissue=None), painter.mpp)
    styled = _in_local_style(painter, known) if local_style else painter
    return replace(plan_render(shown, styled, size=known.size, seed=seed), known=known)


def _painted_area(
    path: Path, area: shapely.Geometry, cells: tuple[int, int] | None, size: tuple[int, int]
) -> shapely.Geometry:
    """Return an area that is cut at the canvas of ``size`` (h, w) and widened to whole cells.

    Raises:
        PlanError: no pixel of the slide lies in it.
    """
    height, width = size
    area = area & shapely.box(0, 0, width, height)
    if not area.area or not holds_pixel(area, size):
        raise PlanError(
            f"{path}: no part of the slide lies in the area of the edit, or not one whole pixel: "
            "draw a larger area on the slide"
        )
    return area if cells in (None, (1, 1)) else widened(area, cells, size)


def _as_of(nuclei: Nuclei, mpp: float) -> Nuclei:
    """Return nuclei and regions with the same coordinates, which count as pixels of ``mpp``."""
    regions = None if nuclei.regions is None else replace(nuclei.regions, mpp=mpp)
    return replace(nuclei, mpp=mpp, regions=regions)


def _ending(path: Path) -> str:
    return path.name[len(stem(path)) :].lower().replace(".tiff", ".tif")


def style_round(known: EditedSlide) -> np.ndarray | None:
    """Return the style vector (6,) of the slide at and round the area; None if it is all blank."""
    parts = shapely.get_parts(known.area)
    chosen = np.random.default_rng(0).permutation(len(parts))[:STYLE_TILES]
    tiles = []
    for part in parts[chosen]:
        x, y = (round(n) - STYLE_SIDE // 2 for n in (part.centroid.x, part.centroid.y))
        tiles.append(known.pixels((y, x, y + STYLE_SIDE, x + STYLE_SIDE)))
    try:
        return style_vector(np.stack(tiles))
    except SlideError:
        return None


def _in_local_style(painter: StyledPainter, known: EditedSlide) -> Painter:
    """Return a painter in the stain of the slide round the area; warn if it shows none."""
    style = style_round(known)
    if style is not None:
        return painter.restyled(style)
    log.warning(
        "%s: no tissue near the edit shows a stain, so the default stain is used: choose one "
        "with `style`",
        known.path,
    )
    return painter


def edit(
    job: Job,
    out: str | Path,
    changes: Changes | None = None,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Paint a planned edit, and write the slide and ``NAME.geojson`` beside it.

    An edit that was stopped resumes when it is called again, as in `rendering.render`.

    Args:
        job: from `plan_edit` with the same ``out``.
        out: the slide; its suffix determines the format (`slides.formats`).
        changes: what differs from the slide, for the names of the nuclei in NAME.geojson.
        workers: how many threads paint; by default one for each core.
        overwrite: replace outputs that exist, and the state of another edit.
        progress: called as ``progress(what, done, total)`` after each task.

    Returns:
        How many pixels of blocks were painted.

    Raises:
        OutputError: as in `rendering.render`.
        SlideError: a tile of the slide cannot be changed without loss.
    """
    out, known = Path(out), edited_slide(job)
    if not overwrite and finish_cleaning(job, out, None):
        return 0
    check_output(out, overwrite=overwrite, inputs=job.sources)
    replaced = nuclei_digest(out)
    check_disk(out.parent, job.disk(workers) if known.cells is None else _copied_bytes(job))
    in_pixels = _named(job, changes)
    with painted(
        job, run_folder(out), workers=workers, overwrite=overwrite, progress=progress
    ) as mosaic:
        lines = in_pixels.features(known.synthetic)
        digest = write_labels(mosaic.store, out, lines, stated=_stated(job), replaced=replaced)
        pixels, match = matched(job, mosaic.pixels, gone=_gone(in_pixels))
        facts = described(job, None, labels=digest) | {MATCHED: asdict(match)}
        if known.cells is None:
            _write_anew(pixels, job, out, provenance(facts), progress)
        else:
            _write_copy(pixels, known, out, provenance(facts))
        mosaic.store.clear()
        return mosaic.painted


def _named(job: Job, changes: Changes | None) -> Changes:
    """Return the changes in pixels of the slide, with nuclei in the area as painted anew."""
    known = edited_slide(job)
    own = _as_of(job.nuclei, known.mpp)
    scaled = changes.scaled(known.mpp) if changes else unchanged(own)
    return scaled.painted_in(known.area)


def _stated(job: Job) -> dict[str, Any]:
    """Return the foreign members of the file of nuclei: the canvas is the slide."""
    known, regions = edited_slide(job), job.nuclei.regions
    height, width = (side * known.mpp for side in known.size)
    generated = regions is not None and regions.generated
    return foreign_members((height, width), mpp=known.mpp, generated=generated)


def _gone(changes: Changes) -> np.ndarray:
    """Return the outlines of nuclei that are not there after the edit, or not as they were."""
    return np.concatenate([changes.removed.polygons(), changes.earlier.polygons()])


def _copied_bytes(job: Job) -> int:
    """Return about how many bytes the copy of a slide and the state of the painted blocks need."""
    known = edited_slide(job)
    # A margin on each side, and the states of two phases in float32.
    painted = known.area.buffer(job.plan.margin).envelope.area
    blocks = len(shapely.get_parts(known.area)) * 4 * job.plan.block_side**2
    state = min(painted + 4 * job.plan.block_side**2, blocks) * job.painter.channels * 4 * 2
    return known.path.stat().st_size * 2 + int(state)


def _write_anew(
    pixels: Pixels, job: Job, out: Path, description: str, progress: Progress | None
) -> None:
    """Write the whole slide in the format of ``out``, without loss if the format allows it."""
    form = format_of(out)
    settings: dict[str, Any] = {"quality": 100, "lossless": True} if form.tiled else {}
    if progress:
        settings["progress"] = lambda done, total: progress("writing", done, total)
    rows = Rows(pixels, (*shape(job.region), 3))
    form.write(out, rows, mpp=edited_slide(job).mpp, description=description, **settings)


def _write_copy(pixels: Pixels, known: EditedSlide, out: Path, description: str) -> None:
    """Write a copy of the slide in which the area is changed."""
    with whole_or_nothing(out) as part:
        shutil.copyfile(known.path, part)
        patched.change(part, pixels, known.area)
        patched.describe(part, description)


def edit_region(
    slide: str | Path, box: Box, nuclei: Nuclei, painter: StyledPainter, *, seed: int = 0
) -> np.ndarray:
    """Repaint a box of a slide from ``nuclei``, and fit it to the pixels around.

    Args:
        slide: its path.
        box: (y0, x0, y1, x1) in pixels of ``nuclei``.
        nuclei: those that the box should show. A slide that does not state its pixel size is taken
            to have that of the nuclei.
        painter: one that takes known pixels.
        seed: of the noise.

    Returns:
        The box, uint8 (h, w, 3), at the pixel size of the edit.
    """
    y0, x0, y1, x1 = box
    with open_slide(slide) as source:
        mpp = None if source.mpp else nuclei.mpp
    job = plan_edit(slide, nuclei, shapely.box(x0, y0, x1, y1), painter, seed=seed, mpp=mpp)
    return edited(replace(job, region=box_of(edited_slide(job).area)))


def edited(job: Job, changes: Changes | None = None) -> np.ndarray:
    """Return the pixels of a planned edit in the region of the job, as `edit` writes them.

    The smallest box that holds the region, the area and `MEASURED` pixels round it is in memory.

    Args:
        job: from `plan_edit`.
        changes: as for `edit`.

    Returns:
        uint8 (h, w, 3).
    """
    measured = grow(box_of(edited_slide(job).area), MEASURED)
    read = intersect(joined(measured, job.region), (0, 0, *job.plan.size))
    whole = render_region(replace(job, region=read))
    gone = _gone(_named(job, changes))
    return matched(job, lambda box: whole[inside(box, read)], gone=gone)[0](job.region)

"""Layouts with generated or given regions: the function behind the command."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from ..annotations.canvas import check_canvas, label_image_fits, regions_on_canvas
from ..annotations.formats import read_contents, read_regions
from ..annotations.nuclei import check_mpp
from ..annotations.regions import Regions
from ..errors import OutputError, PlanError
from ..geometry import Box
from ..output import check_writable, keep_inputs
from ..rendering import stated_mpp
from .colon import Colon, Glands, Plan
from .densities import Densities
from .planfiles import read_plan
from .plans import SlidePlan
from .populate import Populated
from .source import Source
from .strip import Strip
from .writing import write_layout

log = logging.getLogger(__name__)

SUFFIXES = (".geojson", ".json")
MPP = 0.5  # micrometres per pixel of a canvas, unless another is given or stated
SLIDE = 4000.0  # micrometres: a larger canvas is laid out after the plan of a whole slide


def layout(
    out: str | Path,
    size: tuple[int, int] | None = None,
    *,
    mpp: float | None = None,
    seed: int = 0,
    tissue: str = "normal",
    plan: str | Path | None = None,
    regions: str | Path | Regions | None = None,
    like: str | Path | None = None,
    density: Iterable[str] = (),
    share: Iterable[str] = (),
    class_map: Mapping[str, str] | None = None,
    ignore_classes: Iterable[str] = (),
    populate: type[Populated] = Populated,
    glands: Glands | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: Callable[..., None] | None = None,
) -> dict[str, int]:
    """Write generated regions and nuclei of colon as GeoJSON; returns the numbers of nuclei.

    The same seed gives the same bytes, whatever ``workers``.

    Args:
        out: the file to write.
        size: height and width of the canvas in pixels of ``mpp`` micrometres; with ``regions``, by
            default the canvas that their file states. If it states none, the layout reaches as far
            as the regions and states no size, so that `render` crops the slide to them.
        mpp: by default that of the canvas which the file of ``regions`` states, or else 0.5.
        tissue: "normal", "adenoma" or "carcinoma": of a strip of the bowel wall, or of all glands
            in ``regions``.
        plan: which tissue lies where on the canvas, as a PNG or GeoJSON. Without it, a canvas of
            more than 4 millimetres a side follows the plan of a real slide.
        regions: drawn regions to fill with nuclei, in pixels of ``mpp``.
        like: annotated nuclei whose densities are taken, by region where they have regions; in
            pixels of the size that the file states, or else of ``mpp``.
        density: nuclei wanted in a square millimetre, as "eosinophil=120" or
            "stroma:eosinophil=120".
        share: multiples of what there would be, as "plasma=2x".
        class_map, ignore_classes: how ``regions`` and ``like`` are read, as in
            `formats.read_contents`; a label image of regions needs them.
        populate: the source of the nuclei: `Populated`, which follows rules, or another with the
            same arguments, such as `model.layouts.source.Learned`.
        glands: makes the painter of the glands, such as
            `model.layouts.region_source.LearnedGlands`; by default they follow rules.
        workers: number of processes.

    Raises:
        AnnotationError: a file, density or share that cannot be read.
        PlanError: no size, a plan that cannot be read, regions that all lie outside the canvas, or
            ``regions`` together with ``plan`` or ``glands``.
        OutputError: the file exists or cannot be written.
    """
    path = Path(out)
    given = [Path(p) for p in (plan, regions, like) if isinstance(p, str | Path)]
    check_new(path, overwrite=overwrite, inputs=given)
    if regions is not None:
        for other, value in (("plan", plan), ("glands", glands)):
            if value is not None:
                raise PlanError(
                    f"`{other}` has no effect on drawn regions: leave out `{other}` or `regions`"
                )
    if not 0 <= seed < 2**64:
        raise PlanError(f"seed {seed}: choose 0 to 2**64 - 1")
    mpp = _canvas_mpp(regions, mpp)
    named: dict[str, Any] = {"class_map": class_map, "ignore_classes": tuple(ignore_classes)}
    known = None
    if like is not None:
        known = read_contents(like, mpp=stated_mpp(like) or mpp, **named).checked()
    densities = Densities.parse(density, share, known)
    drawn, stated = _drawn(regions, mpp, named)
    known_size = size or stated
    pixels = known_size or _reach(drawn)
    check_canvas(pixels, None, drawn)
    canvas = (pixels[0] * mpp, pixels[1] * mpp)
    source: Source
    if drawn is None:
        ground = _ground(canvas, plan, mpp=mpp, tissue=tissue, seed=seed)
        source = Colon(ground, seed=seed, densities=densities, populate=populate, glands=glands)
    else:
        fits = label_image_fits(drawn, size) if size else []
        for warning in fits + regions_on_canvas(drawn, pixels, alone=True):
            log.warning("%s", warning)
        drawn = drawn.scaled(1.0)
        whole = (ceil(canvas[0]), ceil(canvas[1]))
        source = populate(
            partial(_within, drawn), seed=seed, tissue=tissue, densities=densities, canvas=whole
        )
    counts = write_layout(
        path,
        source,
        pixels,
        states_size=known_size is not None,
        mpp=mpp,
        seed=seed,
        regions=drawn,
        densities=densities,
        workers=workers,
        progress=progress,
    )
    if not any(counts.values()):
        log.warning(
            "%s has no nucleus: the canvas has no tissue where nuclei are wanted; check "
            "`regions`, `plan` and `density`",
            path,
        )
    return counts


def _canvas_mpp(regions: str | Path | Regions | None, mpp: float | None) -> float:
    """Return the pixel size of the canvas, with a warning if it is assumed or contradicted."""
    if not isinstance(regions, str | Path):
        return check_mpp(MPP if mpp is None else mpp, "`mpp`")
    stated = stated_mpp(regions)
    if stated is None and mpp is None:
        log.warning(
            "%s does not state its pixel size: %g micrometres are assumed; if that is wrong, give "
            "`mpp`",
            regions,
            MPP,
        )
    wanted = check_mpp((stated or MPP) if mpp is None else mpp, "`mpp`")
    if stated and wanted != stated:
        log.warning(
            "%s: the file states %g micrometres per pixel, but `mpp` is %g: leave it out to use "
            "that of the file",
            regions,
            stated,
            wanted,
        )
    return wanted


def _reach(drawn: Regions | None) -> tuple[int, int]:
    """Return the height and width that drawn regions reach."""
    if drawn is None:
        raise PlanError("the size of the canvas is unknown: give `size`")
    height, width = drawn.boxes()[:, 2:].max(axis=0)
    return ceil(height), ceil(width)


def _drawn(
    regions: str | Path | Regions | None, mpp: float, named: dict[str, Any]
) -> tuple[Regions | None, tuple[int, int] | None]:
    """Return the regions that are given, and the size of the canvas that their file states."""
    if regions is None or isinstance(regions, Regions):
        return regions and regions.scaled(mpp), None
    # A file may have nuclei as well, whose classes could be taken for those of regions.
    contents = read_contents(regions, mpp=mpp, **named)
    found = contents.nuclei.regions
    if found is None:
        found = read_regions(regions, mpp=mpp, **named)
    else:
        for warning in contents.findings.warnings:
            log.warning("%s: %s", regions, warning)
    return found, contents.nuclei.canvas_size


def _ground(
    canvas: tuple[float, float], plan: str | Path | None, *, mpp: float, tissue: str, seed: int
) -> Plan:
    """Return the plan of generated tissue for a canvas of a height and width in micrometres."""
    if plan is not None:
        return SlidePlan(canvas, seed=seed, cells=read_plan(Path(plan), canvas, mpp))
    if min(canvas) > SLIDE and tissue == "normal":
        return SlidePlan(canvas, seed=seed)
    return Strip(canvas[0], seed=seed, tissue=tissue)


def _within(regions: Regions, box: Box) -> Regions:
    return regions.within(box)


def check_new(path: Path, *, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output that is not called GeoJSON, exists, is an input or cannot be written.

    Raises:
        OutputError: the reason, and what to do.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{path}: a layout is GeoJSON: choose a name that ends in .geojson")
    keep_inputs([path], inputs)
    if path.is_dir():
        raise OutputError(f"{path} is a folder: choose another name")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: choose another name or give `overwrite`")
    check_writable(path)

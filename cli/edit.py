"""nasdm-wsi edit"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..slides.formats import names
from . import options

if TYPE_CHECKING:
    import shapely

    from ..annotations.nuclei import Nuclei
    from ..editing.changes import Changes


def _pairs(read: Callable[[str], Any]) -> Callable[..., list[tuple[str, Any]]]:
    """Return a callback that returns (name, value) of each NAME=VALUE."""

    def pairs(_ctx: click.Context, option: click.Parameter, given: tuple[str, ...]) -> list:
        found = []
        for text in given:
            name, sign, value = text.partition("=")
            if not (name and sign and value):
                raise click.BadParameter(f"{text!r} is not {option.metavar}")
            found.append((name.casefold(), read(value.casefold())))
        return found

    return pairs


def _finite(_ctx: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number")
    return value


def _count(text: str) -> int:
    """Return a number of nuclei."""
    try:
        count = int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number of nuclei") from None
    if count < 1:
        raise click.BadParameter(f"{text!r}: give a number of at least 1")
    return count


def _amount(text: str) -> int | float:
    """Return a number of nuclei, or the share that a number with a decimal point is."""
    if "." not in text:
        return _count(text)
    try:
        share = float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number of nuclei") from None
    if not 0 < share <= 1:
        raise click.BadParameter(f"{text!r} is not a share: give a number above 0 and up to 1.0")
    return share


@click.command()
@click.argument("slide", type=options.EXISTING)
@click.argument("annotations", type=options.EXISTING)
@click.option("-o", "--out", type=options.NEW, required=True, help=f"The edited slide: {names()}.")
@click.option(
    "--area",
    type=options.EXISTING,
    help="GeoJSON of the area to repaint; default: annotations of the class Edit in ANNOTATIONS.",
)
@click.option(
    "--before",
    type=options.EXISTING,
    help="Nuclei as they are in SLIDE: all nuclei that differ from them are repainted.",
)
@click.option(
    "--margin",
    type=click.FloatRange(0),
    callback=_finite,
    default=4.0,
    show_default=True,
    help="Micrometres around each differing nucleus that are repainted.",
)
@click.option(
    "--insert",
    metavar="TYPE=NUMBER",
    multiple=True,
    callback=_pairs(_count),
    help="Insert this many nuclei of a type near types that it occurs with; repeatable.",
)
@click.option(
    "--remove",
    metavar="TYPE=NUMBER|SHARE",
    multiple=True,
    callback=_pairs(_amount),
    help="Remove nuclei of a type at random: 3 removes three of them; a number with a decimal "
    "point, such as 0.3 or 1.0, is a share; repeatable.",
)
@click.option(
    "--swap",
    metavar="TYPE=TYPE",
    multiple=True,
    callback=_pairs(str),
    help="Change all nuclei of one type to another type; repeatable.",
)
@click.option(
    "--thin",
    type=click.FloatRange(0, 1),
    callback=_finite,
    help="Remove this share of all nuclei; 1 removes all.",
)
@options.regions
@click.option(
    "--mpp", type=float, help="Pixel size of SLIDE in micrometres, if it does not state it."
)
@click.option(
    "--mask", type=options.NEW, help="Also write a label image of where the slide is synthetic."
)
@options.reading
@options.seed
@options.steps
@options.guidance
@click.option(
    "--style",
    help="Stain: the name of a style, or a slide or image; default: that of SLIDE near the edit.",
)
@options.weights
@options.device
@click.option("--workers", type=click.IntRange(1), help="Number of threads; default: one per core.")
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@options.quiet
def edit(slide: Path, annotations: Path, out: Path, mask: Path | None, **given) -> None:
    """Repaint part of SLIDE, so that it shows the nuclei of ANNOTATIONS.

    The part is given by --area, by the difference from --before, or by --insert, --remove, --swap
    and --thin, which change the nuclei of ANNOTATIONS. All other pixels stay exactly as they are.
    The nuclei are written to NAME.geojson beside the edited slide; the name of each says whether
    it was changed. To resume an edit that was stopped, run the same command again.
    """
    from ..delivery import check_output, is_delivered, run_folder
    from ..editing.edit import edit as edit_slide
    from ..editing.edit import plan_edit
    from ..editing.mask import check_mask, write_mask
    from ..model.painter import Painter
    from ..slides.formats import labels_path
    from ..slides.reading import find_style

    files = ("area", "before", "regions", "style", "weights")
    inputs = (slide, annotations, *(given[name] for name in files))
    # With a mask, a slide that exists may be that of this edit, stopped before its mask.
    overwrite = given["overwrite"] or run_folder(out).is_dir() or mask is not None
    check_output(out, overwrite=overwrite, inputs=inputs)
    if mask:
        check_mask(mask, out, overwrite=given["overwrite"], inputs=inputs)
    changes, area = _request(slide, annotations, given)
    painting = {k: given[k] for k in ("weights", "steps", "guidance") if given[k] is not None}
    style = find_style(given["style"]) if given["style"] else None
    painter = Painter(**painting, device=given["device"], style=style)
    job = plan_edit(
        slide,
        changes.nuclei,
        area,
        painter,
        out=out,
        seed=given["seed"],
        mpp=given["mpp"],
        local_style=style is None,
    )
    if not (mask and not given["overwrite"] and is_delivered(job, out, None)):
        with options.bars("task") as progress:
            edit_slide(
                job,
                out,
                changes,
                workers=given["workers"],
                overwrite=given["overwrite"],
                progress=progress,
            )
    if mask:
        write_mask(job, mask, overwrite=given["overwrite"])
    known: Any = job.known
    found = ", ".join(f"{n:,} {state}" for state, n in changes.counts().items() if n)
    options.say(
        f"{out}: {found or 'no nuclei changed'}; repainted: "
        f"{known.area.area / 1e6:.3g} megapixels at {known.mpp:g} mpp; "
        f"the nuclei are in {labels_path(out).name}"
    )


def _request(slide: Path, annotations: Path, given: dict) -> tuple[Changes, shapely.Geometry]:
    """Return what changes, and the area to repaint, in pixels of the annotations."""
    import shapely

    from ..annotations.formats import is_geojson
    from ..editing.areas import EDIT, read_area
    from ..editing.changes import changes, unchanged
    from ..errors import PlanError
    from ..rendering import read_annotations
    from ..slides.reading import open_slide

    classes = ("class_map", "ignore_classes", "tissue_classes", "class_property")
    reading = {name: given[name] for name in ("mpp", *classes, "contours", "max_pixels")}
    reading["may_be_empty"] = True
    nuclei = read_annotations(annotations, like=slide, regions=given["regions"], **reading)
    wanted = _preset(slide, nuclei, given)
    before = read_annotations(given["before"], like=slide, **reading) if given["before"] else nuclei
    difference = unchanged(wanted) if wanted is before else changes(before, wanted)
    area = difference.area(given["margin"])
    if given["area"]:
        drawn = read_area(given["area"])
        if drawn.is_empty:
            raise PlanError(f"{given['area']}: has no polygons: draw the area as a polygon")
        with open_slide(slide) as opened:  # whose pixels are not those of all annotations
            scale = opened.known_mpp(given["mpp"]) / nuclei.mpp
        area |= shapely.transform(drawn, lambda xy: xy * scale)
    elif is_geojson(annotations):
        area |= read_area(annotations, named=EDIT)
    if area.is_empty:
        raise PlanError(
            "there is nothing to repaint: give `area`, `before`, `insert`, `remove`, `swap` or "
            "`thin`, or draw an annotation of the class Edit"
        )
    return difference, area


def _preset(slide: Path, nuclei: Nuclei, given: dict) -> Nuclei:
    """Return the nuclei after the edits that the options ask for, in the order of the help."""
    import numpy as np

    from ..editing import presets
    from ..editing.source import on_tissue

    rng = np.random.default_rng(given["seed"])
    for kind, count in given["insert"]:
        fits = on_tissue(slide, nuclei.mpp)
        nuclei = presets.insert(nuclei, kind, count, rng=rng, fits=fits)
    for kind, amount in given["remove"]:
        nuclei = presets.remove(nuclei, kind, amount, rng=rng)
    for old, new in given["swap"]:
        nuclei = presets.swap(nuclei, old, new, rng=rng)
    if given["thin"]:
        nuclei = presets.thin(nuclei, given["thin"], rng=rng)
    return nuclei

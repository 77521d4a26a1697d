"""All formats of annotation files that can be read, recognised by content.

To add a format, write its reader and its `contents.Format` record in a file of their own, and add
the record to `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import AnnotationError
from . import (
    asap,
    coco,
    csvtable,
    dsa,
    geojson,
    geotables,
    hovernet,
    hovernet_mat,
    imagescope,
    label_zarr,
    labels,
    lizard,
    rois,
    tiatoolbox,
)
from .classes import ClassNames
from .contents import Contents, Format, Reading, Source
from .findings import Findings
from .jsonstream import readable
from .nuclei import check_mpp
from .parsers import MAX_PIXELS
from .plausible import sort_out, weigh_scale
from .regions import Regions, joined
from .types import TISSUE_CLASSES, TYPES
from .unread import refuse, refuse_text

FORMATS = (
    geotables.FORMAT,
    tiatoolbox.FORMAT,
    label_zarr.FORMAT,
    labels.FORMAT,
    hovernet_mat.FORMAT,
    lizard.FORMAT,
    rois.FORMAT,
    imagescope.FORMAT,
    asap.FORMAT,
    csvtable.VERTICES,
    csvtable.WELL_KNOWN_TEXT,
    hovernet.HOVERNET,
    hovernet.CELLVIT,
    coco.FORMAT,
    dsa.DOCUMENT,
    dsa.ANNOTATION,
    geojson.FORMAT,
)


def is_annotation(path: Path) -> bool:
    """Return whether `read_contents` can read a file, which is false for slides and pictures.

    Raises:
        AnnotationError: the file cannot be read, or its format is not supported.
    """
    with readable(path):
        return _format_of(_source(path)) is not None


def is_geojson(path: Path) -> bool:
    """Return whether an annotation file is GeoJSON, packed or not; `is_annotation` raises."""
    with readable(path):
        return _format_of(_source(path)) is geojson.FORMAT


def stated_mpp(path: str | Path) -> float | None:
    """Return the pixel size that an annotation file states; None if it states none.

    Raises:
        AnnotationError: the file cannot be read, or its format is not supported.
    """
    path = Path(path)
    with readable(path):
        source = _source(path)
        form = _format_of(source)
        return form.pixel_size(source, None) if form else None


def read_contents(
    path: str | Path,
    *,
    mpp: float | None = None,
    slide_mpp: float | None = None,
    class_map: Mapping[str, str] | None = None,
    ignore_classes: Iterable[str] = (),
    tissue_classes: Iterable[str] = TISSUE_CLASSES,
    class_property: str | None = None,
    contours: str = "auto",
    max_pixels: int = MAX_PIXELS,
    assumed_mpp: float | None = None,
    only_regions: bool = False,
) -> Contents:
    """Read the contents of an annotation file, whether or not it can be rendered.

    The table of docs/formats.md lists what is read.

    Args:
        path: the file; GeoJSON and JSON may be packed by gzip or zip.
        mpp: micrometres per pixel of the coordinates; may be left out if the format states it.
        slide_mpp: instead of ``mpp``, the pixel size of the slide that was annotated.
        class_map: class name to nucleus type or region; has priority over the known names.
        ignore_classes: classes to leave out, with the same priority.
        tissue_classes: patterns of the classes that outline tissue.
        class_property: the property of an object that names its class, in place of QuPath's and
            TIAToolbox's.
        contours: "cv2" if vertices are centres of boundary pixels, counted from 0, as OpenCV gives
            them; "corner" if they are points between pixels; "auto" to detect it, which gives "cv2"
            for HoVer-Net and HoVerNeXt.
        max_pixels: the most pixels of a label image; other limits of `parsers` derive from it.
        assumed_mpp: the pixel size if neither user nor file gives one; sizes are not checked then.
        only_regions: read all objects whose class names a region as regions, and no nuclei. In a
            label image, the value of a pixel is then the class of its region: ``class_map`` maps
            {"1": "lumen"}, or {"regions": "epithelium"} all values that it does not name.

    Raises:
        AnnotationError: a file that is damaged or holds no annotations; ``mpp`` missing or
            impossible.
    """
    path = Path(path)
    names = ClassNames(class_map, ignore_classes, tissue_classes, class_property)
    findings = Findings(path, names, only_regions=only_regions)
    with readable(path):
        source = _source(path, max_pixels)
        form = _format_of(source) or _no_format(source)
        of_slide = mpp is None
        told = form.pixel_size(source, slide_mpp) if mpp is None else mpp
        findings.mpp_is_known = told is not None
        mpp = check_mpp(assumed_mpp if told is None else told, path)
        if form.states_scale:
            weigh_scale(findings, mpp, form.pixel_size(source, None), of_slide=of_slide)
        contents = form.read(source, Reading(mpp, findings, contours))
    nuclei = contents.nuclei
    if not findings.is_weighed:  # labels have no outlines of their own
        kinds = [f"{name} nuclei" for name in TYPES]  # which mean no regions
        nuclei, found = sort_out(nuclei, nuclei.types, kinds, findings, mpp)
        nuclei = replace(nuclei, regions=joined([nuclei.regions, found]))
    return replace(contents, nuclei=nuclei, whole=form.whole)


def read_regions(path: str | Path, *, mpp: float | None = None, **options: Any) -> Regions:
    """Read the regions of an annotation file or of a label image, and nothing else of it.

    The arguments are those of `read_contents`.

    Raises:
        AnnotationError: as `read_contents`; no class that names a region.
    """
    nuclei = read_contents(path, mpp=mpp, only_regions=True, **options).checked()
    return nuclei.regions or Regions.from_polygons([], [], mpp=nuclei.mpp)


def _source(path: Path, max_pixels: int = MAX_PIXELS) -> Source:
    """Return a file as a source; pipes and devices, which may have no end, are refused.

    Raises:
        AnnotationError: it is neither a file nor a folder.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise AnnotationError(f"{path}: not a regular file: copy its content into one first")
    members = [form.member for form in FORMATS if form.member]
    return Source(path, members, max_pixels=max_pixels)


def _format_of(source: Source) -> Format | None:
    """Return the format of an annotation file, or None if it may be a slide or picture.

    All commands use this function, so that they agree on the kind of a file.

    Raises:
        AnnotationError: a file of a kind that is not supported; the message names the kind.
    """
    refuse(source)
    found = next((form for form in FORMATS if form.sniff(source)), None)
    if found is None:
        refuse_text(source)
    named_so = source.magic and source.path.name.lower().endswith(geojson.SUFFIXES)
    return found or (geojson.FORMAT if named_so else None)  # whose reader says what is wrong


def _no_format(source: Source) -> Format:
    """Return the format whose reader explains why it cannot read a picture.

    Raises:
        AnnotationError: the file is no such picture.
    """
    if labels.is_picture(source):
        return labels.FORMAT
    what = "perhaps a slide or a picture"
    if source.path.is_dir():
        what = "a folder"
    elif source.magic.startswith((b"\xff\xd8\xff", b"GIF8", b"BM")):
        what = "a picture"
    raise AnnotationError(
        f"{source.path}: not annotations in a known format, but {what}: "
        "export the nuclei as GeoJSON, or as a label image in TIFF"
    )

"""All formats of annotation files that can be read, told apart by content.

To add a format, write its reader and its `contents.Format` record in a file of their own, and add
the record to `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

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
from .contents import Contents, Format, Reading, Source
from .findings import Findings
from .jsonstream import readable
from .nuclei import check_mpp
from .parsers import MAX_PIXELS
from .plausible import sort_out, weigh_scale
from .types import TISSUE_CLASSES, TYPES, ClassNames
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
    """Whether `read_contents` is the one to read a file; slides and pictures are not for it.

    Raises:
        AnnotationError: the file cannot be read, or is of a format that nothing here reads.
    """
    with readable(path):
        return _format_of(_source(path)) is not None


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
) -> Contents:
    """What an annotation file holds, whether or not it can be rendered.

    The table of docs/formats.md lists what is read.

    Args:
        path: the file; GeoJSON and JSON may be packed by gzip or zip.
        mpp: micrometres per pixel of the coordinates; may be left out if the format states it.
        slide_mpp: instead of it, that of the slide on which the annotations were made.
        class_map: class name to nucleus type; has priority over the known names.
        ignore_classes: classes to leave out, with the same priority.
        tissue_classes: patterns of the classes that outline tissue.
        class_property: the property of an object that names its class, in place of QuPath's and
            TIAToolbox's.
        contours: "cv2" if vertices are centres of boundary pixels, counted from 0, as OpenCV gives
            them; "corner" if they are points between pixels; "auto" to find out, which is "cv2"
            for HoVer-Net and HoVerNeXt.
        max_pixels: the most of a label image; the other limits of `parsers` follow from it.
        assumed_mpp: what to take if nobody tells the pixel size; sizes are then not weighed.

    Raises:
        AnnotationError: a file that is damaged or holds no annotations; ``mpp`` missing or absurd.
    """
    path = Path(path)
    names = ClassNames(class_map, ignore_classes, tissue_classes, class_property)
    findings = Findings(path, names)
    with readable(path):
        source = _source(path, max_pixels)
        form = _format_of(source) or _no_format(source)
        told = form.pixel_size(source, slide_mpp) if mpp is None else mpp
        findings.mpp_is_known = told is not None
        mpp = check_mpp(assumed_mpp if told is None else told, path)
        if form.states_scale:
            weigh_scale(findings, mpp, form.pixel_size(source, None))
        contents = form.read(source, Reading(mpp, findings, contours))
    nuclei = contents.nuclei
    if not findings.is_weighed:  # labels have no outlines of their own
        nuclei = sort_out(nuclei, nuclei.types, TYPES, findings, mpp)
    return replace(contents, nuclei=nuclei, whole=form.whole)


def _source(path: Path, max_pixels: int = MAX_PIXELS) -> Source:
    """A file to be read; of pipes and devices nobody knows the end.

    Raises:
        AnnotationError: it is no file or folder.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise AnnotationError(f"{path}: no ordinary file: copy what it gives into one first")
    members = [form.member for form in FORMATS if form.member]
    return Source(path, members, max_pixels=max_pixels)


def _format_of(source: Source) -> Format | None:
    """The format of a file of annotations; None if it may be a slide or picture.

    All commands ask here, so that they agree on what a file is.

    Raises:
        AnnotationError: a file that is known not to be read; the message says what it is.
    """
    refuse(source)
    found = next((form for form in FORMATS if form.sniff(source)), None)
    if found is None:
        refuse_text(source)
    named_so = source.magic and source.path.name.lower().endswith(geojson.SUFFIXES)
    return found or (geojson.FORMAT if named_so else None)  # whose reader says what is wrong


def _no_format(source: Source) -> Format:
    """The format whose reader says why it cannot read a picture.

    Raises:
        AnnotationError: the file is no such picture.
    """
    if labels.is_picture(source):
        return labels.FORMAT
    what = "a slide, a picture or unknown"
    if source.path.is_dir():
        what = "a folder"
    elif source.magic.startswith((b"\xff\xd8\xff", b"GIF8", b"BM")):
        what = "a picture"
    raise AnnotationError(
        f"{source.path}: no annotations of a known format but {what}: "
        "export the nuclei as GeoJSON, or as a label image in TIFF"
    )

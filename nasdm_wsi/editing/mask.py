"""The mask of an edit: a label image of where the slide is synthetic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..delivery import run_folder
from ..errors import OutputError
from ..geometry import Box, shape
from ..job import Job
from ..output import check_writable, keep_inputs
from ..provenance import provenance
from ..slides.formats import format_of, labels_path
from ..slides.tiling import Rows
from .source import check_apart, edited_slide


def check_mask(
    mask: str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    inputs: Iterable[str | Path | None] = (),
) -> None:
    """Refuse a mask that would replace anything, or that cannot be written.

    Args:
        mask: of an edit to ``out``.
        overwrite: replace a mask that exists, but never ``inputs`` or another output of the edit.

    Raises:
        OutputError: the reason, and what to do.
    """
    mask, out = Path(mask), Path(out)
    form = format_of(mask, labels=True)
    present = [Path(path) for path in inputs if path is not None]
    keep_inputs([mask], present, called="mask")
    for given in present:
        check_apart(given, mask)
    place = mask.resolve()
    for other in (out, labels_path(out), run_folder(out)):
        same = mask.exists() and other.exists() and mask.samefile(other)
        if same or other.resolve() in (place, *place.parents) or place in other.resolve().parents:
            raise OutputError(
                f"{mask} would replace {other}, another output: choose another `mask`"
            )
    form.check_folder(mask)
    if mask.exists() and not overwrite:
        raise OutputError(f"{mask} exists: choose another `mask` or give `overwrite`")
    check_writable(mask)


def write_mask(job: Job, path: str | Path, *, overwrite: bool = False) -> None:
    """Write where an edited slide is synthetic, as a pyramid of labels: 1 there and 0 elsewhere.

    Args:
        job: from `plan_edit`.
        path: of the mask.
        overwrite: replace a file that exists, but never the slide that was edited.

    Raises:
        OutputError: the file exists or cannot be written, or its suffix is that of no format for
            labels.
    """
    known, path = edited_slide(job), Path(path)
    keep_inputs([path], job.sources, called="mask")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: choose another `mask` or give `overwrite`")
    cover = replace(known, area=known.synthetic)

    def pixels(box: Box) -> np.ndarray:
        return (~cover.mask(box)).astype(np.uint8)

    rows = Rows(pixels, shape(job.region))
    description = provenance({"mask of": known.path.name, **job.facts})
    format_of(path, labels=True).write(path, rows, mpp=known.mpp, description=description)

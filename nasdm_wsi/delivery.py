"""The files of a render: the run folder, the slide, and the nuclei beside it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .annotations.features import feature_lines
from .annotations.geojson import stated, write_features
from .errors import NasdmError, OutputError
from .geometry import Box, shape
from .job import Job
from .mosaic.engine import Mosaic
from .mosaic.painting import run_facts
from .mosaic.store import LABELS, RunStore, open_run
from .mosaic.watch import Progress
from .output import check_writable, keep_inputs, replacing, sweep, whole_or_nothing
from .provenance import facts_of, provenance
from .slides.formats import format_of, labels_path
from .slides.pyramid import Pyramid
from .slides.reading import open_slide
from .slides.tiling import Rows

MATCHED = "matched"  # what an edit states besides the facts of its job, when all is painted
LONGEST_NAME = 255 - len(".0123abcd..older")  # bytes, with what the name has while it is written


def run_folder(out: Path) -> Path:
    """Return the folder of the state of a render until its slide is complete.

    Raises:
        OutputError: the name of ``out`` is too long.
    """
    if (length := len(os.fsencode(out.name))) > LONGEST_NAME:
        raise OutputError(
            f"{out.name[:30]}... has a name of {length} bytes: choose one of at most {LONGEST_NAME}"
        )
    return out.with_name(out.name + ".run")


def check_output(out: Path, *, overwrite: bool, inputs: Iterable[str | Path | None] = ()) -> None:
    """Refuse outputs that are ``inputs``, that exist, or that cannot be written.

    ``overwrite`` replaces a slide, and nuclei beside it that a render wrote.

    Raises:
        OutputError: the reason, and what to do.
    """
    form, labels = format_of(out), labels_path(out)
    keep_inputs((out, labels, run_folder(out)), inputs)
    form.check_folder(out)
    if labels.is_dir():
        raise OutputError(f"{labels} is a folder: choose another name")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists: choose another name or give `overwrite`")
    if labels.exists():
        _check_nuclei(out, overwrite=overwrite)
    check_writable(out)


def _check_nuclei(out: Path, *, overwrite: bool) -> None:
    """Refuse nuclei beside the slide that no render wrote, or that belong to a finished one."""
    labels, digest = labels_path(out), nuclei_digest(out)
    if digest in _digests_in(run_folder(out)):
        return
    if digest != _facts(out).get("labels"):
        raise OutputError(
            f"{labels} was not written by a render of {out.name}, so it is never replaced: "
            "choose another `out` or move it away"
        )
    if not overwrite:
        raise OutputError(f"{labels} exists: choose another name or give `overwrite`")


def nuclei_digest(out: Path) -> str | None:
    """SHA-256 of the nuclei beside a slide; None where there is no such file."""
    labels = labels_path(out)
    if not labels.is_file():
        return None
    with labels.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests_in(folder: Path) -> list[str]:
    """Return the digests of all nuclei that renders of a run folder wrote or began to write."""
    try:
        return (folder / LABELS).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []


def _facts(out: Path) -> dict[str, Any]:
    """Return the facts in the description of a slide; empty if it is no slide of this package."""
    try:
        with open_slide(out) as slide:
            return facts_of(slide.description)
    except NasdmError:
        return {}


def check_disk(folder: Path, needed: int) -> None:
    """Refuse a folder whose disk has less than the ``needed`` bytes free.

    Raises:
        OutputError: there is too little space; the message gives both numbers.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder} has {free / 1e9:.1f} GB free, but the render may need "
            f"{needed / 1e9:.1f} GB: make room or choose another folder"
        )


def finish_cleaning(job: Job, out: Path, pyramid: Pyramid | None) -> bool:
    """Clean up after a render of the same job that was killed when ``out`` was complete.

    Returns:
        Whether there was such a render, so that nothing is left to do.

    Raises:
        OutputError: the run folder belongs to another job, or a render is running there.
    """
    if not (run_folder(out).is_dir() and out.exists() and _is_described(out, job, pyramid)):
        return False
    with open_run(run_folder(out), run_facts(job, pyramid)) as store:
        store.clear()
        for path in (out, labels_path(out)):
            sweep(path)
    return True


def pyramid_of(job: Job, out: Path, *, quality: int = 85, lossless: bool = False) -> Pyramid | None:
    """Return the pyramid of a job's slide; None if its format is written from pixels.

    Raises:
        OutputError: the suffix of ``out`` is of no format.
    """
    size = (*shape(job.shown), 3)
    return format_of(out).encoded(size, quality=quality, lossless=lossless)


def is_delivered(job: Job, out: Path, pyramid: Pyramid | None) -> bool:
    """Return whether ``out`` is the slide of a job, with its nuclei, and nothing is left to do."""
    return not run_folder(out).is_dir() and out.exists() and _is_described(out, job, pyramid)


def _is_described(out: Path, job: Job, pyramid: Pyramid | None) -> bool:
    """Return whether the description of a slide is that of a job, with the nuclei beside it."""
    facts = _facts(out)
    facts.pop(MATCHED, None)
    return facts == described(job, pyramid, labels=nuclei_digest(out))


def described(job: Job, pyramid: Pyramid | None, *, labels: str | None) -> dict[str, Any]:
    """Return the facts in the description of a slide; ``labels`` is the digest of its nuclei."""
    return {**run_facts(job, pyramid), "labels": labels}


def write_outputs(
    mosaic: Mosaic,
    out: Path,
    *,
    replaced: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a painted mosaic's slide, and before it the nuclei in the slide's pixels.

    The slide is written last, so all outputs exist when it does. It records the digest of the
    nuclei, so that a later render can recognise them.

    Args:
        replaced: digest of the nuclei which may be replaced; any that were put there since the
            render began are refused.

    Raises:
        OutputError: the nuclei there were not written by this render, or the outputs cannot be
            written.
    """
    job, form = mosaic.job, format_of(out)
    y0, x0, y1, x1 = job.shown
    shown = job.nuclei.scaled(job.mpp).shifted(-y0, -x0).within((0, 0, y1 - y0, x1 - x0))
    shown = replace(shown, canvas=((y1 - y0) * job.mpp, (x1 - x0) * job.mpp))
    lines = feature_lines(shown, shown.regions, tissue=shown.tissue)
    digest = write_labels(mosaic.store, out, lines, stated=stated(shown), replaced=replaced)
    facts = described(job, mosaic.pyramid, labels=digest)
    common: dict[str, Any] = {
        "mpp": job.mpp,
        "description": provenance(facts),
        "progress": partial(progress, "writing") if progress else None,
    }
    if mosaic.pyramid:
        form.write_tiles(out, mosaic.pyramid, mosaic.encoded, **common)
    else:

        def pixels(box: Box) -> np.ndarray:
            return mosaic.pixels((box[0] + y0, box[1] + x0, box[2] + y0, box[3] + x0))

        form.write(out, Rows(pixels, (y1 - y0, x1 - x0, 3)), **common)


def write_labels(
    store: RunStore,
    out: Path,
    features: Iterable[bytes],
    *,
    stated: Mapping[str, Any] | None = None,
    replaced: str | None,
) -> str:
    """Write features beside a slide as GeoJSON, and return the digest of the file.

    The digest is stored in the run folder before the file gets its name, so that a render that was
    killed between the two recognises its file.

    Args:
        stated: the foreign members of the file, as `geojson.stated` gives them.
        replaced: digest of the file which may be replaced.

    Raises:
        OutputError: another file is there, or it cannot be written.
    """
    if nuclei_digest(out) not in (None, replaced):
        _check_nuclei(out, overwrite=False)
    with whole_or_nothing(labels_path(out)) as part:
        with part.open("wb") as file:
            write_features(file, features, stated=stated)
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with replacing(store.folder / LABELS) as note:
            earlier = _digests_in(store.folder)
            note.write_text("\n".join([*earlier, digest]), encoding="ascii", newline="\n")
    return digest

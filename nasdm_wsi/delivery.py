"""What a render leaves on disk: the run folder, the slide, and the nuclei beside it."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .annotations.geojson import write_geojson
from .errors import OutputError
from .geometry import shape
from .mosaic.engine import Mosaic
from .mosaic.watch import Progress
from .slides.formats import format_of, labels_path


def run_folder(out: Path) -> Path:
    """Where the state of a render lies until its slide is whole."""
    return out.with_name(out.name + ".run")


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse an output that exists, or whose folder does not.

    Raises:
        OutputError: the reason, and what to do.
    """
    if not out.parent.is_dir():
        raise OutputError(f"{out.parent} is no folder: make it first")
    form, labels = format_of(out), labels_path(out)
    for path in (out, labels):
        if path.is_dir() and not (path == out and form.may_replace(path)):
            raise OutputError(f"{path} is a folder: choose another name")
        ours = path != out and run_folder(out).exists()  # of a run stopped near its end
        if path.exists() and not (overwrite or ours):
            raise OutputError(f"{path} exists: choose another name or give `overwrite`")


def check_disk(folder: Path, needed: int) -> None:
    """Refuse a folder whose disk has less than the ``needed`` bytes free.

    Raises:
        OutputError: how much there is and how much is needed.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder} has {free / 1e9:.1f} GB free, but the render may need "
            f"{needed / 1e9:.1f} GB: make room or choose another folder"
        )


def write_outputs(mosaic: Mosaic, out: Path, progress: Progress | None = None) -> None:
    """Write a painted mosaic's slide, and before it the nuclei in the slide's pixels.

    The slide comes last: when it is there, everything is.
    """
    job, form = mosaic.job, format_of(out)
    y0, x0, y1, x1 = job.region
    shown = job.nuclei.shifted(-y0, -x0).within((0, 0, y1 - y0, x1 - x0))
    write_geojson(labels_path(out), shown)
    common: dict[str, Any] = {
        "mpp": job.painter.mpp,
        "description": job.provenance,
        "progress": partial(progress, "writing") if progress else None,
    }
    if mosaic.pyramid:
        form.write_tiles(out, mosaic.pyramid, mosaic.encoded, **common)
    else:
        form.write(out, _Rows(mosaic), **common)


class _Rows:
    """A finished region, sliced by rows and read only then."""

    dtype = np.dtype(np.uint8)

    def __init__(self, mosaic: Mosaic):
        self.mosaic, self.shape = mosaic, (*shape(mosaic.job.region), 3)

    def __getitem__(self, rows: slice) -> np.ndarray:
        y0, x0, _, x1 = self.mosaic.job.region
        start, stop, _ = rows.indices(self.shape[0])
        return self.mosaic.pixels((y0 + start, x0, y0 + stop, x1))

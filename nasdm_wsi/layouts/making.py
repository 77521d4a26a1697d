"""Layouts from nothing: the one function behind the command."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import OutputError
from ..output import check_writable, keep_inputs
from .colon import Colon
from .densities import Densities
from .populate import Populated
from .source import Source
from .strip import Strip
from .writing import write_layout


def layout(
    out: str | Path,
    size: tuple[int, int],
    *,
    mpp: float = 0.5,
    seed: int = 0,
    tissue: str = "normal",
    density: Iterable[str] = (),
    share: Iterable[str] = (),
    populate: type[Populated] = Populated,
    workers: int = 1,
    overwrite: bool = False,
    progress: Callable[..., None] | None = None,
) -> dict[str, int]:
    """Write regions and nuclei of invented colon as GeoJSON; returns the numbers of nuclei.

    The same seed gives the same bytes, whatever ``workers``.

    Args:
        out: the file to write.
        size: height and width of the canvas in pixels of ``mpp`` micrometres.
        tissue: "normal", "adenoma" or "carcinoma".
        density: nuclei wanted in a square millimetre, as "eosinophil=120" or
            "stroma:eosinophil=120".
        share: multiples of what there would be, as "plasma=2x".
        populate: the source of the nuclei: `Populated`, which follows rules, or another with the
            same arguments, such as `model.layouts.source.Learned`.
        workers: number of processes.

    Raises:
        AnnotationError: a density or share that cannot be read.
        OutputError: the file exists or cannot be written.
    """
    path = Path(out)
    densities = Densities.parse(density, share)
    check_new(path, overwrite=overwrite)
    source = colon(size[0] * mpp, seed=seed, tissue=tissue, densities=densities, populate=populate)
    return write_layout(path, source, size, mpp=mpp, seed=seed, workers=workers, progress=progress)


def colon(
    height: float,
    *,
    seed: int,
    tissue: str,
    densities: Densities,
    populate: type[Populated] = Populated,
) -> Source:
    """Return the source for a canvas of a height in micrometres."""
    plan = Strip(height, seed=seed, tissue=tissue)
    return Colon(plan, seed=seed, densities=densities, populate=populate)


def check_new(path: Path, *, overwrite: bool, inputs: Iterable[Path | None] = ()) -> None:
    """Refuse an output that exists, is an input or cannot be written.

    Raises:
        OutputError: the reason, and what to do.
    """
    keep_inputs([path], inputs)
    if path.is_dir():
        raise OutputError(f"{path} is a folder: choose another name")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: choose another name or give `overwrite`")
    check_writable(path)

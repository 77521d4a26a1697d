"""One set of tiles from many slides, and its split into parts for training and testing.

A table of slides is a CSV with the columns slide, labels and patient, of which only the first is
required. Paths count from the folder of the table.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from ..annotations.formats import is_annotation
from ..errors import AnnotationError, DatasetError, NasdmError, OutputError
from ..output import check_writable, keep_inputs, whole_or_nothing
from ..rendering import Progress
from ..slides.formats import find_format, labels_path, stem
from ..slides.reading import open_slide
from .export import read_nuclei
from .tiles import TILED, Tile, tiles_of, write_tiles

COLUMNS = ("slide", "labels", "patient")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Source:
    """A slide of a set.

    Attributes:
        labels: the annotations of the slide; by default the GeoJSON beside it.
        patient: whom the slide is of; "" if nothing is known.
    """

    slide: Path
    labels: Path | None = None
    patient: str = ""

    @property
    def name(self) -> str:
        """The name of the slide, with which the names of its tiles begin."""
        return stem(self.slide)


def find_sources(paths: Iterable[str | Path], *, labels: str | Path | None = None) -> list[Source]:
    """Return the slides that are meant by paths: slides, folders of slides, and tables of slides.

    The slides of a folder are those with a GeoJSON beside them. ``labels`` are the annotations of
    a single slide.

    Raises:
        DatasetError: a folder without such slides, a table that cannot be read, two slides of the
            same name, or ``labels`` for several slides.
    """
    sources = [source for path in paths for source in _sources_at(Path(path))]
    names = Counter(source.name for source in sources)
    if twice := [source.slide for source in sources if names[source.name] > 1]:
        raise DatasetError(
            f"{twice[0]} and {twice[1]} would give tiles of the same name: rename one of them"
        )
    if labels is None:
        return sources
    if len(sources) > 1:
        raise DatasetError(
            f"{labels}: `labels` are of one slide: name those of {len(sources)} slides in a CSV "
            "with the columns slide and labels"
        )
    return [replace(source, labels=Path(labels)) for source in sources]


def _sources_at(path: Path) -> list[Source]:
    if path.suffix.lower() == ".csv":
        return _read_table(path)
    if not path.is_dir() or find_format(path):
        return [Source(path)]
    found = [Source(slide) for slide in sorted(path.iterdir()) if _is_labelled_slide(slide)]
    if not found:
        raise DatasetError(
            f"{path}: no slide there has its nuclei beside it, as NAME.geojson: give a CSV with "
            "the columns slide and labels"
        )
    return found


def _is_labelled_slide(path: Path) -> bool:
    labels = labels_path(path)
    if path.name.startswith(".") or path == labels or not labels.is_file():
        return False
    try:
        return not is_annotation(path)
    except AnnotationError:  # of a kind that is not read, so it is no slide
        return False


def _read_table(path: Path) -> list[Source]:
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"{path}: not a table of slides: save it as CSV in UTF-8") from error
    if not rows:
        raise DatasetError(
            f"{path}: no slides: give a CSV with the column slide and a row for each"
        )
    if "slide" not in rows[0]:
        raise DatasetError(
            f"{path}: there is no column named slide: give the column of the slides this name"
        )
    return [_source_in(row, f"{path}, row {k}", path.parent) for k, row in enumerate(rows, 1)]


def _source_in(row: dict[str, str | None], where: str, folder: Path) -> Source:
    if odd := [str(name) for name in row if name not in COLUMNS]:
        raise DatasetError(f"{where}: unknown column {odd[0]!r}: use {', '.join(COLUMNS)}")
    slide, labels, patient = ((row.get(name) or "").strip() for name in COLUMNS)
    for name, file in (("slide", slide), ("labels", labels)):
        if file and not (folder / file).exists():
            raise DatasetError(f"{where}: there is no file {folder / file}: correct {name}")
    if not slide:
        raise DatasetError(f"{where}: slide is empty: give its path")
    return Source(folder / slide, folder / labels if labels else None, patient)


def split(
    sources: Sequence[Source], shares: Sequence[float], *, seed: int = 0
) -> dict[str, list[Source]]:
    """Divide slides into SPLITS by shares of their number; those of a patient stay together.

    The order in which patients are dealt out depends on ``seed`` and their names alone. Each goes
    where most slides are missing, and no split with a share stays empty.

    Raises:
        DatasetError: shares that are no three numbers, or too few patients.
    """
    total = sum(shares)
    if len(shares) != len(SPLITS) or min(shares) < 0 or not 0 < total < float("inf"):
        raise DatasetError(
            f"`shares` {shares}: give three, of {', '.join(SPLITS)}, such as 0.7 0.15 0.15"
        )
    wanted = {
        name: len(sources) * share / total
        for name, share in zip(SPLITS, shares, strict=True)
        if share
    }
    patients: dict[str, list[Source]] = {}
    for source in sources:
        patients.setdefault(source.patient or source.name, []).append(source)
    if len(patients) < len(wanted):
        raise DatasetError(
            f"{len(wanted)} splits of slides of {len(patients)} patients: give more slides, or "
            "`shares` of which some are 0"
        )
    order = sorted(patients, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    found: dict[str, list[Source]] = {name: [] for name in wanted}
    for dealt, patient in enumerate(order):
        empty = [name for name in found if not found[name]]
        must = len(order) - dealt <= len(empty)
        to = max(empty if must else found, key=lambda name: wanted[name] - len(found[name]))
        found[to] += patients[patient]
    return found


def export_set(
    sources: Sequence[Source],
    out: str | Path,
    *,
    form: str,
    shares: Sequence[float] | None = None,
    seed: int = 0,
    mpp: float | None = None,
    mpp_out: float | None = None,
    tile: int = 512,
    progress: Progress | None = None,
    failed: Callable[[Source, str], None] | None = None,
    **reading: Any,
) -> dict[str, list[Source]]:
    """Write the tiles of many slides into one new folder, and return the slides of each split.

    A slide that cannot be exported does not stop the others: it is not returned. The tiles that it
    gave before it failed are kept.

    The other arguments are those of `export.export`.

    Args:
        form: one of `tiles.TILED`.
        shares: of train, val and test, each of which becomes a folder in ``out``; without them
            ``out`` is one set, which is returned under the name "".
        seed: of the `split`.
        failed: called with each slide that cannot be exported, and with the reason in one line.

    Raises:
        DatasetError: as `split`, or no slide can be exported.
        OutputError: the format is not one of tiles; ``out`` exists, is an input or cannot be
            written.
    """
    out = Path(out)
    if form not in TILED:
        raise OutputError(f"{out}: `form` {form} is for one slide: use {', '.join(TILED)}")
    inputs = [(source.slide, source.labels or labels_path(source.slide)) for source in sources]
    keep_inputs([out], chain.from_iterable(inputs))
    if out.exists():
        raise OutputError(f"{out} exists: choose another name or remove it")
    check_writable(out)
    parts = split(sources, shares, seed=seed) if shares else {"": list(sources)}
    settings = {"mpp": mpp, "mpp_out": mpp_out, **reading}
    failures: dict[Source, str] = {}

    def fail(source: Source, reason: str) -> None:
        failures[source] = reason
        if failed:
            failed(source, reason)

    with whole_or_nothing(out) as whole:
        if shares:
            whole.mkdir()
        for name, members in parts.items():
            tiles = chain.from_iterable(
                _tiles(member, tile, progress, fail, settings) for member in members
            )
            write_tiles(whole / name, form, tiles)
        if len(failures) == len(sources):
            raise DatasetError(f"no slide can be exported: {next(iter(failures.values()))}")
    return {name: [m for m in members if m not in failures] for name, members in parts.items()}


def _tiles(
    source: Source,
    side: int,
    progress: Progress | None,
    fail: Callable[[Source, str], None],
    settings: dict[str, Any],
) -> Iterator[Tile]:
    """Yield the tiles of a slide, as far as it can be read."""
    told = partial(progress, f"exporting {source.name}") if progress else None
    done = 0
    try:
        with open_slide(source.slide) as slide:
            nuclei = read_nuclei(slide, source.labels, **settings)
            for tile in tiles_of(slide, nuclei, side=side, patient=source.patient, progress=told):
                yield tile
                done += 1
    except (NasdmError, OSError) as error:
        kept = f" (tiles kept: {done})" if done else ""
        fail(source, " ".join(str(error).split()) + kept)

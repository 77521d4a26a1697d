"""Making of a prepared dataset from labelled pictures (`dataset` describes its files)."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from ..annotations.parsers import MAX_PIXELS
from ..annotations.types import TYPES
from ..errors import DatasetError, OutputError, SlideError
from ..output import check_writable, keep_inputs, whole_or_nothing
from ..slides.reading import tissue_sample
from ..slides.stain import BACKENDS, StainStatistics, fit_stains, normalise
from .dataset import FORMAT, MANIFEST, random_box
from .labelling import Frame, nearest, nuclei_of, read_labels, read_rgb, regions_of
from .sources import PICTURES, UNPUBLISHED, Labelled, find, without_copies
from .tables import COARSEST, read_table

HELD_OUT = 0.075  # share of each image's area (Shrivastava and Fletcher, 2023)
MPP = 0.5

Progress = Callable[[str, int, int], None] | None
Repaint = Callable[[np.ndarray], np.ndarray]

log = logging.getLogger(__name__)


def prepare(
    sources: list[Path],
    out: Path,
    *,
    seed: int = 0,
    held_out: float = HELD_OUT,
    held_out_patients: tuple[str, ...] = (),
    mpp: float = MPP,
    exclude: tuple[str, ...] = (),
    folds: tuple[int, ...] = (),
    normalise_to: Path | None = None,
    stain_backend: str = "vahadane",
    max_pixels: int = MAX_PIXELS,
    progress: Progress = None,
    **classes: Any,
) -> list[dict]:
    """Turn labelled pictures into one prepared dataset and return its manifest's rows.

    A source is a folder with one of the layouts of `sources` (Lizard's, as one folder or as
    downloaded, or ``NAME.png`` with ``NAME_classes.png``, where 255 marks unpublished pixels) or a
    table of pictures, as `tables` describes it. Touching nuclei of one type are split where only
    types are given. ``classes`` (``class_map``, ``ignore_classes``) say what the class names of
    labels mean, and the numbers of HoVer-Net and CoNSeP.

    Pictures and labels are brought to ``mpp`` micrometres per pixel, which those of folders have
    already. A share ``held_out`` of each picture's area is set aside as a rectangle whose place
    depends on ``seed`` and the name alone; of ``held_out_patients`` everything is. Of pictures that
    show the same tissue one stays. Those without tissue are left out with a warning, those named in
    ``exclude`` without one; ``folds`` picks those of some folds of Lizard as downloaded. With
    ``normalise_to``, a picture or slide, the stains of each source are estimated once, from all its
    pictures, and replaced by those of the target; ``stain_backend`` is one of `stain.BACKENDS`.
    ``max_pixels`` is the most of a picture.

    Raises:
        DatasetError: a source is none of these, a picture and its labels do not fit, or no pixel is
            as large as ``mpp``, or no picture has tissue.
        OutputError: ``out`` exists already, or cannot be written.
    """
    out = Path(out)
    sources = [Path(source) for source in sources]
    keep_inputs([out], [*sources, normalise_to])
    if not 0 < mpp <= COARSEST:
        raise DatasetError(f"pixels of {mpp} micrometres: give `mpp` from 0 to {COARSEST}")
    found = _chosen(sources, exclude, folds)
    if absent := set(held_out_patients) - {row.patient for row, _ in found}:
        raise DatasetError(
            f"there is no picture of patient {min(absent)!r}: `held_out_patients` are those of a "
            "table of pictures"
        )
    if out.exists():
        raise OutputError(f"{out} exists: choose another folder or remove it")
    check_writable(out)
    repaint = _repainters(found, normalise_to, mpp, stain_backend, progress)
    rows = []
    with whole_or_nothing(out) as part:
        for done, (row, source) in enumerate(found):
            picture = _repainted(_read(row, mpp, max_pixels=max_pixels, **classes), repaint[source])
            whole = [[0, 0, *picture.types.shape]]
            unseen = row.patient and row.patient in held_out_patients
            boxes = whole if unseen else _held_out(picture, held_out, row.name, seed)
            if facts := _facts(row, picture, mpp, boxes):
                _write(part / row.name, picture)
                rows.append(facts)
            if progress:
                progress("preparing", done + 1, len(found))
        if not rows:
            raise DatasetError("no picture has tissue whose stain can be measured")
        manifest = {"format": FORMAT, "mpp": mpp, "seed": seed, "regions": rows}
        if normalise_to is not None:
            manifest["normalised"] = {"target": str(normalise_to), "backend": stain_backend}
        text = json.dumps(manifest, indent=1)
        (part / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
    return rows


def _chosen(
    sources: list[Path], exclude: tuple[str, ...], folds: tuple[int, ...]
) -> list[tuple[Labelled, int]]:
    """Return the pictures to prepare, each with the number of its source.

    Raises:
        DatasetError: a name or fold that no picture has, or a name that two have.
    """
    found = [
        (row, k)
        for k, source in enumerate(sources)
        for row in (read_table(source) if source.is_file() else find(source))
    ]
    names = [row.name for row, _ in found]
    if unknown := set(exclude) - set(names):
        raise DatasetError(f"there is no picture {sorted(unknown)[0]!r} to exclude")
    if absent := set(folds) - {row.fold for row, _ in found}:
        raise DatasetError(f"there is no fold {min(absent)}: `folds` are those of info.csv")
    if twice := {n for n in names if names.count(n) > 1}:
        raise DatasetError(f"two pictures are called {sorted(twice)[0]!r}: rename one of them")
    found = [
        (row, k) for row, k in found if row.name not in exclude and (not folds or row.fold in folds)
    ]
    single = without_copies([row for row, _ in found])
    if copies := len(found) - len(single):
        log.info("%d pictures show the same tissue as others and are left out", copies)
    return [(row, k) for row, k in found if row in single]


@dataclass(frozen=True)
class _Picture:
    """A picture and its labels at the pixel size of the dataset, and its own size (h, w) before."""

    image: np.ndarray
    instances: np.ndarray
    types: np.ndarray
    regions: np.ndarray | None
    own: tuple[int, int]

    @property
    def published(self) -> np.ndarray:
        """Bool (h, w): where something is known."""
        return self.types != UNPUBLISHED


def _read(row: Labelled, mpp: float, **reading: Any) -> _Picture:
    image = read_rgb(row.picture, reading["max_pixels"])
    height, width = image.shape[:2]
    frame = Frame.of((height, width), row.mpp or mpp, mpp)
    image = frame.picture(image)
    instances, types = nuclei_of(row, image, frame, **reading)
    if stray := sorted(set(np.unique(types)) - {*range(len(TYPES)), UNPUBLISHED}):
        raise DatasetError(f"{row.labels}: type {stray[0]} is not 0 to 6 or 255")
    regions = regions_of(row, frame, reading["max_pixels"])
    return _Picture(image, instances, types, regions, frame.own)


def _repainted(picture: _Picture, repaint: Repaint) -> _Picture:
    known = picture.published[..., None]
    return replace(picture, image=np.where(known, repaint(picture.image), picture.image))


def _write(folder: Path, picture: _Picture) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.image).save(folder / "image.png")
    Image.fromarray(picture.types).save(folder / "types.png")
    tifffile.imwrite(
        folder / "instances.tif",
        picture.instances.astype(np.uint32),
        compression="zlib",
        predictor=True,
    )
    if picture.regions is not None:
        Image.fromarray(picture.regions).save(folder / "regions.png")


def _facts(row: Labelled, picture: _Picture, mpp: float, held_out: list[list[int]]) -> dict | None:
    """Return the row of a picture in the manifest, or None, with a warning, if it has no tissue."""
    try:
        stain = StainStatistics.of(picture.image[picture.published])
    except SlideError as error:
        log.warning("%s is left out: %s", row.picture, error)
        return None
    index, first = np.unique(picture.instances, return_index=True)
    counts = np.bincount(picture.types.flat[first[index > 0]], minlength=len(TYPES))
    return {
        "name": row.name,
        "source": str(row.picture),
        "size": list(picture.types.shape),
        "published": int(picture.published.sum()),
        "held_out": held_out,
        "nuclei": {t: int(c) for t, c in zip(TYPES[1:], counts[1:], strict=False)},
        "stain_mean": stain.mean.tolist(),
        "stain_covariance": stain.covariance.tolist(),
        "mpp": mpp,
        "source_mpp": row.mpp or mpp,
        "fold": row.fold,
        "labels": row.origins,
        "patient": row.patient,
        "collection": row.collection,
        "histology": row.histology,
    }


def _held_out(picture: _Picture, share: float, name: str, seed: int) -> list[list[int]]:
    """Return the rectangle that is held out, if any.

    It is drawn in the picture's own pixels, so that it shows the same tissue at every ``mpp``.
    """
    if not share:
        return []
    size = picture.types.shape
    own = nearest(picture.published, picture.own)
    scale = np.divide(size, picture.own)
    box = held_out_box(own, share, name, seed)
    return [[round(edge * k) for edge, k in zip(box, (*scale, *scale), strict=True)]]


def held_out_box(published: np.ndarray, share: float, name: str, seed: int) -> list[int]:
    """Draw a square of ``share`` of the published area that is published as far as possible."""
    side = max(1, round((share * published.sum()) ** 0.5))
    size = (min(side, published.shape[0]), min(side, published.shape[1]))
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return list(random_box(published, size, rng))


def _repainters(
    found: list[tuple[Labelled, int]],
    target: Path | None,
    mpp: float,
    backend: str,
    progress: Progress,
) -> dict[int, Repaint]:
    """Return for each source the function for its pictures: normalisation, or identity."""
    sources = sorted({k for _, k in found})
    if target is None:
        return {k: lambda picture: picture for k in sources}
    extract = BACKENDS[backend]
    wanted = fit_stains(tissue_sample(target, mpp=mpp), extract=extract)
    repaint: dict[int, Repaint] = {}
    for done, source in enumerate(sources):
        pooled = [_pixels_of(row) for row, k in found if k == source]
        own = fit_stains(np.concatenate(pooled), extract=extract)
        repaint[source] = partial(normalise, source=own, target=wanted)
        if progress:
            progress("fitting stains", done + 1, len(sources))
    return repaint


def _pixels_of(row: Labelled, count: int = 20_000) -> np.ndarray:
    """Sample published pixels of a picture, uint8 (n, 3)."""
    image = read_rgb(row.picture).reshape(-1, 3)
    if row.labels and row.labels.suffix.casefold() in PICTURES:
        image = image[read_labels(row.labels)[1].ravel() != UNPUBLISHED]
    return np.random.default_rng(0).permutation(image)[:count]

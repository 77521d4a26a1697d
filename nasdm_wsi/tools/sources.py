"""Folders of labelled pictures: the pairs of picture and labels.

Layouts, whose names may be in capitals or not:

    images/NAME.png, labels/NAME.mat             of Lizard, HoVer-Net or CoNSeP
    Lizard_Images1/.../NAME.png, Lizard_Images2/.../NAME.png, Lizard_Labels/.../NAME.mat
                                                 Lizard as it is downloaded, with info.csv
    NAME.png, NAME_classes.png                   types alone, 255 where nothing is known

Pictures may be PNG, TIFF, JPEG or BMP.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DatasetError

UNPUBLISHED = 255
HISTOLOGIES = ("normal", "adenoma", "carcinoma")
PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
_LAYOUTS = "neither images/NAME.png with labels/NAME.mat, nor NAME.png with NAME_classes.png"
_CLASSES = "_classes"


@dataclass(frozen=True)
class Labelled:
    """A picture with the files of its labels, and what is known about it.

    labels: outlines of nuclei; None if there are none, or only ``points`` (`tables`).
    fold: that of Lizard, 1 to 3, if info.csv gives it.
    mpp: micrometres per pixel; None for those of the dataset.
    pseudo: which labels are predictions, of "nuclei" and "regions".
    same_as: the name of a picture of the same tissue.
    histology: one of `HISTOLOGIES`, or empty.
    """

    name: str
    picture: Path
    labels: Path | None
    fold: int | None = None
    mpp: float | None = None
    points: Path | None = None
    regions: Path | None = None
    pseudo: tuple[str, ...] = ()
    patient: str = ""
    collection: str = ""
    same_as: str = ""
    histology: str = ""

    @property
    def origins(self) -> dict[str, str]:
        """Where the labels of nuclei and of regions come from: published, pseudo, points, none."""
        given = {"nuclei": self.labels or self.points, "regions": self.regions}
        origins = {
            kind: "none" if path is None else "pseudo" if kind in self.pseudo else "published"
            for kind, path in given.items()
        }
        return origins | ({"nuclei": "points"} if self.points else {})


def original(name: str, same_as: Mapping[str, str]) -> str:
    """Follow ``same_as``, a picture to its copy, to the picture that is the same as no other.

    Raises:
        DatasetError: there is no such picture, because the names lead back to ``name``.
    """
    passed = {name}
    while after := same_as.get(name):
        if after in passed:
            raise DatasetError(f"same_as leads from {after!r} back to it: leave one of them empty")
        passed.add(name := after)
    return name


def without_copies(found: list[Labelled]) -> list[Labelled]:
    """Return the pictures without those that show the tissue of another one.

    Of several copies stays the one that the others name, or else the first.
    """
    same_as = {row.name: row.same_as for row in found}
    originals = {row.name: original(row.name, same_as) for row in found}
    kept = set(originals) & set(originals.values())
    taken = set(kept)
    for name, first in originals.items():
        if first not in taken:
            taken.add(first)
            kept.add(name)
    return [row for row in found if row.name in kept]


def find(source: Path) -> list[Labelled]:
    """Return all labelled pictures in a folder, by name.

    Raises:
        DatasetError: it has none of the layouts, a picture has no labels, or labels have no
            picture.
    """
    folders = {path.name.casefold(): path for path in sorted(source.iterdir()) if path.is_dir()}
    if {"images", "labels"} <= folders.keys():
        return _paired(_files(folders["images"]), _files(folders["labels"], ".mat"), source)
    if "lizard_labels" in folders:
        return _lizard(folders, source)
    files = _files(source)
    labels = {name: paths for name, paths in files.items() if name.endswith(_CLASSES)}
    named = {name.removesuffix(_CLASSES): paths for name, paths in labels.items()}
    pictures = {name: paths for name, paths in files.items() if name in named}
    return _paired(pictures, named, source)


Files = dict[str, list[Path]]  # by their names without suffix


def _files(folder: Path, *suffixes: str, deep: bool = False) -> Files:
    """Return the files in a folder, by default the pictures; hidden ones are left out.

    deep: also those in folders within it.
    """
    found: Files = {}
    for path in sorted(folder.rglob("*") if deep else folder.iterdir()):
        hidden = path.name.startswith(".") or "__MACOSX" in path.parts
        if path.suffix.casefold() in (suffixes or PICTURES) and not hidden:
            found.setdefault(path.stem, []).append(path)
    return found


def _lizard(folders: dict[str, Path], source: Path) -> list[Labelled]:
    """Find the pictures of Lizard as downloaded: three archives, unpacked beside each other."""
    pictures: Files = {}
    for name, folder in folders.items():
        if name.startswith("lizard_images"):
            for stem, paths in _files(folder, deep=True).items():
                pictures[stem] = pictures.get(stem, []) + paths
    labels = _files(folders["lizard_labels"], ".mat", deep=True)
    tables = sorted(folders["lizard_labels"].rglob("info.csv"))
    folds = _folds(tables[0]) if tables else {}
    return [replace(row, fold=folds.get(row.name)) for row in _paired(pictures, labels, source)]


def _folds(table: Path) -> dict[str, int]:
    """Return the fold of each picture, from Lizard's columns Filename and Split.

    Raises:
        DatasetError: the table has other columns.
    """
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        return {Path(row["Filename"]).stem: int(row["Split"]) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{table}: columns Filename and Split are needed, with numbers as Split"
        ) from error


def _paired(pictures: Files, labels: Files, source: Path) -> list[Labelled]:
    """Return each picture with its labels.

    Raises:
        DatasetError: there are no pictures, a picture or its labels are missing, or there are two.
    """
    if not pictures and not labels:
        raise DatasetError(f"{source}: {_LAYOUTS}")
    if alone := sorted(labels.keys() - pictures.keys()):
        raise DatasetError(
            f"{labels[alone[0]][0]} has no picture ({len(alone)} such labels): "
            f"add it as {', '.join(PICTURES)}, or remove the labels"
        )
    if alone := sorted(pictures.keys() - labels.keys()):
        raise DatasetError(
            f"{pictures[alone[0]][0]}: its labels {alone[0]}.mat are missing: each picture needs "
            "its labels"
        )
    for paths in (*pictures.values(), *labels.values()):
        if len(paths) > 1:
            raise DatasetError(f"{paths[0]} and {paths[1]} have one name: remove one of them")
    return [Labelled(name, pictures[name][0], labels[name][0]) for name in sorted(pictures)]

"""Folders of labelled pictures: the pairs of picture and labels, and reading of the labels.

Layouts, whose names may be in capitals or not:

    images/NAME.png, labels/NAME.mat             of Lizard, HoVer-Net or CoNSeP
    Lizard_Images1/.../NAME.png, Lizard_Images2/.../NAME.png, Lizard_Labels/.../NAME.mat
                                                 Lizard as it is downloaded, with info.csv
    NAME.png, NAME_classes.png                   types alone, 255 where nothing is known

Pictures may be PNG, TIFF, JPEG or BMP.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..annotations.contents import Source
from ..annotations.findings import Findings
from ..annotations.hovernet_mat import is_hovernet, read_instances
from ..annotations.labels import split_touching
from ..annotations.lizard import read_mat_labels
from ..annotations.types import ClassNames
from ..errors import DatasetError

UNPUBLISHED = 255
PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
_LAYOUTS = "neither images/NAME.png with labels/NAME.mat, nor NAME.png with NAME_classes.png"
_CLASSES = "_classes"


@dataclass(frozen=True)
class Labelled:
    """A picture with its labels; fold is Lizard's, 1 to 3, if info.csv gives it."""

    name: str
    picture: Path
    labels: Path
    fold: int | None = None


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


def read_labels(
    path: Path, class_map: Mapping[str, str] | None = None, ignore_classes: Iterable[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return instances int (h, w), 0 = none, and types uint8 (h, w), 255 where nothing is known.

    ``class_map`` and ``ignore_classes`` say what the numbers of HoVer-Net and CoNSeP mean; nuclei
    that are left out count as unknown.

    Raises:
        AnnotationError: damaged labels, or an unknown class.
        OSError, SyntaxError: a picture of types that cannot be read.
    """
    if path.suffix.casefold() != ".mat":
        types = read_picture(path)
        return split_touching(types), types
    if not is_hovernet(path):
        return read_mat_labels(path)
    instances, names = read_instances(Source(path))
    findings = Findings(path, ClassNames(class_map, ignore_classes))
    numbers = [findings.number(name) for name in names]
    findings.check(len(names))
    table = np.array([0, *(UNPUBLISHED if k is None else k for k in numbers)], np.uint8)
    types = table[instances]
    return np.where(types == UNPUBLISHED, 0, instances), types


def read_picture(path: Path) -> np.ndarray:
    """Return the pixels of a picture as they are stored."""
    with Image.open(path) as file:
        return np.array(file)


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

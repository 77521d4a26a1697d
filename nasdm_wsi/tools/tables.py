"""Tables of pictures for `prepare`: one row for each picture, as CSV or as a JSON list of objects.

Every column but ``image`` may be missing or empty. Paths count from the folder of the table.

    image       the picture
    name        its name in the dataset; by default that of its file without the suffix
    mpp         micrometres per pixel of the picture; by default that of the dataset
    nuclei      their labels: .mat, a picture of types, .npz of types and instances, or any
                annotation file
    points      instead of them, a CSV with the columns x, y and class, in pixels of the picture
    regions     labels of regions: a label image, or any annotation file with regions
    pseudo      which labels are predictions: nuclei, regions or both
    patient     whom the picture is of
    collection  where it was published
    same_as     the name of another picture that shows the same tissue
    histology   normal, adenoma or carcinoma
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .sources import HISTOLOGIES, Labelled

COLUMNS = (
    *("image", "name", "mpp", "nuclei", "points", "regions"),
    *("pseudo", "patient", "collection", "same_as", "histology"),
)
PSEUDO = ("nuclei", "regions")
COARSEST = 100.0  # micrometres per pixel


def read_table(path: Path) -> list[Labelled]:
    """Return the pictures of a table, in its order.

    Raises:
        DatasetError: the table is damaged, or the row that is wrong, and why.
    """
    try:
        rows = _rows(path)
    except (OSError, ValueError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(
            f"{path} is not a table of pictures ({reason}): save it as CSV or as a JSON list"
        ) from error
    if not rows:
        raise DatasetError(f"{path}: no pictures: add a row for each")
    return [_labelled(row, path, number) for number, row in enumerate(rows, 1)]


def _rows(path: Path) -> list[Mapping[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith(("[", "{")):
        return list(csv.DictReader(text.splitlines()))
    rows = json.loads(text)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("a list of objects is needed")
    return rows


def _labelled(row: Mapping[str, Any], path: Path, number: int) -> Labelled:
    def wrong(reason: str) -> DatasetError:
        return DatasetError(f"{path}, row {number}: {reason}")

    if unknown := [str(name) for name in row if name not in COLUMNS]:
        raise wrong(f"unknown column {unknown[0]!r}: use {', '.join(COLUMNS)}")
    texts = {name: str(row.get(name) or "").strip() for name in COLUMNS}
    files = {}
    for name in ("image", "nuclei", "points", "regions"):
        file = path.parent / texts[name] if texts[name] else None
        if file and not file.is_file():
            raise wrong(f"there is no file {file}: correct {name}")
        files[name] = file
    picture = files["image"]
    if picture is None:
        raise wrong("image is empty: give the path of the picture")
    if files["nuclei"] and files["points"]:
        raise wrong("nuclei and points are given: keep one of them")
    name = texts["name"] or picture.stem
    if name.startswith(".") or set(name) & set('/\\:*?"<>|'):
        raise wrong(f"{name!r} cannot be the name of a folder: change name")
    pseudo = tuple(texts["pseudo"].replace(",", " ").replace(";", " ").split())
    if odd := sorted(set(pseudo) - set(PSEUDO)):
        raise wrong(f"pseudo is {odd[0]!r}: use {' or '.join(PSEUDO)}, or both")
    if texts["histology"] not in ("", *HISTOLOGIES):
        raise wrong(f"histology is {texts['histology']!r}: use {', '.join(HISTOLOGIES)} or nothing")
    try:
        mpp = float(texts["mpp"]) if texts["mpp"] else None
    except ValueError as error:
        raise wrong(f"mpp is {texts['mpp']!r}: give a number") from error
    if mpp is not None and not 0 < mpp <= COARSEST:
        raise wrong(f"pixels of {mpp:g} micrometres: give a number above 0, up to {COARSEST:g}")
    return Labelled(
        name,
        picture,
        files["nuclei"],
        mpp=mpp,
        points=files["points"],
        regions=files["regions"],
        pseudo=pseudo,
        patient=texts["patient"],
        collection=texts["collection"],
        same_as=texts["same_as"],
        histology=texts["histology"],
    )

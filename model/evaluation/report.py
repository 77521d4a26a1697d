"""The report of an evaluation: a table, pictures, and a plot of the setting that was varied."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import NasdmError
from ...output import check_writable, keep_inputs, output_errors
from ...tools.dataset import MANIFEST
from .evaluate import SIDE

COLUMNS = 8  # of pictures in a report
NO_FIGURES = ("patches", "worst", "inputs")  # of a row
FILES = ("table.csv", "grid.png", "worst.png", "plot.png")


def picture_grid(
    rows: list[dict[str, Any]], *, chosen: list[int] | None = None, gap: int = 4
) -> np.ndarray:
    """Return a picture, uint8 (h, w, 3): real patches above, those of each row's settings below.

    ``chosen`` are their numbers; by default `COLUMNS` of them, evenly spread.
    """
    pairs = [row["patches"] for row in rows]
    if chosen is None:
        chosen = np.linspace(0, len(pairs[0]) - 1, COLUMNS).astype(int).tolist()
    pictures = [[pairs[0][i][0] for i in chosen]]
    pictures += [[painted[i][1] for i in chosen] for painted in pairs]
    framed = [
        np.pad(p, ((0, gap), (0, gap), (0, 0)), constant_values=255) for p in sum(pictures, [])
    ]
    side = SIDE + gap
    count, columns = 1 + len(pairs), len(chosen)
    grid = np.stack(framed).reshape(count, columns, side, side, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(count * side, columns * side, 3)


def check_report(folder: Path, dataset: Path, *others: Path | None) -> None:
    """Refuse a folder where a report would replace the dataset or another input.

    Raises:
        OutputError: the input, or why the folder cannot be written.
    """
    keep_inputs([folder / MANIFEST], [dataset / MANIFEST])  # the dataset's own folder
    keep_inputs([folder / name for name in FILES], [dataset, *others])
    if folder.exists():
        check_writable(folder / FILES[0])


def write_report(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write table.csv, grid.png and worst.png, and for several rows plot.png of the varied setting.

    Raises:
        OutputError: see `check_report`.
        NasdmError: the plot needs matplotlib, of the extra ``evaluate``.
    """
    check_report(folder, *rows[0]["inputs"])
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _write_report(folder, rows)


def _write_report(folder: Path, rows: list[dict[str, Any]]) -> None:
    names = [name for name in rows[0] if name not in NO_FIGURES]
    with open(folder / "table.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, names, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    Image.fromarray(picture_grid(rows)).save(folder / "grid.png")
    worst = picture_grid(rows[:1], chosen=rows[0]["worst"][:COLUMNS])
    Image.fromarray(worst).save(folder / "worst.png")
    if len(rows) == 1:
        return
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NasdmError("plots need matplotlib: pip install 'nasdm-wsi[evaluate]'") from error
    changed, shown = names[0], [name for name in names if name.startswith("Fréchet distance (")]
    shown.append("dark spots that are nuclei (painted)")
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(shown)), shown, strict=True):
        axes.plot([row[changed] for row in rows], [row[name] for row in rows], marker="o")
        axes.set(xlabel=changed, title=name)
    figure.savefig(folder / "plot.png", dpi=120)

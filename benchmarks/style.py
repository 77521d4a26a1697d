"""Does a slide have the stain that was asked for, and the same everywhere?

    python benchmarks/style.py [--side 1024] [--weights FILE]
    python benchmarks/style.py --sources FILE ... [--picture FILE.jpg [--shown FILE ...]]

The middle of the example is rendered in each named style. The benchmark measures the style vector
of the tissue in the whole picture and in each of its 16 squares; "spread" is the standard
deviation between squares. Squares also differ in how many nuclei they have. The last column
therefore shows the deviation of eosin between the squares' ground, where there are no nuclei.

With ``--sources``, two places of the example are rendered instead, each in the style of each slide
or picture. For the worse place the table gives the share of tissue pixels darker than 60 in all
channels, the grey level of the ground in the source and as painted, and by how much the style of
the picture misses the one asked for, after holding. The ground is tissue with less haematoxylin
than Otsu's threshold. ``--picture`` shows the painted places beside their sources: beside colours
of the source's nuclei and ground, or beside pixels of those ``--shown``.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from measure import machine, table
from PIL import Image
from skimage.color import hed_from_rgb
from skimage.filters import threshold_otsu

from nasdm_wsi import plan_render, read_annotations, render_region
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.model import Painter
from nasdm_wsi.model.checkpoint import SHIPPED
from nasdm_wsi.model.styles import NUMBERS
from nasdm_wsi.slides.reading import find_style, tissue_sample
from nasdm_wsi.slides.stain import STYLES, haematoxylin, style_vector
from nasdm_wsi.slides.tissue import (
    BLACK,
    TISSUE_DENSITY,
    clean_tissue,
    optical_density,
    tissue_mask,
)

EXAMPLE = Path(__file__).parents[1] / "examples" / "annotations.geojson"
PLACES = (640, 700), (150, 200)  # (y, x) in the example: crypts, and the stroma between
SIDE, SHOWN = 384, 192  # pixels: of a place, and of what a picture shows of it
LIMITS = {"dark": 0.01, "lighter": 15, "apart": 0.1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--sources", type=Path, nargs="+", default=[])
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--shown", type=Path, nargs="+", default=[])
    options = parser.parse_args()
    print(machine("torch"))
    nuclei = read_annotations(EXAMPLE, mpp=0.5)
    if options.sources:
        follow(options.sources, Painter(options.weights), nuclei, options.picture, options.shown)
    else:
        named(nuclei, options.weights, options.side)


def named(nuclei: Nuclei, weights: Path, side: int) -> None:
    """Render the named styles."""
    rows = []
    for name in STYLES:
        painter = Painter(weights, style=find_style(name))
        corner = (1536 - side) // 2
        job = plan_render(
            nuclei,
            painter,
            size=(1536, 1536),
            region=(corner, corner, corner + side, corner + side),
        )
        picture = render_region(job)
        _, types = Conditioning(job.nuclei, job.plan.size).labels(job.region)
        ground = tissue_mask(picture) & (types == 0)
        n = side // 4
        squares = [
            np.s_[y : y + n, x : x + n] for y in range(0, side, n) for x in range(0, side, n)
        ]
        eosin = (optical_density(picture) @ hed_from_rgb)[..., 1]
        got, spread = style_vector(picture), np.std([style_vector(picture[s]) for s in squares], 0)
        of_ground = np.std([eosin[s][ground[s]].mean() for s in squares])
        asked = find_style(name)
        rows.append((name, "asked", *asked, ""))
        rows.append(("", "painted", *got.round(3), round(of_ground, 3)))
        rows.append(("", "spread", *spread.round(3), ""))
    amounts = [f"{what} {stain}" for what in ("mean", "sd") for stain in ("H", "E", "residual")]
    table(("style", "", *amounts, "ground E"), rows)


class Seen(NamedTuple):
    """Of a picture: mean RGB (3,) of nuclei and of ground, and the share of tissue that is dark."""

    nuclei: np.ndarray
    ground: np.ndarray
    dark: float


def follow(
    sources: list[Path], painter: Painter, nuclei: Nuclei, picture: Path | None, shown: list[Path]
) -> None:
    """Render two places in the style of each source."""
    logging.getLogger("nasdm_wsi").setLevel(logging.ERROR)  # the table says what was moved
    cells: list[np.ndarray] = []
    misses = dict.fromkeys(LIMITS, 0)

    def rows() -> Iterator[tuple]:
        for source in sources:
            tiles, asked = tissue_sample(source), find_style(str(source))
            styled, before = painter.restyled(asked), look(tiles)
            painted = [place(nuclei, styled, corner) for corner in PLACES]
            after = [look(p) for p in painted]
            found = {
                "dark": max(a.dark for a in after),
                "lighter": max(a.ground.mean() for a in after) - before.ground.mean(),
                "apart": max(np.abs(style_vector(p) - styled.style).max() for p in painted),
            }
            for name, limit in LIMITS.items():
                misses[name] += bool(found[name] > limit)
            cells.append(cell(tiles[0] if source in shown else None, before, painted[0]))
            ground = before.ground.mean()
            yield (
                "/".join((*source.parts[-3:-1], source.stem)),
                moved(asked, styled.style),
                f"{100 * found['dark']:.2f} %",
                f"{ground:.0f} to {ground + found['lighter']:.0f}",
                f"{found['apart']:.2f}",
            )

    head = ("source", "held", "dark", "ground", "style missed by")
    table(head, rows())
    print(f"beyond the limits {LIMITS}, of {len(sources)} sources: {misses}")
    if picture:
        Image.fromarray(mosaic(cells)).save(picture, quality=80)


def place(nuclei: Nuclei, painter: Painter, corner: tuple[int, int]) -> np.ndarray:
    """A square of the example, uint8 (SIDE, SIDE, 3), rendered alone."""
    y, x = corner
    inside = nuclei.shifted(-y, -x).within((0, 0, SIDE, SIDE))
    return render_region(plan_render(inside, painter, size=(SIDE, SIDE), seed=0))


def look(rgb: np.ndarray) -> Seen:
    """Measure uint8 RGB (..., h, w, 3)."""
    tissue = optical_density(rgb).mean(-1) > TISSUE_DENSITY
    dark = (rgb.max(-1) < BLACK)[tissue].mean()
    clean = rgb[clean_tissue(rgb)]
    amount = haematoxylin(clean)
    nuclear = amount > threshold_otsu(amount)
    return Seen(clean[nuclear].mean(0), clean[~nuclear].mean(0), float(dark))


def moved(asked: np.ndarray, used: np.ndarray) -> str:
    """Which numbers of a style were held."""
    each = zip(NUMBERS, asked, used, strict=True)
    pairs = ((name, f"{a:.2f}", f"{u:.2f}") for name, a, u in each)
    return ", ".join(f"{name} {a} to {u}" for name, a, u in pairs if a != u)


def cell(source: np.ndarray | None, seen: Seen, painted: np.ndarray) -> np.ndarray:
    """Half a square of the source, or its two colours, and a square as painted."""
    half = np.empty((SHOWN, SHOWN // 2, 3), np.uint8)
    half[: SHOWN // 2], half[SHOWN // 2 :] = seen.nuclei, seen.ground
    if source is not None:
        half[:] = source[:SHOWN, : SHOWN // 2]
    edge = (SIDE - SHOWN) // 2
    return np.concatenate([half, painted[edge : edge + SHOWN, edge : edge + SHOWN]], axis=1)


def mosaic(cells: list[np.ndarray], columns: int = 5) -> np.ndarray:
    """Cells in rows from left to right, with white between them."""
    cells = [np.pad(c, ((3, 3), (3, 3), (0, 0)), constant_values=255) for c in cells]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)]
    return np.concatenate(rows)


if __name__ == "__main__":
    main()

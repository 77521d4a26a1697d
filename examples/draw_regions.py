"""Draw one piece of tissue with all regions, and nuclei in them.

python examples/draw_regions.py drawing.geojson
nasdm-wsi render drawing.geojson -o slide.ome.tif --mpp 0.5 --size 1120 680 --style lizard
python examples/region_picture.py slide.ome.tif regions.jpg
"""

import argparse
from pathlib import Path

import numpy as np
import shapely
from shapely import Point, Polygon

from nasdm_wsi.annotations.geojson import write_geojson
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.regions import Regions
from nasdm_wsi.layouts.populate import Populated
from nasdm_wsi.layouts.writing import layout_box

WIDTH, HEIGHT = 560, 340  # micrometres


def waves(y: float, height: float, *, phase: float) -> np.ndarray:
    """A wavy line from the left side to the right one, (n, 2)."""
    x = np.arange(-20, WIDTH + 21, 4.0)
    wave = np.sin(x / 37 + phase) + 0.4 * np.sin(x / 13 + 2 * phase)
    return np.stack([x, y + height * wave], axis=1)


def band(top: np.ndarray, bottom: np.ndarray) -> Polygon:
    return Polygon(np.concatenate([top, bottom[::-1]]))


def blob(x: float, y: float, radius: float, *, phase: float = 0.0, ratio: float = 1.0) -> Polygon:
    """A round outline with bumps; ``ratio`` is its width over its height."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    bumps = radius * (1 + 0.07 * np.sin(3 * angle + phase) + 0.05 * np.sin(5 * angle - phase))
    ring = np.stack([np.cos(angle) * ratio, np.sin(angle)], 1) * bumps[:, None]
    return Polygon(ring + (x, y))


def crypt(x: float, y: float, phase: float) -> list[tuple[str, Polygon]]:
    """The wall of a crypt, the goblets in it, and its lumen."""
    parts = [("epithelium", blob(x, y, 38, phase=phase))]
    for angle in phase + np.arange(7) * 2 * np.pi / 7:
        goblet = Point(x + 20 * np.cos(angle), y + 20 * np.sin(angle)).buffer(6)
        parts.append(("mucus", goblet))
    return [*parts, ("lumen", blob(x, y, 9, phase=phase))]


def drawing() -> Regions:
    """All regions, at 1 micrometre a pixel; later ones lie over earlier ones."""
    surface, below = waves(36, 4, phase=0), waves(58, 4, phase=0.2)
    muscle, fat = waves(248, 4, phase=2), waves(292, 3, phase=2.4)
    floor = waves(HEIGHT + 30, 0, phase=0)
    parts = [
        ("stroma", band(surface, floor)),
        ("glass", band(waves(-30, 0, phase=0), surface)),
        ("epithelium", band(surface, below)),
        ("muscle", band(muscle, fat)),
        ("fat", band(fat, floor)),
        *crypt(62, 120, 0.3),
        *crypt(150, 130, 1.7),
        *crypt(238, 118, 2.9),
        ("blood", blob(95, 205, 20, phase=1, ratio=2.4)),
        ("mucus", blob(245, 203, 26, phase=2, ratio=2.2)),
        ("epithelium", blob(430, 150, 84, phase=0.7, ratio=1.3)),
        ("lumen", blob(390, 145, 34, phase=1.1)),
        ("debris", blob(390, 145, 22, phase=2.3)),
        ("lumen", blob(475, 120, 17, phase=1.9, ratio=1.5)),
        ("stroma", blob(470, 178, 22, phase=0.2, ratio=1.6)),
    ]
    names, shapes = zip(*parts, strict=True)
    canvas = shapely.box(0, 0, WIDTH, HEIGHT)
    return Regions.from_polygons(shapely.intersection(shapes, canvas), names, mpp=1.0)


def nuclei_in(regions: Regions, *, seed: int) -> Nuclei:
    """Invented nuclei in these regions, and the regions."""
    source = Populated(regions.within, seed=seed)
    nuclei = layout_box(source, (0, 0, HEIGHT, WIDTH), seed=seed)
    return Nuclei.from_polygons(nuclei.polygons(), nuclei.types, mpp=1.0, regions=regions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    write_geojson(options.out, nuclei_in(drawing(), seed=options.seed).scaled(0.5))


if __name__ == "__main__":
    main()

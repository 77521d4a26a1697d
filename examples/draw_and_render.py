"""Draw nuclei in Python and render them: a crypt of epithelium among connective tissue.

    python examples/draw_and_render.py -o crypt.ome.tif

The slide has crypt.geojson beside it; both open in QuPath.
"""

import argparse
from pathlib import Path

import numpy as np
import shapely
from shapely.affinity import rotate, scale, translate

from nasdm_wsi import Nuclei, plan_render, render
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.model import Painter
from nasdm_wsi.model.checkpoint import SHIPPED

SIDE = 384  # pixels of 0.5 micrometres
RADIUS, COUNT = 70, 32  # of the crypt, and its nuclei


def nucleus(x: float, y: float, *, length: float, width: float, angle: float) -> shapely.Polygon:
    """An ellipse about (x, y) in pixels; its long axis at ``angle`` degrees."""
    return translate(rotate(scale(shapely.Point(0, 0).buffer(1), length, width), angle), x, y)


def draw(rng: np.random.Generator) -> Nuclei:
    """A ring of epithelial nuclei that point inwards, and spindles where there is room."""
    drawn = []
    for angle in np.arange(COUNT) * 360 / COUNT:
        x, y = SIDE / 2 + RADIUS * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        drawn.append(("epithelial", nucleus(x, y, length=9, width=5, angle=angle)))
    crypt = shapely.Point(SIDE / 2, SIDE / 2).buffer(RADIUS + 20)
    for x, y in rng.uniform(10, SIDE - 10, (120, 2)):
        spindle = nucleus(x, y, length=9, width=3, angle=rng.uniform(0, 180))
        if not any(spindle.intersects(other) for other in (crypt, *(o for _, o in drawn))):
            drawn.append(("connective", spindle))
    names, polygons = zip(*drawn, strict=True)
    return Nuclei.from_polygons(polygons, [TYPES.index(name) for name in names], mpp=0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    nuclei = draw(np.random.default_rng(options.seed))
    job = plan_render(nuclei, Painter(options.weights), size=(SIDE, SIDE), seed=options.seed)
    render(job, options.output)
    print(nuclei, options.output, sep="\n")


if __name__ == "__main__":
    main()

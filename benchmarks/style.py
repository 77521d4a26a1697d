"""Does a slide have the stain that was asked for, and the same everywhere?

    python benchmarks/style.py [--side 1024] [--weights FILE]

The middle of the example is rendered in each named style. The benchmark measures the style vector
of the tissue in the whole picture and in each of its 16 squares; "spread" is the standard
deviation between squares. Squares also differ in how many nuclei they have. The last column
therefore shows the deviation of eosin between the squares' ground, where there are no nuclei.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from measure import machine, table
from skimage.color import hed_from_rgb

from nasdm_wsi import plan_render, read_annotations, render_region
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.model import Painter
from nasdm_wsi.model.checkpoint import SHIPPED
from nasdm_wsi.slides.reading import find_style
from nasdm_wsi.slides.stain import STYLES, style_vector
from nasdm_wsi.slides.tissue import optical_density, tissue_mask

EXAMPLE = Path(__file__).parents[1] / "examples" / "annotations.geojson"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    options = parser.parse_args()
    print(machine("torch"))
    nuclei, side = read_annotations(EXAMPLE, mpp=0.5), options.side
    rows = []
    for name in STYLES:
        painter = Painter(options.weights, style=find_style(name))
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
        rows.append(("", "painted", *got, of_ground))
        rows.append(("", "spread", *spread, ""))
    amounts = [f"{what} {stain}" for what in ("mean", "sd") for stain in ("H", "E", "residual")]
    table(("style", "", *amounts, "ground E"), rows)


if __name__ == "__main__":
    main()

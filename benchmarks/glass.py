"""Time saved by glass: the same slide with and without an outline of its tissue.

    python benchmarks/glass.py [--side 6144] [--steps 1]

In the second slide an ellipse of tissue covers 40 %. The first has no outline, so all of it is
rendered.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import shapely
from measure import machine, table
from reproduce import section

from nasdm_wsi import plan_render, render
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.model import Painter

SHARE = 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=6144)
    parser.add_argument("--steps", type=int, default=1)
    options = parser.parse_args()
    print(machine("torch"))
    side = options.side
    circle = shapely.Point(side / 2, side / 2).buffer(side * math.sqrt(SHARE / math.pi), 64)
    nuclei = section(side)
    inside = nuclei.take(shapely.contains(circle, nuclei.polygons()).nonzero()[0])
    rows = []
    for name, some in (("no outline", nuclei), ("40 % tissue", replace(inside, tissue=circle))):
        job = plan_render(some, Painter(steps=options.steps), size=(side, side))
        with TemporaryDirectory(dir=".") as folder:
            begin = time.perf_counter()
            render(job, Path(folder, "slide.ome.tif"))
            seconds = time.perf_counter() - begin
        glass = Conditioning(job.nuclei, job.plan.size).is_glass
        painted = sum(not glass(job.plan.part(block)) for block in job.blocks)
        rows.append((name, painted, seconds, seconds / (rows[0][2] if rows else seconds)))
    table(("slide", "blocks painted", "s", "of the first"), rows)


if __name__ == "__main__":
    main()

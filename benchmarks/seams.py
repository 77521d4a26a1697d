"""Seams of the shipped model, and of slides that must have them, found by `nasdm-wsi seams`.

    python examples/make_annotations.py --size 4096 -o nuclei.geojson
    python benchmarks/seams.py nuclei.geojson --size 4096 -o seams --real SLIDE

Renders these slides with the shipped weights and prints a table for each:

- shipped: as `render` makes it, lossless, and the same pixels as JPEG;
- butt tiles: each block rendered without its neighbours;
- uniform averaging: overlapping windows rendered separately and averaged where they overlap;
- real: a scanned slide on an arbitrary grid of 512 pixels.

Slides that are already in the folder are measured and not rendered again.
"""

import argparse
import copy
import dataclasses
from pathlib import Path

import numpy as np
import tifffile

from nasdm_wsi.geometry import Box, Plan
from nasdm_wsi.model import Painter
from nasdm_wsi.rendering import plan_render, read_annotations, render
from nasdm_wsi.slides import ome_tiff
from nasdm_wsi.tools.seams import measure_seams


class Uniform(Plan):
    """Blend windows with equal weights where they overlap."""

    def _profile(self, core: Box, axis: int) -> np.ndarray:
        return np.where(super()._profile(core, axis) < 1, 0.5, 1.0)


def cut(painter: Painter, kind: type[Plan], **geometry: int) -> Painter:
    """The painter with a plan in which windows do not exchange states."""
    other = copy.copy(painter)
    phases = ((0, len(painter.sigmas) - 1),)

    def plan(size: tuple[int, int]) -> Plan:
        changed = dataclasses.replace(painter.plan(size), phases=phases, **geometry)
        return kind(**vars(changed))

    other.plan = plan
    return other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", type=Path, help="at 0.5 micrometres per pixel")
    parser.add_argument("--size", type=int, default=4096, help="pixels a side")
    parser.add_argument("--controls", type=int, default=2048, help="pixels a side of controls")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("-o", "--output", type=Path, default=Path("seams"), help="a folder")
    parser.add_argument("--real", type=Path, help="a scanned slide")
    options = parser.parse_args()
    options.output.mkdir(exist_ok=True)
    nuclei = read_annotations(options.annotations, mpp=0.5)
    painter = Painter(steps=options.steps)
    painters = {
        "shipped": (painter, options.size),
        "butt tiles": (cut(painter, Plan, margin=0), options.controls),
        "uniform averaging": (
            cut(painter, Uniform, stride=256, margin=32, taper=32),
            options.controls,
        ),
    }
    for name, (painted_by, side) in painters.items():
        lossless = options.output / f"{name.replace(' ', '-')}.ome.tif"
        jpeg = options.output / f"{name.replace(' ', '-')}-jpeg.ome.tif"
        job = plan_render(nuclei, painted_by, size=(side, side))
        if not lossless.exists():
            render(job, lossless, lossless=True, overwrite=True)
        pixels, text = tifffile.imread(lossless), job.provenance
        ome_tiff.write(jpeg, pixels, mpp=painter.mpp, description=text)
        table(f"{name}, lossless, {side} x {side}", lossless)
        table(f"{name}, JPEG, {side} x {side}", jpeg)
    if options.real:
        table(f"real, {options.real.name}", options.real, stride=512)


def table(title: str, slide: Path, **settings: int) -> None:
    findings = measure_seams(slide, **settings)
    print(f"\n**{title}**: seams {'FOUND' if any(f.found for f in findings) else 'none found'}\n")
    print("| measure | value | interval | p | seam |\n|---|---|---|---|---|")
    for f in findings:
        span = f"{f.low:#.3g} to {f.high:#.3g}"
        print(f"| {f.name} | {f.value:#.3g} | {span} | {f.p:.4f} | {'yes' if f.found else 'no'} |")


if __name__ == "__main__":
    main()

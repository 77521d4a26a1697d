"""Make a slide of any size with tissue everywhere, in any format, for those who test viewers.

    python examples/large_slide.py slide.svs --side 60000
    python examples/large_slide.py slide.ome.tif slide.dcm slide.ome.zarr --side 26624

A patch of tissue is painted so that it continues itself at its edges, and is repeated. The tiles of
a level repeat too, so that few are encoded, whatever the size of the slide. File, levels and labels
are as real as those of a render: NAME.geojson beside the slide has every nucleus, about a million
in 26624 x 26624 pixels.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from nasdm_wsi import Nuclei, plan_render, read_annotations
from nasdm_wsi.annotations.features import feature_lines
from nasdm_wsi.geometry import Box
from nasdm_wsi.job import Window
from nasdm_wsi.model import Painter
from nasdm_wsi.model.checkpoint import SHIPPED
from nasdm_wsi.output import whole_or_nothing
from nasdm_wsi.provenance import provenance
from nasdm_wsi.slides.formats import format_of, labels_path
from nasdm_wsi.slides.pyramid import Pyramid, halved
from nasdm_wsi.slides.tiling import Rows

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path, nargs="+", help="in any format that render writes")
    parser.add_argument("--side", type=int, default=26624, help="pixels a side of the slide")
    parser.add_argument("--annotations", type=Path, default=HERE / "annotations.geojson")
    parser.add_argument("--mpp", type=float, default=0.5, help="of the annotations")
    parser.add_argument("--at", type=int, nargs=2, default=(256, 400), metavar=("X", "Y"))
    parser.add_argument("--patch", type=int, default=1024, help="pixels a side, a power of two")
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    painter = Painter(options.weights)
    nuclei = read_annotations(options.annotations, mpp=options.mpp).scaled(painter.mpp)
    nuclei = nuclei_of_patch(nuclei, options.at, options.patch)
    patch = painted_patch(nuclei, painter, side=options.patch, seed=options.seed)
    facts = {**painter.facts, "seed": options.seed, "repeated patch": [*options.at, options.patch]}
    for slide in options.slide:
        written = write_nuclei(labels_path(slide), nuclei, options.patch, options.side)
        write_slide(slide, patch, options.side, mpp=painter.mpp, description=provenance(facts))
        print(f"{slide}: {options.side} x {options.side} pixels, {written:,} nuclei")


def nuclei_of_patch(nuclei: Nuclei, at: tuple[int, int], side: int) -> Nuclei:
    """Return the nuclei whose middle lies in a square at (x, y), in pixels of the square."""
    moved = replace(nuclei, tissue=None).shifted(-at[1], -at[0])
    first = moved.ring_offsets[moved.polygon_offsets]
    sums = np.add.reduceat(moved.coords, first[:-1], axis=0)
    x, y = (sums / np.diff(first)[:, None]).T
    inside = (0 <= x) & (x < side) & (0 <= y) & (y < side)
    return moved.take(np.flatnonzero(inside))


def painted_patch(nuclei: Nuclei, painter: Painter, *, side: int, seed: int) -> np.ndarray:
    """Paint a patch, uint8 (side, side, 3), that continues itself at its edges.

    In every phase it is painted as one window, whose context is the other side of the patch: the
    nuclei, the noise and the state all have the period of the patch.
    """
    rng = np.random.default_rng(seed)
    noise: dict[int, np.ndarray] = {}

    def noise_of(step: int) -> np.ndarray:
        if step not in noise:
            noise[step] = rng.standard_normal((3, side, side), np.float32)
        return noise[step]

    copies = [nuclei.shifted(y, x) for y, x in product((0, side, 2 * side), repeat=2)]
    job = plan_render(Nuclei.concatenate(copies), painter, size=(3 * side, 3 * side))
    state = painter.start(rng.standard_normal((3, side, side), np.float32))
    reach = job.plan.margin
    here, end = side - reach, 2 * side + reach
    box = (here, here, end, end)
    for steps in job.plan.phases:
        window = Window(
            box=box,
            wanted=(side, side, 2 * side, 2 * side),
            state=around(state, reach),
            planes=job.planes(box),
            tissue=np.ones((end - here, end - here), bool),
            noise=lambda step: around(noise_of(step), reach),
        )
        (state,) = painter.solve(steps, [window])
    return painter.finish(state)


def around(values: np.ndarray, reach: int) -> np.ndarray:
    """Add the other side of the patch on each side of (channels, h, w)."""
    return np.pad(values, ((0, 0), (reach, reach), (reach, reach)), mode="wrap")


def write_nuclei(path: Path, nuclei: Nuclei, patch: int, side: int) -> int:
    """Write the nuclei of all copies as GeoJSON, copy by copy, and return how many there are."""
    count = 0
    with whole_or_nothing(path) as part, open(part, "wb") as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        for y, x in product(range(0, side, patch), repeat=2):
            copy = nuclei.shifted(y, x).within((0, 0, side, side))
            for line in feature_lines(copy):
                file.write(b",\n" if count else b"\n")
                file.write(line)
                count += 1
        file.write(b"\n]}\n")
    return count


def write_slide(slide: Path, patch: np.ndarray, side: int, *, mpp: float, description: str) -> None:
    """Write a slide that repeats a patch."""
    form, shape = format_of(slide), (side, side, 3)
    pyramid = form.encoded(shape, quality=85, lossless=False)
    about = {"mpp": mpp, "description": description}
    if pyramid:
        form.write_tiles(slide, pyramid, Tiles(patch, pyramid), **about)
    else:

        def pixels(box: Box) -> np.ndarray:
            return repeated(patch, box[::2], box[1::2])

        form.write(slide, Rows(pixels, shape), **about)


class Tiles:
    """The encoded tiles of each level; equal tiles are encoded once."""

    def __init__(self, patch: np.ndarray, pyramid: Pyramid):
        self.pyramid, self.patches = pyramid, [patch]
        while len(self.patches) < len(pyramid.shapes):
            if len(patch) % 2:
                raise SystemExit("the patch is too small for so large a slide, or no power of two")
            patch = halved(patch)
            self.patches.append(patch)

    def __call__(self, level: int) -> Iterator[bytes]:
        patch, seen = self.patches[level], {}
        rows, columns = self.pyramid.grid(level)
        for place in product(range(rows), range(columns)):
            y0, x0, y1, x1 = self.pyramid.box(level, place)
            key = (y0 % len(patch), x0 % len(patch), y1 - y0, x1 - x0)
            if key not in seen:
                seen[key] = self.pyramid.encode(repeated(patch, (y0, y1), (x0, x1)))
            yield seen[key]


def repeated(patch: np.ndarray, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    y, x = (np.arange(*span) % len(patch) for span in (rows, columns))
    return patch[y[:, None], x]


if __name__ == "__main__":
    main()

"""The host's part of a render on a GPU, with a stand-in for the network.

    python benchmarks/host.py [--side 9216] [--steps 4] [--cores 16]

The plan is that of a GPU: large blocks, all solver steps in one phase. Masks, noise, states, pixels
and tiles are made as in a render; in place of the network, pixels follow from the mask. Prints CPU
seconds, and the pixels a second that so many cores would handle if they scaled.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import machine
from reproduce import section
from torch import Tensor

from nasdm_wsi import plan_render, render
from nasdm_wsi.model import Painter
from nasdm_wsi.model.diffusion import Condition
from nasdm_wsi.model.families import FAMILIES, Sampling
from nasdm_wsi.model.sides import without


class Host(Painter):
    """A painter with the plan of a GPU that hardly computes."""

    def __init__(self, steps: int):
        super().__init__(device="cpu", steps=steps)
        sampling = Sampling(steps, self.channels, "cuda", "bfloat16")
        self.cut = FAMILIES[self.family].cut(self.network, sampling, self.cut.halo)

    def _estimate(self, x: Tensor, k: int, condition: Condition) -> Tensor:
        """Pink, with nuclei in other colours."""
        return 0.6 - 0.9 * without(condition.planes[:, :3], condition.context)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=9216)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--cores", type=int, default=16)
    options = parser.parse_args()
    print(machine("torch", "numpy"), flush=True)
    job = plan_render(section(options.side), Host(options.steps), size=(options.side,) * 2)
    print(f"blocks of {job.plan.stride}, {job.plan.phases[0][1]} steps a phase", flush=True)
    with TemporaryDirectory(dir=".") as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        render(job, Path(folder, "slide.ome.tif"), workers=2)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    pixels = options.side**2
    print(f"{wall:.1f} s, {cpu:.1f} CPU seconds: {1e9 * cpu / pixels:.0f} ns a pixel")
    print(f"{options.cores * pixels / cpu / 1e6:.1f} megapixels/s on {options.cores} cores")


if __name__ == "__main__":
    main()

"""How long a layout takes, and how much memory, as the canvas grows.

    python benchmarks/layout_speed.py [--sizes 2000 4000 8000 60000x4000] [--workers 2]
        [--nuclei rules] [--tissue carcinoma]

Canvases are square unless they have two sides, at 0.5 micrometres a pixel. Memory is the most that
any process had. Processor time tells more than the wall where the machine is shared.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import machine, table

MPP = 0.5
SIDES = (2000, 4000, 8000)


def measured(size: tuple[int, int], options: list[object], out: Path) -> tuple[float, float, int]:
    """Return seconds of processor time and of the wall for a canvas, and the bytes of its file."""
    command = ["-m", "nasdm_wsi", "layout", "-q", "-o", out, "--size", *size, *options]
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *map(str, command)], check=True)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begin
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, seconds, out.stat().st_size


def size_of(text: str) -> tuple[int, int]:
    """Return the width and height that a text gives, as 4000 or 60000x4000."""
    width, _, height = text.partition("x")
    return int(width), int(height or width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=size_of, nargs="+", default=[(n, n) for n in SIDES])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--nuclei", default="rules", help="rules or learned")
    parser.add_argument("--tissue", default="normal")
    options = parser.parse_args()
    print(machine())
    rows = []
    with TemporaryDirectory() as folder:
        fixed = ["--workers", options.workers, "--nuclei", options.nuclei]
        for width, height in options.sizes:
            out = Path(folder, f"{width}x{height}.geojson")
            given = [*fixed, "--tissue", options.tissue]
            used, seconds, size = measured((width, height), given, out)
            area = width * height * MPP**2 / 1e6
            most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
            rows.append(
                [
                    f"{width} x {height}",
                    f"{area:.1f}",
                    f"{used / area:.2f}",
                    f"{seconds / area:.2f}",
                    f"{most:.0f}",
                ]
                + [f"{size / 1e6:.1f}"]
            )
    head = ["pixels", "mm2", "CPU s/mm2", "wall s/mm2", "MB of memory", "MB of file"]
    table(head, rows)


if __name__ == "__main__":
    main()

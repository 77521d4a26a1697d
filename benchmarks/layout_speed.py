"""How long a layout takes, and how much memory, as the canvas grows.

    python benchmarks/layout_speed.py [--sides 2000 4000 8000] [--workers 2] [--nuclei rules]

Canvases are square, at 0.5 micrometres a pixel. Seconds are those of the wall; memory is the most
that any process had. Processor time tells more than the wall where the machine is shared.
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


def measured(side: int, workers: int, nuclei: str, folder: Path) -> tuple[float, float, int]:
    """Return seconds of processor time and of the wall for a canvas, and the bytes of its file."""
    out = folder / f"{side}.geojson"
    command = [
        "-m",
        "nasdm_wsi",
        "layout",
        "-q",
        "-o",
        out,
        "--size",
        side,
        side,
        "--nuclei",
        nuclei,
    ]
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *map(str, command), "--workers", str(workers)], check=True)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begin
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, seconds, out.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[2000, 4000, 8000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--nuclei", default="rules", help="rules or learned")
    options = parser.parse_args()
    print(machine())
    rows = []
    with TemporaryDirectory() as folder:
        for side in options.sides:
            used, seconds, size = measured(side, options.workers, options.nuclei, Path(folder))
            area = (side * MPP / 1000) ** 2
            most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
            rows.append(
                [side, f"{area:.1f}", f"{used / area:.2f}", f"{seconds / area:.2f}", f"{most:.0f}"]
                + [f"{size / 1e6:.1f}"]
            )
    head = ["side", "mm2", "CPU s/mm2", "wall s/mm2", "MB of memory", "MB of file"]
    table(head, rows)


if __name__ == "__main__":
    main()

"""One checksum for threads, processes, a random order, faults and a region alone.

    python benchmarks/reproduce.py [--side 8192] [--steps 2] [--one-phase]

The slide consists of the example's annotations, repeated, and is rendered with the shipped
weights. Everything runs as a user would run it; with ``--one-phase`` the cost of tasks is set so
high that a phase takes all solver steps, as on a GPU. The exit code is 1 if two checksums differ.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import tifffile
from measure import machine, table

from nasdm_wsi import Nuclei, read_annotations
from nasdm_wsi.annotations.geojson import write_geojson

EXAMPLE = Path(__file__).parents[1] / "examples" / "annotations.geojson"
PIECE = 1536  # pixels a side of the example
COMMAND = "import sys; from nasdm_wsi.cli.main import main; main(sys.argv[1:])"
ONE_PHASE = "from nasdm_wsi import costs; costs.TASK = 100.0; costs.STRIDES = (512,); "
SHUFFLED = """
import heapq, random, sys
from nasdm_wsi.mosaic import schedule
from nasdm_wsi.cli.main import main
rng = random.Random(0)
schedule.Ledger._push = lambda self, s, i, j: heapq.heappush(self._ready, (rng.random(), (s, i, j)))
schedule.Ledger.next = lambda self: heapq.heappop(self._ready)[1] if self._ready else None
main(sys.argv[1:])
"""


def section(side: int) -> Nuclei:
    """Annotations: the example's nuclei, repeated over ``side`` pixels in both directions."""
    piece = read_annotations(EXAMPLE, mpp=0.5)
    steps = range(0, side, PIECE)
    whole = Nuclei.concatenate([piece.shifted(y, x) for y in steps for x in steps])
    return whole.within((0, 0, side, side))


def parts(out: Path) -> int:
    """Number of finished parts in the run folder of a render."""
    return sum(1 for _ in Path(f"{out}.run").glob("*/*/*"))


def disturbed(command: list[str], out: Path, moment: int) -> None:
    """Kill a worker, then the whole render, then start it again and wait for its end."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while parts(out) < moment:
        time.sleep(0.1)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]
    random.Random(0).choice(workers).kill()
    before = parts(out)
    while process.poll() is None and parts(out) < before + 3:
        time.sleep(0.05)
    whole = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    os.kill(process.pid, signal.SIGKILL)
    for child in whole:
        child.kill()
    process.wait()
    if out.exists():
        raise SystemExit("the render was finished before it was killed: choose a larger --side")
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--one-phase", action="store_true")
    options = parser.parse_args()
    side = str(options.side)
    print(machine("torch", "numpy", "dask"), flush=True)
    rows, sums = [], set()
    with TemporaryDirectory(dir=".") as folder:
        annotations = Path(folder, "annotations.geojson")
        write_geojson(annotations, section(options.side))

        def command(name: str, *more: str) -> list[str]:
            code = SHUFFLED if name == "shuffled" else COMMAND
            run = ["-c", ONE_PHASE * options.one_phase + code]
            arguments = [
                "render",
                str(annotations),
                "-o",
                f"{folder}/{name}.ome.tif",
                "--mpp",
                "0.5",
            ]
            arguments += ["--size", side, side, "--steps", str(options.steps), "--lossless"]
            return [sys.executable, *run, *arguments, *more]

        for name, more in {
            "threads": (),
            "1 process": ("--workers", "1"),
            "2 processes, killed": ("--workers", "2"),
            "4 processes": ("--workers", "4"),
            "shuffled": (),
        }.items():
            out, begin = Path(folder, f"{name}.ome.tif"), time.perf_counter()
            if "killed" in name:
                disturbed(command(name, *more), out, max((options.side // 512) ** 2 // 3, 1))
            else:
                subprocess.run(command(name, *more), check=True, stderr=subprocess.DEVNULL)
            with open(out, "rb") as file:
                sums.add(found := hashlib.file_digest(file, "sha256").hexdigest()[:16])
            rows.append((name, time.perf_counter() - begin, found))
            print(*rows[-1], flush=True)
        whole = tifffile.imread(Path(folder, "threads.ome.tif"))
        y = x = options.side // 2 - 300
        place = [str(n) for n in (x, y, 777, 555)]
        subprocess.run(command("region", "--region", *place), check=True, stderr=subprocess.DEVNULL)
        part = tifffile.imread(Path(folder, "region.ome.tif"))
        equal = np.array_equal(part, whole[y : y + 555, x : x + 777])
        rows.append(("region alone", "", "equal pixels" if equal else "OTHER PIXELS"))
    table(("who painted", "seconds", "SHA-256 of the file"), rows)
    sys.exit(len(sums) != 1 or not equal)


if __name__ == "__main__":
    main()

"""Kill renders at random moments, go on, and compare the bytes: `python benchmarks/kills.py`.

Each render of a small slide is killed by SIGKILL once to three times, at moments drawn from a seed,
and begun again; in every third one another seed takes over with ``overwrite``. The slide must then
be the one that an unbroken render gives, and nothing else may be left.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import toy  # noqa: E402

from nasdm_wsi.geometry import Plan  # noqa: E402
from nasdm_wsi.rendering import plan_render, render  # noqa: E402

PLAN = Plan((150, 203), 48, 8, 0, 1, ((0, 1), (1, 2), (2, 3)), grid=8)


def paint(out: Path, seed: int) -> None:
    """Render the slide, whatever is there."""
    out.parent.mkdir(exist_ok=True)
    painter = toy.StepPainter(PLAN)
    job = plan_render(toy.no_nuclei(), painter, size=PLAN.size, seed=seed)
    render(job, out, workers=2, lossless=True, overwrite=True)


def killed(out: Path, seed: int, after: float | None = None) -> bool:
    """Render in a child, which is killed ``after`` so many seconds; whether it was still at it."""
    pid = os.fork()
    if not pid:
        paint(out, seed)
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise SystemExit(f"a render ended with {status}")
    return status != 0


def content(folder: Path) -> dict[str, bytes]:
    """All files in a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def main() -> None:
    """Kill as many renders as asked, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renders", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, kills = random.Random(options.seed), 0
    with TemporaryDirectory() as top:
        right = []
        for seed in (0, 1):
            begin = time.perf_counter()
            killed(Path(top, str(seed), "slide.ome.tif"), seed)
            seconds = time.perf_counter() - begin
            right.append(content(Path(top, str(seed))))
        for number in range(options.renders):
            out, seed = Path(top, "work", "slide.ome.tif"), 0
            for _ in range(chance.randint(1, 3)):
                kills += killed(out, seed, after=chance.uniform(0, seconds))
                seed = 1 if number % 3 == 0 else 0
            killed(out, seed)
            if content(out.parent) != right[seed]:
                raise SystemExit(f"render {number}: {sorted(content(out.parent))}")
            shutil.rmtree(out.parent)
    print(
        f"{options.renders} renders, killed {kills} times: the bytes of an unbroken one each time"
    )


if __name__ == "__main__":
    main()

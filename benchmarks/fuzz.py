"""Damaged annotation files of every format, by the thousand: each must be read or refused.

    python benchmarks/fuzz.py [--first SEED] [--count N] [--seconds S]

A seed stands for one file: a small whole one, then damaged in its bytes or in its structure. What
is neither read nor refused by an error of one line is printed with its seed; `--count 1 --first
SEED --keep FILE` writes that file. Files are read in a child process, which starts again when one
kills it. Parsers that run in a process of their own run in that child as well, because starting
them takes half a second; what kills the child is tried again as users would read it.
"""

from __future__ import annotations

import argparse
import os
import select
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from damaged_files import SIZE, damaged_file

from nasdm_wsi.annotations import parsers
from nasdm_wsi.annotations.formats import read_contents
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.errors import NasdmError
from nasdm_wsi.isolated import IsolatedError

SECONDS = 20.0  # for one file
MEMORY = 4 << 30  # bytes of addresses of the child
MAX_PIXELS = 1 << 22
CLASSES = dict.fromkeys(["nuclei", "unclassified", *map(str, range(10))], "epithelial")


def outcome(seed: int, folder: Path) -> str:
    """ "read", "refused", or what else happened, in one line."""
    name, data = damaged_file(seed)
    path = folder / name
    path.write_bytes(data)
    try:
        found = read_contents(path, mpp=0.5, class_map=CLASSES, max_pixels=MAX_PIXELS)
        Conditioning(found.checked(), SIZE).labels((0, 0, *SIZE))
    except NasdmError as error:
        return "refused" if "\n" not in str(error) else f"{name}: lines: {error!r}"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in place if "nasdm_wsi" in frame.filename][-1]
        where = f"{Path(ours.filename).name}:{ours.lineno}"
        return f"{name}: {type(error).__name__} at {where}: {' '.join(str(error).split())[:150]}"
    return "read"


def direct(function: Callable[..., Iterator], *args: Any, **_limits: Any) -> Iterator[Any]:
    """As `isolated`, in this process."""
    try:
        yield from function(*args)
    except Exception as error:
        raise IsolatedError(" ".join(str(error).split()) or type(error).__name__) from error


def child() -> None:
    """Read seeds from standard input; print each with its outcome."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    parsers.isolated = direct  # type: ignore[assignment]
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with TemporaryDirectory() as folder:
        for line in sys.stdin:
            print(f"{line.strip()} {outcome(int(line), Path(folder))}", file=out)


class Child:
    """A process that reads one seed after the other."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )

    def read(self, seed: int) -> str | None:
        """The outcome; None if the process died or took too long, and must be left."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{seed}\n".encode())
        if not select.select([self.process.stdout], [], [], SECONDS)[0]:
            return None
        return self.process.stdout.readline().decode().strip().partition(" ")[2] or None

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def as_users_read(seed: int) -> str:
    """The outcome with isolated parsers, in another process that may die."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); import fuzz, pathlib; "
        "print(fuzz.outcome(int(sys.argv[1]), pathlib.Path(sys.argv[3])))"
    )
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-c", code, str(seed), str(Path(__file__).parent), folder]
        try:
            done = subprocess.run(command, capture_output=True, timeout=10 * SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return f"{damaged_file(seed)[0]}: takes more than {10 * SECONDS:g} s"
    status = f"{damaged_file(seed)[0]}: the process died, status {done.returncode}"
    return done.stdout.decode().strip() or status


def fuzz(first: int, count: int, seconds: float = float("inf")) -> tuple[Counter[str], list[str]]:
    """How many files were read and refused, and a line for each that was neither."""
    counts: Counter[str] = Counter()
    faults = []
    reader, end = Child(), time.monotonic() + seconds
    for seed in range(first, first + count):
        if time.monotonic() > end:
            break
        found = reader.read(seed)
        if seed % 10_000 == 9_999:
            print(f"up to seed {seed}: {dict(counts)}", file=sys.stderr, flush=True)
        if found is None:
            reader.close()
            found, reader = as_users_read(seed), Child()
            counts["contained"] += found in ("read", "refused")
        counts[found if found in ("read", "refused") else "faults"] += 1
        if found not in ("read", "refused"):
            faults.append(f"seed {seed}: {found}")
            print(faults[-1], flush=True)
    reader.close()
    return counts, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--child", action="store_true")
    options = parser.parse_args()
    if options.child:
        child()
    elif options.keep:
        options.keep.write_bytes(damaged_file(options.first)[1])
    else:
        counts, _ = fuzz(options.first, options.count, options.seconds)
        print(", ".join(f"{n} {what}" for what, n in sorted(counts.items())))


if __name__ == "__main__":
    main()

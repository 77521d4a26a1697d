"""Time and memory of a function in a process of its own, and the table that benchmarks print."""

from __future__ import annotations

import multiprocessing
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil

from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.geometry import Plan
from nasdm_wsi.job import Job, default_workers


def anonymous(pid: int) -> int:
    """Anonymous memory of a process in bytes, without pages of files, which the system can drop."""
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields.get("RssAnon", "0 kB").split()[0]) * 1024


@contextmanager
def peaks(seconds: float = 0.05) -> Iterator[dict[str, int]]:
    """The largest memory of this process ("client") and of the largest of its children ("worker").

    The processes are looked at every so many ``seconds``.
    """
    found, me = {"client": 0, "worker": 0}, psutil.Process()

    def look() -> None:
        for name, processes in (("client", [me]), ("worker", me.children(recursive=True))):
            for process in processes:
                with suppress(FileNotFoundError, ProcessLookupError):
                    found[name] = max(found[name], anonymous(process.pid))

    with watched(look, seconds):
        yield found


@contextmanager
def watched(look: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call ``look`` every ``seconds`` seconds from a separate thread."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(seconds):
            look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def apart(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Run a function in a new process; give wall and CPU seconds, peak memory and its result."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    result = mine.recv()
    process.join()
    return result


def _run(pipe: Any, function: Callable[..., Any], arguments: tuple) -> None:
    with peaks() as found:
        wall, cpu = time.perf_counter(), time.process_time()
        value = function(*arguments)
        row = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    pipe.send({**row, "peak": found["client"], "value": value})


def unpainted(plan: Plan) -> Job:
    """A job whose tasks matter and whose pixels do not."""
    nuclei = Nuclei.from_polygons(np.array([]), np.array([], int), mpp=0.5)
    painter: Any = SimpleNamespace(channels=6, planes=())
    return Job(nuclei, painter, plan, region=(0, 0, *plan.size), seed=0)


def machine(*packages: str) -> str:
    """One line that describes the machine and the versions."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if "model name" in line), "?")
    names = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{time.strftime('%Y-%m-%d')}, {default_workers()} cores {model}, "
        f"Python {platform.python_version()}, {names}"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a Markdown table, each row as soon as it is there."""
    for row in chain((head, ["---"] * len(head)), rows):
        cells = (f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row)
        print("| " + " | ".join(cells) + " |", flush=True)

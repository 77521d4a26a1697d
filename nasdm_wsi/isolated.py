"""Isolation of parsers that a file may crash: they run in a separate process, with limits.

Libraries in C read what users download: a damaged or hostile file may end the process, or claim
all memory. `isolated` runs such a parser in a new Python process, and turns any failure of it into
an `IsolatedError`. It is not a sandbox: code injected by a file could still do harm.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from threading import Event, Timer
from typing import Any

SECONDS = 120.0  # for each result
MEMORY = 2 << 30  # bytes of addresses, beside what the results need
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


class IsolatedError(Exception):
    """The reason why there is no result, in words that fit between brackets."""


def isolated(
    function: Callable[..., Iterator], *args: Any, seconds: float = SECONDS, memory: int = MEMORY
) -> Iterator[Any]:
    """Run a generator function of a module in another process, and yield its results.

    Args:
        function: its module should import little, for that takes time.
        args: the arguments of the function; they and the results are pickled.
        seconds: most time until each result.
        memory: most bytes of addresses; not limited on Windows and macOS.

    Raises:
        IsolatedError: the process died, an error in it, or a limit.
    """
    task = pickle.dumps((function.__module__, function.__qualname__, args, memory))
    python = [sys.executable, "-P", "-m", __name__]
    environment = os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        python,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as process:
        try:
            _send(process.stdin, task)
            yield from _results(process, seconds)
        finally:
            process.kill()


def _send(pipe: Any, task: bytes) -> None:
    with suppress(BrokenPipeError), pipe:
        pipe.write(task)


def _results(process: subprocess.Popen, seconds: float) -> Iterator[Any]:
    while True:
        late = Event()
        timer = Timer(seconds, _end, (process, late))
        timer.daemon = True
        timer.start()
        try:
            kind, value = pickle.load(process.stdout)  # type: ignore[arg-type]
        except (EOFError, pickle.UnpicklingError) as error:  # it ended within or before a result
            limit = seconds if late.is_set() else None
            raise IsolatedError(_death(process.wait(), limit)) from error
        finally:
            timer.cancel()
        if kind == "end":
            return
        if kind == "error":
            raise IsolatedError(value)
        yield value


def _end(process: subprocess.Popen, late: Event) -> None:
    late.set()  # before its output ends
    process.kill()


def _death(status: int, seconds: float | None) -> str:
    if seconds is not None:
        return f"its parser took more than {seconds:g} s"
    with suppress(ValueError):
        return f"its parser was ended by {signal.Signals(-status).name}"
    return f"its parser ended with status {status}"


def _serve() -> None:
    """Run the task on standard input; results go where standard output went."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no result
    warnings.simplefilter("ignore")
    module, name, args, memory = pickle.load(sys.stdin.buffer)
    _limit(memory)
    try:
        for value in getattr(import_module(module), name)(*args):
            _put(out, "value", value)
        _put(out, "end", None)
    except MemoryError:
        _put(out, "error", f"it needs more than {memory >> 20} MB of memory")
    except Exception as error:  # of any library
        _put(out, "error", " ".join(str(error).split()) or type(error).__name__)


def _put(out: Any, kind: str, value: Any) -> None:
    pickle.dump((kind, value), out, protocol=5)
    out.flush()


def _limit(memory: int) -> None:
    if sys.platform != "linux":  # macOS ignores this limit, Windows has none
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = memory if most == resource.RLIM_INFINITY else min(memory, most)
    resource.setrlimit(resource.RLIMIT_AS, (memory, most))


if __name__ == "__main__":
    _serve()

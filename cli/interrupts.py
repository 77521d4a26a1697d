"""The handling of Ctrl-C: the first one ends a command in order, the second one at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CODE = 130  # the exit code after Ctrl-C, by convention 128 + SIGINT
RESUMED = ("render", "edit", "train")  # commands that resume where they were stopped
QUIETLY = ("view",)  # that Ctrl-C ends as they should end


@contextmanager
def interrupts(command: str) -> Iterator[None]:
    """Print on the first Ctrl-C that the command ends, and raise KeyboardInterrupt.

    The running task is finished first. A second Ctrl-C does not wait for it: every file is written
    completely or not at all, so the process may end at any point. If Ctrl-C is ignored, as in the
    background of a shell, nothing is changed.
    """
    first = threading.current_thread() is threading.main_thread()
    if not first or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(CODE))
        # Not by `print`, which may itself have been interrupted.
        if command not in QUIETLY:
            os.write(2, _message(command).encode())
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    yield
    if signal.getsignal(signal.SIGINT) is stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _message(command: str) -> str:
    then = "; run the same command again to resume" if command in RESUMED else ""
    return f"\nStopping{then} (press Ctrl-C again to stop at once)\n"

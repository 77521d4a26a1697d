"""What Ctrl-C does: the first ends a command in order, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CODE = 130  # the exit code after Ctrl-C, by convention 128 + SIGINT
GOES_ON = ("render", "train")  # commands that go on where they were
QUIETLY = ("view",)  # that Ctrl-C ends as they should end


@contextmanager
def interrupts(command: str) -> Iterator[None]:
    """Say on the first Ctrl-C that the command ends, and raise KeyboardInterrupt.

    A task that is being done is finished first. The second Ctrl-C does not wait for it: all that a
    command keeps is written whole or not at all, so that the process may end anywhere. Nothing is
    changed where Ctrl-C is ignored, as in the background of a shell.
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
    then = "; the same command goes on" if command in GOES_ON else ""
    return f"\nStopping{then} (Ctrl-C again: at once)\n"

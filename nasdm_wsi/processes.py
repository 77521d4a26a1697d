"""Worker processes of a command: Ctrl-C is left to the command, and they end with it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker
from threading import Thread


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Start workers that ignore Ctrl-C, which a terminal sends to all processes.

    They and the threads that are started now inherit the signal mask. In this process the signal is
    pending until they have started.
    """
    # If this process ends at once, its resource tracker warns that it cleans up after the workers.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # when it starts, it sets the mask of its thread
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """End this worker when the process that started it has ended, in whatever way.

    A worker of `ProcessPoolExecutor` would wait for its next task for ever.
    """
    Thread(target=_wait_for_parent, name="parent", daemon=True).start()


def _wait_for_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)

"""Plays Windows on Linux for every Python process that has this folder on its PYTHONPATH.

What only POSIX has is taken away; processes are spawned; a file that this process has open is
neither deleted nor replaced, nor flushed where it is open for reading alone; and text must be
written with its encoding and line ends named. Paths, drives and the console are not played.

NO_LOCKS names an error, as ENOLCK, which the file system is to give when a lock is asked for.
"""

import asyncio
import builtins
import errno
import fcntl
import io
import multiprocessing
import os
import shutil
import signal
import sys

import filelock._unix
import locket

# These have need of fcntl on Linux, and on Windows of something else.
PORTABLE = (asyncio, filelock._unix, locket)
flags_of, open_file = fcntl.fcntl, io.open
unlink, replace, rename, fsync = os.unlink, os.replace, os.rename, os.fsync


def in_use(path) -> bool:
    """Whether this process has the file, or one below the folder, open or mapped."""
    path = os.path.abspath(os.fspath(path))
    used = []
    for number in os.listdir("/proc/self/fd"):
        try:
            used.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    with open_file("/proc/self/maps", encoding="utf-8") as lines:
        used += [line.rstrip("\n")[73:] for line in lines]
    return any(name == path or name.startswith(path + "/") for name in used)


def refuse(*paths) -> None:
    """Raise what Windows raises for files in use."""
    for path in paths:
        if in_use(path):
            raise PermissionError(errno.EACCES, "in use by this process", os.fspath(path))


def unlink_closed(path, *, dir_fd=None):
    refuse(path)
    unlink(path, dir_fd=dir_fd)


def replace_closed(source, target, **folders):
    refuse(source, target)
    replace(source, target, **folders)


def rename_closed(source, target, **folders):
    refuse(source, target)
    rename(source, target, **folders)


def fsync_writable(file):
    number = file if isinstance(file, int) else file.fileno()
    if flags_of(number, 3) & os.O_ACCMODE == os.O_RDONLY:  # 3 is F_GETFL
        raise OSError(errno.EBADF, "not open for writing")
    fsync(number)


def open_named(
    file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *rest, **more
):
    writes = set(mode) & set("wax+")
    if "b" not in mode and _asked_by_us() and (encoding is None or writes and newline is None):
        raise ValueError(f"{file}: another encoding, or other line ends, on Windows")
    return open_file(file, mode, buffering, encoding, errors, newline, *rest, **more)


def _asked_by_us() -> bool:
    caller = sys._getframe(2)
    while caller.f_globals["__name__"] == "pathlib":
        caller = caller.f_back
    return caller.f_globals["__name__"].startswith("nasdm_wsi")


def no_locks(*_):
    raise OSError(getattr(errno, os.environ["NO_LOCKS"]), "no locks here")


if "NO_LOCKS" in os.environ:
    fcntl.flock = no_locks
sys.modules["fcntl"] = None
for name in ("fork", "forkpty", "sched_getaffinity", "sched_setaffinity"):
    delattr(os, name)
for name in ("SIGALRM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
    delattr(signal, name)
os.unlink = os.remove = unlink_closed
os.replace, os.rename, os.fsync = replace_closed, rename_closed, fsync_writable
shutil._use_fd_functions = False
builtins.open = io.open = open_named
multiprocessing.set_start_method("spawn")

"""The only writer of outputs: a file or folder gets its name only when it is complete.

Until then it has a hidden name beside the final one. Files that a killed process left under such a
name are removed when the same file or folder is written again.

No output replaces an input: `keep_inputs` is called before anything is opened.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import OutputError

_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-z_]{8}(?P<older>\.older)?")


def keep_inputs(
    outputs: Iterable[Path], inputs: Iterable[str | Path | None], *, called: str = "out"
) -> None:
    """Refuse outputs that would replace an input, also through another name or a link.

    An output is refused if it is an input, a folder that contains one, or a file inside one. Inputs
    that are None or missing do not count. ``called`` is the parameter that names the outputs.

    Raises:
        OutputError: an output would replace an input; the message names both.
    """
    present = [Path(path) for path in inputs if path is not None and os.path.exists(path)]
    for output in map(Path, outputs):
        for given in present:
            if _is_same(output, given):
                what = f"{given} is an input, and the output {output} would replace it"
            elif any(_is_same(output, folder) for folder in _folders_of(given)):
                what = f"the input {given} lies in the output {output}, which would replace it"
            elif output.exists() and any(_is_same(given, f) for f in _folders_of(output)):
                what = f"{output} is a part of the input {given}"
            else:
                continue
            raise OutputError(f"{what}: choose another `{called}`")


def _is_same(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:  # one of them is missing
        return False


def _folders_of(path: Path) -> list[Path]:
    """Return all folders that contain ``path``: those of a link and those of its target."""
    absolute, resolved = Path(os.path.abspath(path)), path.resolve()
    return [*absolute.parents, *resolved.parents]


def check_writable(path: Path) -> None:
    """Refuse a path where `replacing` could not write; the test is an empty file beside it.

    Raises:
        OutputError: the folder is missing or cannot be written, or the name is too long.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent} is not a folder: create it first")
    with output_errors(path):
        _mode_of_a_new_file(_hidden(path))


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an error of the system while ``path`` is written into an error of one line.

    Raises:
        OutputError: the disk is full, or the folder is missing or cannot be written.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"{path}: cannot be written ({reason}): make room or choose another place"
        ) from error


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """Write an output of a command as `replacing` does, with errors of one line.

    Raises:
        OutputError: the disk is full, or the folder is missing or cannot be written.
    """
    with output_errors(path), replacing(path) as part:
        yield part


@contextmanager
def replacing(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Yield a hidden path for a file or folder, which replaces ``path`` at the end.

    If an exception is raised, ``path`` is unchanged and no other file is left. A file is replaced
    in one step, and never replaces a folder. A new file has the mode that the umask gives, even if
    a library made it readable by its owner alone.

    Args:
        flush: whether the content must be on disk before it gets its name. Without it, a power cut
            may leave a damaged file, so leave it out only if a checksum finds the damage.

    Raises:
        OSError: as raised by the system.
    """
    part = _hidden(path)
    with ExitStack() as alone:
        if flush:
            alone.enter_context(_alone_at(path))
        try:
            mode = _mode_of_a_new_file(part) if flush else None
            yield part
            if mode is not None and part.is_file():
                part.chmod(mode)
            if flush:
                _flush(part)
            alone.close()  # before the end, so that a kill after it leaves no lock
            _put(part, path)
        except BaseException as error:
            if isinstance(error, OSError) and error.errno and error.filename is None:
                error.filename = str(path)  # which writing to an open file does not tell
            _remove(part)
            raise
    if flush:
        _flush_folder(path.parent)


def sweep(path: Path) -> None:
    """Remove files that killed processes left of ``path``, unless a process is writing it now.

    A folder whose replacement was interrupted gets its name back.
    """
    with _alone_at(path):
        pass


def is_leftover(path: Path) -> bool:
    """Return whether a file or folder has the hidden name of an incomplete one."""
    return _LEFTOVER.fullmatch(path.name) is not None


def _hidden(path: Path) -> Path:
    """Return a new name beside ``path``."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


@contextmanager
def _alone_at(path: Path) -> Iterator[None]:
    """Sweep and lock ``path``, if no other process holds the lock and the storage has locks."""
    place = path.with_name(f".{path.name}.lock")
    lock = FileLock(place, blocking=False, fallback_to_soft=False)
    ours = False
    if path.parent.is_dir():  # otherwise the lock would make it
        try:
            lock.acquire()
            ours = True
            _sweep(path)
        except Timeout:  # somebody else is writing it
            pass
        except OSError:  # nobody can lock it, so the file means nothing
            ours = True
    try:
        yield
    finally:
        lock.release()
        if ours:
            with suppress(OSError):  # on Windows somebody else may have it by now
                place.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    for left in path.parent.iterdir():
        match = _LEFTOVER.fullmatch(left.name)
        if match is None or match["name"] != path.name:
            continue
        if match["older"] and not path.exists():
            os.replace(left, path)
        else:
            _remove(left)


def _mode_of_a_new_file(path: Path) -> int:
    """Return the mode of a new file at ``path``; the umask cannot be read without setting it."""
    path.touch(exist_ok=False)
    mode = path.stat().st_mode
    path.unlink()
    return mode


def _flush(part: Path) -> None:
    """Flush a file, or all files below a folder, to disk."""
    for path in (part, *part.rglob("*")):
        if path.is_file():
            with path.open("r+b") as file:  # Windows flushes no file that is open for reading
                os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, where the system can."""
    with suppress(OSError):  # Windows opens no folder, and some storage flushes none
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _put(part: Path, path: Path) -> None:
    """Give ``part`` the name ``path``. A folder does not replace a folder in one step."""
    if not (part.is_dir() and path.is_dir()):
        os.replace(part, path)
        return
    older = part.with_name(f"{part.name}.older")
    os.replace(path, older)
    try:
        os.replace(part, path)
    except OSError:
        os.replace(older, path)
        raise
    _remove(older)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

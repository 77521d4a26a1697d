"""The one way to write: a file or folder gets its name only when it is complete."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """As `replacing`, for the outputs of a command.

    Raises:
        OutputError: the disk is full, or the folder is missing or cannot be written.
    """
    try:
        with replacing(path) as part:
            yield part
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"{path}: cannot be written ({reason}): make room or choose another place"
        ) from error


@contextmanager
def replacing(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Give a hidden path beside ``path`` for a file or folder, which replaces ``path`` at the end.

    If anything is raised, what was at ``path`` stays and nothing else is left. A file is replaced
    in one step, and never replaces a folder. A new file has the mode that the umask gives, even if
    a library made it readable by its owner alone.

    Args:
        flush: whether the content must be on disk before it gets its name. Without it, a power cut
            may leave a damaged file, so leave it out only if a checksum finds the damage.

    Raises:
        OSError: as raised by the system.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        mode = _mode_of_a_new_file(part) if flush else None
        yield part
        if mode is not None and part.is_file():
            part.chmod(mode)
        if flush:
            _flush(part)
        _put(part, path)
    except BaseException:
        _remove(part)
        raise


def _mode_of_a_new_file(path: Path) -> int:
    """The mode of a new file at ``path``; the umask cannot be read without setting it."""
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
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

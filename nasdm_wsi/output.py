"""An output has its name only when it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import OutputError


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """A path for a file or folder that takes the place of ``path`` when it is written.

    It lies in a hidden folder beside ``path`` that is gone in the end. What was at ``path`` stays
    there if anything is raised.

    Raises:
        OutputError: the disk is full, or the folder is missing or cannot be written.
    """
    try:
        with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            part = Path(folder, "part")
            yield part
            _flush(part)
            # A file is replaced in one step, and never takes the place of a folder.
            if part.is_dir() and path.is_dir():
                os.replace(path, Path(folder, "older"))
            os.replace(part, path)
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"{path}: cannot be written ({reason}): make room or choose another place"
        ) from error


def _flush(part: Path) -> None:
    """Put a file, or all files below a folder, safely on disk."""
    for path in (part, *part.rglob("*")):
        if path.is_file():
            with path.open("r+b") as file:  # Windows flushes no file that is open for reading
                os.fsync(file.fileno())

"""All errors that a user can cause. A message is one line: the file, the problem, the remedy.

A message names a parameter in backquotes ("give `overwrite`"); the command line writes its own
option there (`cli.messages`).

NasdmError
├── AnnotationError (ValueError)   annotations, label images, class names
├── SlideError (ValueError)        slides and images that cannot be read or written
├── DatasetError (ValueError)      training data
├── CheckpointError (ValueError)   weights and training checkpoints
├── PlanError (ValueError)         a canvas, region or setting that cannot be rendered
├── OutputError (OSError)          outputs that exist, run folders in use, full disks
├── PortError (OSError)            ports that cannot be listened on
└── StoppedError                   work that a signal stopped; the same call resumes it
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NasdmError(Exception):
    """The base of all errors of this package; the command line prints it in one line."""


class AnnotationError(NasdmError, ValueError):
    """Annotations that cannot be used."""


class SlideError(NasdmError, ValueError):
    """A slide or image that cannot be read or written."""


class DatasetError(NasdmError, ValueError):
    """Training data that cannot be used."""


class CheckpointError(NasdmError, ValueError):
    """A checkpoint that is damaged or does not fit."""


class PlanError(NasdmError, ValueError):
    """A render that cannot be planned as asked."""


class OutputError(NasdmError, OSError):
    """An output that cannot be written."""


class StoppedError(NasdmError):
    """Work that was stopped by a signal, with everything saved that is needed to resume."""


class PortError(NasdmError, OSError):
    """A port that cannot be listened on."""


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of files in ``folder`` and a full disk into an OutputError with a remedy."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"the disk of {folder} is full: make room and run the same command again"
            ) from error
        name = error.filename
        if isinstance(name, (str, os.PathLike)) and Path(name).is_relative_to(folder):
            raise OutputError(
                f"{name} cannot be used ({error.strerror}): remove it or choose another place"
            ) from error
        raise

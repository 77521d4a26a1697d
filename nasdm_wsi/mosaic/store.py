"""The run folder: what a render keeps on disk so that it can stop at any moment and go on.

    RUN/manifest.json     the configuration; another one is refused
    RUN/lock              held while a render works here
    RUN/nuclei.npz        for workers in other processes
    RUN/KIND/ROW/COLUMN   parts: states after a phase, finished pixels, encoded tiles

A part is its bytes and their checksum. It is written once, to a temporary name that is then
renamed: a part that exists is whole, or found to be damaged when a render begins.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from filelock import FileLock, Timeout

from ..errors import OutputError, disk_errors
from ..geometry import Block, Box
from ..output import replacing

_CHECKSUM = struct.Struct("<I")
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

log = logging.getLogger(__name__)


class RunStore:
    """Parts below ``folder``, by kind, row and column; any number of processes may share it."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def write(self, kind: str, place: Block, content: bytes | np.ndarray) -> None:
        """Store a part.

        Raises:
            OutputError: the disk is full.
        """
        path = self._path(kind, place)
        data = content if isinstance(content, bytes) else content.tobytes()
        try:
            with disk_errors(self.folder):
                path.parent.mkdir(parents=True, exist_ok=True)
                # Not flushed: there are many, and the checksum finds those that are damaged.
                with replacing(path, flush=False) as part, open(part, "wb") as file:
                    file.write(data)
                    file.write(_CHECKSUM.pack(google_crc32c.value(data)))
        except PermissionError:
            # Windows does not replace a file that is being read. It holds the same bytes.
            if not path.exists():
                raise

    def read(self, kind: str, place: Block) -> bytes:
        """The bytes of a part."""
        with self._there(path := self._path(kind, place)):
            return path.read_bytes()[: -_CHECKSUM.size]

    def array(self, kind: str, place: Block, size: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A part as an array; only what is looked at is read from disk."""
        with self._there(path := self._path(kind, place)):
            return np.memmap(path, dtype, mode="r", shape=size)

    def free(self, kind: str, place: Block) -> None:
        """Delete a part that nobody needs any more."""
        with suppress(PermissionError):  # Windows keeps a file that is open: it goes in the end
            self._path(kind, place).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete everything but the lock, and the manifest last."""
        manifest = self.folder / "manifest.json"
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in ("lock", manifest.name):
                path.unlink()
        manifest.unlink(missing_ok=True)

    def present(self, kind: str, cells: Box) -> np.ndarray:
        """Bool (rows, columns): which parts of the rectangle ``cells`` there are."""
        i0, j0, i1, j1 = cells
        found = np.zeros((i1 - i0, j1 - j0), bool)
        for row in _numbers(self.folder / kind):
            for column in _numbers(self.folder / kind / str(row)):
                if i0 <= row < i1 and j0 <= column < j1:
                    found[row - i0, column - j0] = True
        return found

    def drop_damaged(self) -> int:
        """Read everything that is there, delete what is damaged, and say how many parts."""
        damaged = 0
        for path in self.folder.glob("*/*/*"):
            content = path.read_bytes()
            whole, mark = content[: -_CHECKSUM.size], content[-_CHECKSUM.size :]
            if path.name.startswith("."):  # of a process that was killed
                path.unlink()
            elif _CHECKSUM.pack(google_crc32c.value(whole)) != mark:
                path.unlink()
                damaged += 1
        return damaged

    @contextmanager
    def _there(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{path} was removed or cut short: give the same command again to go on"
            ) from error

    def _path(self, kind: str, place: Block) -> Path:
        return self.folder / kind / str(place[0]) / str(place[1])


def _numbers(folder: Path) -> list[int]:
    """Names in a folder that are numbers; none if there is no such folder."""
    try:
        return [int(name) for name in os.listdir(folder) if name.isdecimal()]
    except FileNotFoundError:
        return []


@contextmanager
def open_run(
    folder: Path, manifest: dict[str, Any], *, overwrite: bool = False
) -> Iterator[RunStore]:
    """The run folder's store, locked; made if it is new.

    If it belongs to another run it is refused, or with ``overwrite`` emptied.

    Raises:
        OutputError: another configuration, a render at work in the folder, or a full disk.
    """
    folder = Path(folder)
    store = RunStore(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            try:
                _check_manifest(folder / "manifest.json", manifest)
            except OutputError:
                if not overwrite:
                    raise
                store.clear()
                _check_manifest(folder / "manifest.json", manifest)
            yield store


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, and remove the folder if nothing else is left in it."""
    lock = FileLock(folder / "lock", blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(f"another render is at work in {folder}: wait for it") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s is on storage without locks: start no second render there", folder)
    try:
        yield
    finally:
        lock.release()
        # Only now, because Windows does not delete a file that is open.
        with suppress(OSError):
            if [path.name for path in folder.iterdir()] in ([], ["lock"]):
                (folder / "lock").unlink(missing_ok=True)
                folder.rmdir()


def _check_manifest(path: Path, manifest: dict[str, Any]) -> None:
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise OutputError(f"{path} is damaged: remove {path.parent} to start anew") from error
        keys = {*before, *manifest}
        if differ := sorted(k for k in keys if before.get(k) != manifest.get(k)):
            raise OutputError(
                f"{path.parent} holds an unfinished render with another {', '.join(differ)}: "
                "give the same options to go on, or `overwrite` to start anew"
            )
        return
    with replacing(path) as part:
        part.write_text(json.dumps(manifest, indent=1), encoding="utf-8", newline="\n")

"""The run folder: the state of a render on disk, from which it can be resumed at any time.

    RUN/manifest.json     the configuration; another one is refused
    RUN/lock              held while a render works here
    RUN/labels.sha256     digests of what renders have written as NAME.geojson beside the slide
    RUN/nuclei.npz        for workers in other processes
    RUN/KIND/ROW/COLUMN   parts: states after a phase, finished pixels, encoded tiles

A part consists of its bytes and a checksum, which covers the run identity and the position of the
part, so that a part of another render is never accepted. A part is written once, under a temporary
name that is then renamed, and checked whenever it is read.

The manifest is written first and removed last, so parts without a manifest were not written by this
program. If the manifest is damaged, the checksums of the parts show whether they belong to the same
render.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
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
from ..output import is_leftover, replacing

MANIFEST = "manifest.json"
LABELS = "labels.sha256"
MOST_CHECKED = 100_000  # parts that a process remembers to have checked
_CHECKSUM = struct.Struct("<I")
_KINDS = re.compile(r"phase-\d+|pixels|halves-\d+|tiles-\d+")
_FILES = ("nuclei.npz", "thumbnail.png")  # that are removed with the parts
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

log = logging.getLogger(__name__)


class RunStore:
    """Parts below ``folder``, by kind, row and column; any number of processes may share it.

    ``identity`` names the run that the parts belong to.
    """

    def __init__(self, folder: Path, identity: str = ""):
        self.folder, self.identity = Path(folder), identity
        self._checked: dict[tuple[str, Block], int] = {}  # how long a part was when it was checked

    def write(self, kind: str, place: Block, content: bytes | np.ndarray) -> None:
        """Store a part.

        Raises:
            OutputError: the disk is full, or the folder cannot be written.
        """
        path = self._path(kind, place)
        data = content if isinstance(content, bytes) else content.tobytes()
        with disk_errors(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                # Not flushed: there are many, and the checksum finds those that are damaged.
                with replacing(path, flush=False) as part, open(part, "wb") as file:
                    file.write(data)
                    file.write(self._checksum(path, data))
            except PermissionError:
                # Windows does not replace a file that is being read. It holds the same bytes.
                if not path.is_file():
                    raise

    def read(self, kind: str, place: Block) -> bytes:
        """Return the bytes of a part.

        Raises:
            OutputError: it is missing or damaged, or belongs to another run.
        """
        path = self._path(kind, place)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = b""
        self._check(path, content)
        return content[: -_CHECKSUM.size]

    def array(self, kind: str, place: Block, size: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return a part as a read-only array that maps its file.

        The first call reads and checks the whole part; later ones read only the pages that are
        used.

        Raises:
            OutputError: as `read`.
        """
        path = self._path(kind, place)
        try:
            content: np.ndarray = np.memmap(path, np.uint8, mode="r")
        except (FileNotFoundError, ValueError):  # it is gone, or empty
            content = np.empty(0, np.uint8)
        if self._checked.get((kind, place)) != content.size:
            self._check(path, content)
            if len(self._checked) >= MOST_CHECKED:
                self._checked.clear()
            self._checked[kind, place] = content.size
        return content[: -_CHECKSUM.size].view(dtype).reshape(size)

    def free(self, kind: str, place: Block) -> None:
        """Delete a part that is no longer needed."""
        self._checked.pop((kind, place), None)
        with suppress(PermissionError):  # Windows keeps a file that is open: it goes in the end
            self._path(kind, place).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete everything that a render wrote except the lock; the manifest is deleted last."""
        (self.folder / LABELS).unlink(missing_ok=True)
        self.start_anew()

    def start_anew(self) -> None:
        """Clear as `clear` does, but keep the digests of the nuclei that a render has written."""
        for path in self.folder.iterdir():
            if path.is_dir() and _KINDS.fullmatch(path.name):
                shutil.rmtree(path)
            elif path.is_file() and (path.name in _FILES or is_leftover(path)):
                path.unlink()
        (self.folder / MANIFEST).unlink(missing_ok=True)

    def present(self, kind: str, cells: Box) -> np.ndarray:
        """Return bool (rows, columns): which parts of the rectangle ``cells`` exist."""
        i0, j0, i1, j1 = cells
        found = np.zeros((i1 - i0, j1 - j0), bool)
        for row in _numbers(self.folder / kind):
            for column in _numbers(self.folder / kind / str(row)):
                if i0 <= row < i1 and j0 <= column < j1:
                    found[row - i0, column - j0] = True
        return found

    def drop_damaged(self) -> int:
        """Check all parts, delete those damaged or of another run, and return their number.

        Incomplete files of killed processes are deleted too.
        """
        for path in [*self.folder.glob(".*"), *self.folder.glob("*/*/.*")]:
            if is_leftover(path):
                path.unlink()
        damaged = 0
        for path in self._parts():
            if not self._is_whole(path, path.read_bytes()):
                path.unlink()
                damaged += 1
        return damaged

    def is_empty(self) -> bool:
        """Return whether there are no parts of any run."""
        return next(self._parts(), None) is None

    def holds_own(self) -> bool:
        """Return whether any part is complete and of this run."""
        return any(self._is_whole(path, path.read_bytes()) for path in self._parts())

    def _parts(self) -> Iterator[Path]:
        for kind in self.folder.iterdir():
            if _KINDS.fullmatch(kind.name):
                yield from (path for path in kind.glob("*/*") if path.name.isdecimal())

    def _check(self, path: Path, content: bytes | np.ndarray) -> None:
        if not self._is_whole(path, content):
            raise OutputError(
                f"{path} was removed or damaged: run the same command again to resume"
            )

    def _is_whole(self, path: Path, content: bytes | np.ndarray) -> bool:
        data, checksum = content[: -_CHECKSUM.size], content[-_CHECKSUM.size :]
        return bytes(checksum) == self._checksum(path, data)

    def _checksum(self, path: Path, data: bytes | np.ndarray) -> bytes:
        """Return the checksum of the identity, and of place and bytes of the part at ``path``."""
        whose = "/".join([self.identity, *path.parts[-3:]])
        start = google_crc32c.value(whose.encode())
        return _CHECKSUM.pack(google_crc32c.extend(start, data))

    def _path(self, kind: str, place: Block) -> Path:
        return self.folder / kind / str(place[0]) / str(place[1])


def _numbers(folder: Path) -> list[int]:
    """Return the names in a folder that are numbers; none if there is no such folder."""
    try:
        return [int(name) for name in os.listdir(folder) if name.isdecimal()]
    except FileNotFoundError:
        return []


@contextmanager
def open_run(
    folder: Path, manifest: dict[str, Any], *, overwrite: bool = False
) -> Iterator[RunStore]:
    """Open the store of a run folder, which is created if it is missing, and lock it.

    A folder of another run is refused, or emptied with ``overwrite``.

    Raises:
        OutputError: another configuration, a render that runs in the folder, a full disk, or a
            folder that cannot be used.
    """
    folder = Path(folder)
    store = RunStore(folder, _identity(manifest))
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            try:
                known = _is_known(store, manifest)
            except OutputError:
                if not overwrite:
                    raise
                store.start_anew()
                known = False
            if not known:
                with replacing(folder / MANIFEST) as part:
                    part.write_text(json.dumps(manifest, indent=1), "utf-8", newline="\n")
            yield store


def _identity(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, and remove the folder if nothing else is left in it."""
    lock = FileLock(folder / "lock", blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(f"another render is running in {folder}: wait until it ends") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s is on storage without locks: do not start a second render there", folder)
    try:
        yield
    finally:
        lock.release()
        # Only now, because Windows does not delete a file that is open.
        with suppress(OSError):
            if [path.name for path in folder.iterdir()] in ([], ["lock"]):
                (folder / "lock").unlink(missing_ok=True)
                folder.rmdir()


def _is_known(store: RunStore, manifest: dict[str, Any]) -> bool:
    """Return whether the folder has this manifest; false if it has to be written.

    Raises:
        OutputError: the folder contains parts of another or an unknown run.
    """
    path = store.folder / MANIFEST
    if not path.exists():
        if store.is_empty():
            return False
        raise OutputError(
            f"{store.folder} holds parts of a render without a {MANIFEST}: remove the folder, "
            "or give `overwrite` to start anew"
        )
    before = _read_manifest(path)
    if before is None:
        if store.is_empty() or store.holds_own():
            return False
        raise OutputError(
            f"{path} is damaged, and the parts belong to another render: give the options of that "
            "render to resume it, or `overwrite` to start anew"
        )
    keys = {*before, *manifest}
    if differ := sorted(k for k in keys if before.get(k) != manifest.get(k)):
        remedy = "give the same options to resume"
        if differ == ["arithmetic"]:
            remedy = "resume on a CPU or GPU that computes the same bytes as the one that began it"
        raise OutputError(
            f"{store.folder} holds an unfinished render with a different {', '.join(differ)}: "
            f"{remedy}, or `overwrite` to start anew"
        )
    return True


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """Return the content of the manifest, or None if it is damaged."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    return manifest if isinstance(manifest, dict) else None

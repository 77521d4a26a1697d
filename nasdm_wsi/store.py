"""The run folder: what a render keeps on disk so that it can stop at any moment and go on.

    RUN/manifest.json     the configuration; another one is refused
    RUN/lock              held while a render works here
    RUN/phase-K.zarr      state after phase K, one chunk a block's part; freed when it was used
    RUN/pixels.zarr       finished pixels, uint8 (h, w, 3), one chunk a block

A part is written once, to a temporary name that is then renamed, with a checksum: a chunk that
exists is whole or found to be damaged when it is read.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from .errors import OutputError
from .geometry import Block, Box, Plan, inside, intersect, shape

CHANNELS = 6  # pixels and the solver's last estimate of them, three each


class RunStore:
    """State of one render below ``folder``, cut into blocks as ``plan`` says."""

    def __init__(self, folder: Path, plan: Plan):
        self.folder, self.plan = Path(folder), plan
        side, (rows, columns) = plan.part_side, plan.blocks
        self.states = [
            _array(
                self.folder / f"phase-{k}.zarr",
                shape=(CHANNELS, rows * side, columns * side),
                chunks=(CHANNELS, side, side),
                dtype="float32",
            )
            for k in range(len(plan.phases))
        ]
        self.pixels = _array(
            self.folder / "pixels.zarr",
            shape=(*plan.size, 3),
            chunks=(plan.block_side, plan.block_side, 3),
            dtype="uint8",
        )

    # -- state between phases -------------------------------------------------------------

    def write_part(self, phase: int, block: Block, part: np.ndarray) -> None:
        """Store what a block's windows contribute: (6, h, w) over ``plan.part(block)``."""
        side = self.plan.part_side
        y, x = block[0] * side, block[1] * side
        whole = np.zeros((CHANNELS, side, side), np.float32)
        whole[:, : part.shape[1], : part.shape[2]] = part
        with _disk_errors(self.folder):
            self.states[phase][:, y : y + side, x : x + side] = whole

    def read_state(self, phase: int, box: Box) -> np.ndarray:
        """The fused state (6, h, w) of ``box`` after ``phase``: the sum of the parts there."""
        out = np.zeros((CHANNELS, *shape(box)), np.float32)
        side = self.plan.part_side
        for block in self.plan.sources(box):
            covers = self.plan.part(block)
            common = intersect(box, covers)
            y, x = inside(common, covers)
            i, j = block[0] * side, block[1] * side
            part = self.states[phase][:, i + y.start : i + y.stop, j + x.start : j + x.stop]
            out[:, *inside(common, box)] += np.asarray(part)
        return out

    def free(self, phase: int, block: Block) -> None:
        """Delete a part that nobody needs any more."""
        self._part_path(phase, block).unlink(missing_ok=True)

    def has_part(self, phase: int, block: Block) -> bool:
        """Whether the part stands on disk."""
        return self._part_path(phase, block).exists()

    def _part_path(self, phase: int, block: Block) -> Path:
        return self.folder / f"phase-{phase}.zarr" / "c" / "0" / str(block[0]) / str(block[1])

    # -- finished pixels ------------------------------------------------------------------

    def write_pixels(self, block: Block, rgb: np.ndarray) -> None:
        """Store the finished pixels, uint8 (h, w, 3), of ``plan.owned(block)``."""
        y0, x0, y1, x1 = self.plan.owned(block)
        with _disk_errors(self.folder):
            self.pixels[y0:y1, x0:x1] = rgb

    def has_pixels(self, block: Block) -> bool:
        """Whether the block is finished."""
        return self._pixels_path(block).exists()

    def _pixels_path(self, block: Block) -> Path:
        return self.folder / "pixels.zarr" / "c" / str(block[0]) / str(block[1]) / "0"

    # -- damage ---------------------------------------------------------------------------

    def drop_damaged(self) -> int:
        """Read everything that is there, delete what cannot be read, and say how many parts."""
        damaged = 0
        for block in self.plan.all_blocks():
            for phase in range(len(self.plan.phases)):
                if self.has_part(phase, block):
                    side = self.plan.part_side
                    y, x = block[0] * side, block[1] * side
                    if not _readable(self.states[phase], np.s_[:, y : y + 1, x : x + 1]):
                        self.free(phase, block)
                        damaged += 1
            if self.has_pixels(block):
                y0, x0, *_ = self.plan.owned(block)
                if not _readable(self.pixels, np.s_[y0 : y0 + 1, x0 : x0 + 1]):
                    self._pixels_path(block).unlink()
                    damaged += 1
        return damaged


@contextmanager
def open_run(
    folder: Path, plan: Plan, manifest: dict[str, Any], *, overwrite: bool = False
) -> Iterator[RunStore]:
    """The run folder's store, locked; made if it is new.

    If it belongs to another run it is refused, or with ``overwrite`` emptied.

    Raises:
        OutputError: another configuration, a render at work in the folder, or a full disk.
    """
    folder = Path(folder)
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(f"another render is at work in {folder}: wait for it") from error
            try:
                _check_manifest(folder / "manifest.json", manifest)
            except OutputError:
                if not overwrite:
                    raise
                for path in folder.iterdir():
                    if path.is_dir():
                        shutil.rmtree(path)
                    elif path.name != "lock":
                        path.unlink()
                _check_manifest(folder / "manifest.json", manifest)
            yield RunStore(folder, plan)


def _check_manifest(path: Path, manifest: dict[str, Any]) -> None:
    if path.exists():
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise OutputError(f"{path} is damaged: remove {path.parent} to start anew") from error
        keys = {*before, *manifest}
        if differ := sorted(k for k in keys if before.get(k) != manifest.get(k)):
            raise OutputError(
                f"{path.parent} holds an unfinished render with another {', '.join(differ)}: "
                "give the same options to go on, or --overwrite to start anew"
            )
        return
    part = path.with_suffix(".part")
    part.write_text(json.dumps(manifest, indent=1))
    os.replace(part, path)


def _array(path: Path, **layout: Any) -> zarr.Array:
    # Noise does not compress; the checksum is what matters.
    compress = [ZstdCodec(level=3)] if layout["dtype"] == "uint8" else []
    if (path / "zarr.json").exists():
        return zarr.open_array(LocalStore(path), mode="r+")
    return zarr.create_array(
        LocalStore(path),
        **layout,
        compressors=[*compress, Crc32cCodec()],
        config={"write_empty_chunks": True},
    )


def _readable(array: zarr.Array, where: Any) -> bool:
    try:
        array[where]
    except (ValueError, RuntimeError, OSError):
        return False
    return True


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"the disk of {folder} is full: make room and give the same command again"
            ) from error
        raise

"""OME-Zarr 0.4, for readers that do not know 0.5 yet; the code is that of `ome_zarr`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import ome_zarr

Reader = ome_zarr.Reader


def write(path: str | Path, pixels: Any, **settings: Any) -> None:
    """Write ``pixels`` as a pyramid; arguments and errors are those of `ome_zarr.write`."""
    ome_zarr.write(path, pixels, version="0.4", **settings)

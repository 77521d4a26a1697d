"""The formats of slides and label pyramids that can be written; the suffix selects one.

A new format is a module in this folder with its writer, an entry in FORMATS and a test. The module
offers

    write(path, pixels, *, mpp, description, progress=None)
        pixels: RGB (h, w, 3) or labels (h, w), as in `pyramid.Pyramid`, sliced by rows
    write_tiles(path, pyramid, tiles, *, mpp, description, progress=None)
        if the entry says ``tiled``: tiles(level) are those that `Pyramid.encode` made, in raster
        order; a render encodes them while it paints
    Reader(path)
        if the entry says ``reader``: what opens it, through the interface of openslide-python

Modules are loaded when they are needed, because the help of the command line uses this table.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import OutputError

if TYPE_CHECKING:
    from .pyramid import Pyramid


@dataclass(frozen=True)
class OutputFormat:
    """An output format.

    Attributes:
        name: what the format is called.
        suffixes: how names of its files end, in lower case; the usual one first.
        module: the module in this folder with its writer.
        next_step: advice on how to use a slide; {labels} is replaced by the file of the nuclei.
        tiled: whether it stores JPEG or deflated tiles, so that quality and lossless matter.
        reader: whether its module has a reader; otherwise OpenSlide or tiffslide read it.
        marker: the file by which a folder is recognised as a slide; "" if a slide is a file.
        members: the names of what may be in such a folder, as a regular expression.
        labels: whether it can hold pyramids of labels.
    """

    name: str
    suffixes: tuple[str, ...]
    module: str
    next_step: str
    tiled: bool = False
    reader: bool = False
    marker: str = ""
    members: str = ""
    labels: bool = True

    @property
    def code(self) -> ModuleType:
        """The module with the writer."""
        return import_module(f".{self.module}", __package__)

    def write(self, path: Path, pixels: Any, **settings: Any) -> None:
        """Write pixels that can be sliced by rows; see the module's docstring."""
        self.code.write(path, pixels, **settings)

    def write_tiles(
        self, path: Path, pyramid: Pyramid, tiles: Callable[[int], Iterable[bytes]], **settings: Any
    ) -> None:
        """Write tiles that are encoded; see the module's docstring."""
        self.code.write_tiles(path, pyramid, tiles, **settings)

    def encoded(
        self, shape: tuple[int, int, int], *, quality: int, lossless: bool
    ) -> Pyramid | None:
        """Return the pyramid of a slide of ``shape``; None if it is written from pixels."""
        from .pyramid import Pyramid

        return Pyramid(shape, quality=quality, lossless=lossless) if self.tiled else None

    def check_folder(self, path: Path) -> None:
        """Refuse to replace a folder that is not a slide of this format, or that holds more.

        Raises:
            OutputError: the reason, and what to do.
        """
        if not path.is_dir():
            return
        names = sorted(os.listdir(path))
        if self.marker not in names:
            raise OutputError(f"{path} is a folder: choose another name")
        if others := [name for name in names if not re.fullmatch(self.members, name)]:
            raise OutputError(
                f"{path} also holds {others[0]}, which is no part of a slide: move it away or "
                "choose another name"
            )


FORMATS = (
    OutputFormat(
        "OME-TIFF",
        (".ome.tif", ".ome.tiff", ".tif", ".tiff"),
        module="ome_tiff",
        next_step="open it in QuPath and drop {labels} on it",
        tiled=True,
    ),
    OutputFormat(
        "Aperio SVS",
        (".svs",),
        module="aperio",
        next_step="open it in QuPath and drop {labels} on it",
        tiled=True,
        labels=False,
    ),
    OutputFormat(
        "DICOM",
        (".dcm",),
        module="dicom",
        next_step="open level-0.dcm in it; its nuclei are in {labels}",
        tiled=True,
        reader=True,
        marker="level-0.dcm",
        members=r"(level-\d+|thumbnail|label|overview)\.dcm|\.DS_Store",
        labels=False,
    ),
    OutputFormat(
        "OME-Zarr 0.4",
        (".v04.ome.zarr",),
        module="ome_zarr_v04",
        next_step="its nuclei are in {labels}",
        reader=True,
        marker=".zattrs",
        members=r"\.z(attrs|group|metadata)|\d+|labels|\.DS_Store",
    ),
    OutputFormat(
        "OME-Zarr",
        (".ome.zarr",),
        module="ome_zarr",
        next_step="its nuclei are in {labels}",
        reader=True,
        marker="zarr.json",
        members=r"zarr\.json|\d+|labels|\.DS_Store",
    ),
)


def names() -> str:
    """Return the possible names of an output, for help: NAME.ome.tif or NAME.ome.zarr."""
    *most, last = (f"NAME{form.suffixes[0]}" for form in FORMATS)
    return f"{', '.join(most)} or {last}"


def find_format(path: str | Path) -> OutputFormat | None:
    """Return the format that the suffix of ``path`` selects; None if it selects none."""
    name = Path(path).name.lower()
    return next((form for form in FORMATS if name.endswith(form.suffixes)), None)


def format_of(path: str | Path, *, labels: bool = False) -> OutputFormat:
    """Return the format in which a slide, or a pyramid of ``labels``, is written.

    Raises:
        OutputError: the name ends in none of the suffixes of these formats.
    """
    image = image_of(path) if labels else None
    form = find_format(image or path)
    if form and (form.labels or not labels):
        return form
    possible = [form for form in FORMATS if form.labels or not labels]
    *most, last = (suffix for form in possible for suffix in form.suffixes)
    raise OutputError(f"{path}: the output must end in {', '.join(most)} or {last}")


def image_of(path: str | Path) -> Path | None:
    """Return the OME-Zarr image in whose group of labels a path is: IMAGE.ome.zarr/labels/NAME."""
    group = Path(path).parent
    form = find_format(group.parent)
    inside = group.name == "labels" and form and form.labels and form.marker
    return group.parent if inside else None


def stem(path: str | Path) -> str:
    """Return the name of a slide without its suffix: ``slide`` for slide.ome.tif or slide.svs."""
    name = Path(path).name
    form = find_format(path)
    suffixes = form.suffixes if form else ()
    longest = max((s for s in suffixes if name.lower().endswith(s)), key=len, default="")
    return name[: -len(longest)] if longest else Path(name).stem


def labels_path(slide: str | Path) -> Path:
    """Return the path of the nuclei of a slide: slide.ome.tif has slide.geojson beside it."""
    return Path(slide).with_name(f"{stem(slide)}.geojson")

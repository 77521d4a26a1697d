"""Synthetic H&E whole-slide images from nuclei annotations, by guided diffusion.

The core: annotations, conditioning, the mosaic engine and the slide. The networks live in
`nasdm_wsi.model`, the command line in `nasdm_wsi.cli`.
"""

from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not Path(__path__[0], "model").is_dir():
    # A checkout without symbolic links, as on Windows: model/ and cli/ lie beside this folder.
    __path__.append(str(Path(__path__[0]).parent))

if TYPE_CHECKING:
    __version__: str
    from .annotations.formats import read_regions
    from .annotations.nuclei import Nuclei
    from .annotations.regions import Regions
    from .editing.edit import edit, edit_region, plan_edit
    from .errors import NasdmError
    from .job import Job
    from .layouts.making import layout
    from .rendering import plan_render, read_annotations, render, render_region
    from .slides.reading import Slide, find_style, open_slide, size_like

__all__ = [
    "Job",
    "NasdmError",
    "Nuclei",
    "Regions",
    "Slide",
    "edit",
    "edit_region",
    "find_style",
    "layout",
    "open_slide",
    "plan_edit",
    "plan_render",
    "read_annotations",
    "read_regions",
    "render",
    "render_region",
    "size_like",
]

# The module of each name.
_HOME = {
    "Job": "job",
    "NasdmError": "errors",
    "Nuclei": "annotations.nuclei",
    "Regions": "annotations.regions",
    "Slide": "slides.reading",
    "edit": "editing.edit",
    "edit_region": "editing.edit",
    "find_style": "slides.reading",
    "layout": "layouts.making",
    "open_slide": "slides.reading",
    "plan_edit": "editing.edit",
    "plan_render": "rendering",
    "read_annotations": "rendering",
    "read_regions": "annotations.formats",
    "render": "rendering",
    "render_region": "rendering",
    "size_like": "slides.reading",
}


def __getattr__(name: str) -> Any:
    # Loaded when asked for, so that the command line answers --help at once.
    if name == "__version__":
        return version("nasdm-wsi")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})

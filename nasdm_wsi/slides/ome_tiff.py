"""The writer of OME-TIFF: one pyramidal, tiled file that slide viewers open with all its levels.

The levels are SubIFDs of the first image, where OME-TIFF (schema 2016-06), and with it Bio-Formats
and QuPath, look for them. They are also linked into the main chain of pages, where OpenSlide looks.
The pixel size is in the resolution tags of every level and in the OME-XML. Axis order is (y, x),
mpp is micrometres per pixel of level 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tifffile import TiffFile

from ..output import whole_or_nothing
from .pyramid import Progress, Pyramid, objective_power
from .tiff import link_pages, page_tags, tiff_writer
from .tiling import Counted, Tiles, pixel_writer


def write_tiles(
    path: str | Path,
    pyramid: Pyramid,
    tiles: Tiles,
    *,
    mpp: float,
    description: str,
    progress: Progress | None = None,
) -> None:
    """Write encoded tiles to a file, which replaces an existing one when it is complete.

    The same tiles give the same bytes.

    Args:
        tiles: returns the tiles of a level in raster order; it is called for the finest level
            first.
        mpp: micrometres per pixel of level 0.
        description: free text for the OME description.
        progress: called with the number of tiles written and of all tiles.

    Raises:
        ValueError: mpp is not positive.
        OutputError: the file cannot be written.
    """
    tags = page_tags(pyramid, mpp=mpp)
    text = _ome_xml(pyramid, mpp=mpp, description=description)
    encoded = Counted(pyramid, tiles, progress)
    with whole_or_nothing(Path(path)) as whole:
        with tiff_writer(whole, pyramid) as tiff:
            for level, shape in enumerate(pyramid.shapes):
                place: dict[str, Any] = {"subfiletype": 1}
                if not level:
                    place = {"subifds": len(pyramid.shapes) - 1, "description": text}
                tiff.write(encoded(level), shape=shape, **place, **tags)
        _link_levels(whole)


write = pixel_writer(write_tiles)


def _link_levels(path: Path) -> None:
    """Link the SubIFDs into the main chain of pages.

    Bio-Formats reads levels only from SubIFDs and OpenSlide only from the chain; both accept a file
    in which these are the same pages.
    """
    with TiffFile(path) as tiff:
        page = tiff.pages.first
        offsets = [page.offset, *(page.subifds or ())]
    link_pages(path, offsets)


def _ome_xml(pyramid: Pyramid, *, mpp: float, description: str) -> bytes:
    """Return the OME-XML of one image, as UTF-8.

    The encoding is not ASCII, because Bio-Formats silently ignores the pyramid if the micro sign is
    a character reference.
    """
    h, w, *channels = pyramid.shape
    samples = 3 if channels else 1
    power = objective_power(mpp)
    legible = "".join(c for c in description if c.isprintable() or c in "\n\t")
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="http://www.openmicroscopy.org/Schemas/OME/2016-06 \
http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd">
<Instrument ID="Instrument:0"><Objective ID="Objective:0" NominalMagnification="{power:g}"/>\
</Instrument>
<Image ID="Image:0"><Description>{escape(legible)}</Description>
<InstrumentRef ID="Instrument:0"/><ObjectiveSettings ID="Objective:0"/>
<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{pyramid.dtype}" Interleaved="true" \
SizeX="{w}" SizeY="{h}" SizeC="{samples}" SizeZ="1" SizeT="1" \
PhysicalSizeX="{mpp}" PhysicalSizeXUnit="µm" PhysicalSizeY="{mpp}" PhysicalSizeYUnit="µm">
<Channel ID="Channel:0:0" SamplesPerPixel="{samples}"/><TiffData IFD="0" PlaneCount="1"/>
</Pixels></Image></OME>""".encode()

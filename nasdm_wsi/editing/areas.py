"""The areas of an edit: reading drawn areas, and widening areas to whole cells of a grid."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import shapely

from ..annotations.contents import Source
from ..annotations.features import class_of, features_in
from ..annotations.jsonstream import members, readable, texts
from ..annotations.raster import Cover
from ..errors import AnnotationError
from ..geometry import Box, cells_in, square_box, squares_of

EDIT = "Edit"  # the class of annotations that say what to paint anew
_SIDE = 4096  # pixels of a square in which an area is widened at a time


def read_area(path: str | Path, *, named: str | None = None) -> shapely.Geometry:
    """Return the polygons of a GeoJSON file as one geometry, in its pixels; it may be empty.

    Args:
        named: read only annotations of this class.

    Raises:
        AnnotationError: the file is no GeoJSON.
    """
    found = []
    if named and not _holds(Path(path), named):
        return shapely.Polygon()
    with readable(path):
        if not Source(Path(path)).is_json:
            raise AnnotationError(f"{path}: not GeoJSON: export the area as GeoJSON")
        for name, text in texts(Path(path)):
            for member in members(text, "features"):
                for feature in features_in(member, name):
                    kind = class_of(feature.get("properties") or {})
                    if named is None or kind.casefold() == named.casefold():
                        found.append(_polygons(feature, path))
    return shapely.union_all(found) if found else shapely.Polygon()


def _holds(path: Path, name: str) -> bool:
    """Return whether a name stands in a plain file, which is quicker to find out than to parse it.

    Of other files, which may be packed, it is not known.
    """
    wanted = f'"{name}"'.casefold().encode()
    if path.suffix not in (".geojson", ".json"):
        return True
    with path.open("rb") as file:
        before = b""
        while part := file.read(1 << 24):
            if wanted in (before + part).lower():
                return True
            before = part[-len(wanted) :]
    return False


def _polygons(feature: dict, path: str | Path) -> shapely.Geometry:
    """Return the polygons of a feature, made valid."""
    try:
        geometry = shapely.geometry.shape(feature["geometry"])
        if not np.isfinite(shapely.get_coordinates(geometry)).all():
            raise ValueError("coordinates that are not finite numbers")
        geometry = shapely.make_valid(geometry)
    except Exception as error:  # of shapely, whatever is wrong with the coordinates
        raise AnnotationError(
            f"{path}: an area is not a polygon with finite coordinates: draw it again"
        ) from error
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.union_all([part for part in parts if part.geom_type == "Polygon"])


def widened(
    area: shapely.Geometry, cells: tuple[int, int], size: tuple[int, int]
) -> shapely.Geometry:
    """Return the union of all cells, (height, width) in pixels, of which a pixel lies in the area.

    The result ends at the canvas of ``size`` (h, w).
    """
    (tall, wide), (height, width) = cells, size
    boxes: list[np.ndarray] = []
    cover = Cover(area)
    for part in _squares(area, size):
        mask = cover.mask(part).reshape(_SIDE // tall, tall, _SIDE // wide, wide)
        rows, columns = np.nonzero(mask.any(axis=(1, 3)))
        y, x = part[0] + rows * tall, part[1] + columns * wide
        ends = np.minimum(x + wide, width), np.minimum(y + tall, height)
        boxes.append(shapely.box(x, y, *ends))
    return shapely.union_all(np.concatenate(boxes)) if boxes else shapely.Polygon()


def box_of(area: shapely.Geometry) -> Box:
    """Return the smallest box of whole pixels that contains an area."""
    x0, y0, x1, y1 = area.bounds
    return math.floor(y0), math.floor(x0), math.ceil(y1), math.ceil(x1)


def holds_pixel(area: shapely.Geometry, size: tuple[int, int]) -> bool:
    """Return whether a pixel of the canvas of ``size`` (h, w) lies in the area."""
    cover = Cover(area)
    return any(cover.mask(part).any() for part in _squares(area, size))


def _squares(area: shapely.Geometry, size: tuple[int, int]) -> list[Box]:
    """Return squares that hold the area, in raster order."""
    grid = cells_in(squares_of((0, 0, *size), _SIDE))
    places = [square_box(place, _SIDE) for place in grid]
    frames = shapely.box(*np.array(places)[:, [1, 0, 3, 2]].T)
    shapely.prepare(area)
    return [
        place
        for place, meets in zip(places, shapely.intersects(area, frames), strict=True)
        if meets
    ]

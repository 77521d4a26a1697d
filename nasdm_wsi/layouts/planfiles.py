"""Plans of slides from files: a PNG of classes, or GeoJSON drawn in QuPath."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import shapely
from PIL import Image, ImageDraw
from shapely.geometry import shape

from ..annotations.types import plain_name
from ..errors import PlanError
from .colon import ADENOMA, DEBRIS, FAT, GLASS, LYMPHOCYTES, MUCOSA, MUCUS, MUSCLE, STROMA, TUMOUR

CELL = 32  # micrometres of a cell of a plan that is drawn as polygons
NAMES = {
    "glass": GLASS,
    "mucosa": MUCOSA,
    "normal mucosa": MUCOSA,
    "debri": DEBRIS,  # a name loses its plural
    "necrosi": DEBRIS,
    "tumour": TUMOUR,
    "tumor": TUMOUR,
    "carcinoma": TUMOUR,
    "adenoma": ADENOMA,
    "fat": FAT,
    "adipose": FAT,
    "mucu": MUCUS,
    "muscle": MUSCLE,
    "stroma": STROMA,
    "submucosa": STROMA,
    "lymphocyte": LYMPHOCYTES,
    "lymphoid aggregate": LYMPHOCYTES,
}


def read_plan(path: Path, canvas: tuple[float, float], mpp: float) -> np.ndarray:
    """Return a plan, uint8 (rows, columns), that is to be stretched over a canvas.

    In a PNG, values or places in the palette are the classes of `colon.GLASS` and the following. In
    GeoJSON, class names say what lies where, later over earlier, in pixels of ``mpp``.

    Raises:
        PlanError: neither, or other classes.
    """
    try:
        with Image.open(path) as image:
            cells, mode = np.array(image), image.mode
    except (OSError, SyntaxError):  # no picture, or a damaged one
        return _painted(path, canvas, mpp)
    except Image.DecompressionBombError as error:
        raise PlanError(f"{path} is too large for a plan: a cell of it may be coarse") from error
    if mode not in ("P", "L"):
        raise PlanError(
            f"{path} is a picture of mode {mode}: a plan is a PNG of 8-bit grey or of a palette, "
            "whose values are the classes"
        )
    if cells.max() > ADENOMA:
        raise PlanError(
            f"{path} has the value {cells.max()}: a plan has classes from 0 (glass) to {ADENOMA}"
        )
    return cells.astype(np.uint8)


def _painted(path: Path, canvas: tuple[float, float], mpp: float) -> np.ndarray:
    """Return the plan of a GeoJSON file, in cells of `CELL`."""
    try:
        features = orjson.loads(path.read_bytes())["features"]
        named = [(_class(feature), shape(feature["geometry"])) for feature in features]
    except (ValueError, KeyError, TypeError, AttributeError, shapely.GEOSException) as error:
        raise PlanError(f"{path} is neither PNG nor GeoJSON: give one as `plan`") from error
    size = max(1, round(canvas[1] / CELL)), max(1, round(canvas[0] / CELL))
    image = Image.new("L", size, GLASS)
    scale = np.array(size) / (canvas[1], canvas[0]) * mpp
    for name, area in named:
        kind = NAMES.get(plain_name(name))
        if kind is None:
            raise PlanError(
                f"{path}: no tissue of a plan is called {name!r}: choose one of "
                f"{', '.join(sorted({*NAMES} - {'debri', 'necrosi', 'mucu'}))}, debris or mucus"
            )
        for polygon in shapely.get_parts(area).tolist():
            if polygon.geom_type == "Polygon":
                image.paste(kind, mask=_mask(polygon, size, scale))
    return np.array(image)


def _mask(polygon: shapely.Polygon, size: tuple[int, int], scale: np.ndarray) -> Image.Image:
    """Return the cells of a plan of ``size`` (w, h) that lie in a polygon, and not in its holes."""
    mask = Image.new("1", size)
    pen = ImageDraw.Draw(mask)
    for hole, ring in enumerate((polygon.exterior, *polygon.interiors)):
        points = shapely.get_coordinates(ring) * scale
        pen.polygon(points.ravel().tolist(), fill=not hole)
    return mask


def _class(feature: dict) -> str:
    given = feature["properties"]["classification"]
    return given["name"] if isinstance(given, dict) else str(given)

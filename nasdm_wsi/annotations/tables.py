"""`Nuclei` as a GeoDataFrame and back. geopandas is an extra: nasdm-wsi[geopandas]."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import shapely

from ..errors import AnnotationError
from .classes import ClassTable
from .geojson import collect
from .nuclei import TYPES, Nuclei

SOURCE = "the GeoDataFrame"


def to_geopandas(nuclei: Nuclei) -> Any:
    """See `Nuclei.to_geopandas`."""
    try:
        import geopandas
    except ImportError as error:
        raise ImportError("geopandas is missing: pip install 'nasdm-wsi[geopandas]'") from error
    columns: dict[str, Any] = {"classification": np.array(TYPES)[nuclei.types]}
    if nuclei.ids:
        columns["id"] = list(nuclei.ids)
    return geopandas.GeoDataFrame(columns, geometry=nuclei.polygons())


def from_geopandas(
    frame: Any, *, mpp: float, column: str, contours: str = "auto", **classes: Any
) -> Nuclei:
    """See `Nuclei.from_geopandas`."""
    if column not in frame:
        raise AnnotationError(f"{SOURCE} has no column {column!r}: name that of the classes")
    features, table = _features(frame, column), ClassTable(**classes)
    kind = "GeoDataFrame"
    return collect(SOURCE, kind, features, mpp=mpp, classes=table, contours=contours).checked()


def _features(frame: Any, column: str) -> Iterator[tuple[str, dict]]:
    ids = frame["id"] if "id" in frame else [None] * len(frame)
    rows = zip(frame.geometry, frame[column], ids, strict=True)
    for number, (geometry, label, name) in enumerate(rows):
        yield (
            f"{SOURCE}: row {number}",
            {
                "id": name,
                "geometry": geometry and shapely.geometry.mapping(geometry),
                "properties": {"objectType": "detection", "classification": label},
            },
        )

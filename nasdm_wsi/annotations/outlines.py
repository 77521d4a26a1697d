"""Outlines of a file's objects, checked, repaired and packed into flat arrays by the batch.

Readers hand outlines over to `Outlines`, from text as lists of coordinates and from other libraries
as shapely geometries, each with the name of its class; `Outlines.columns` gives them back packed.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import shapely

from ..errors import AnnotationError
from .columns import Columns, Packer, offsets, pack
from .contours import between_pixels, looks_traced, traced_pixel
from .findings import Findings
from .types import TISSUE

BATCH = 4096  # outlines packed at a time
CONTOURS = ("auto", "corner", "cv2")

Ring = array  # of float64: x, y, x, y, ...; closed

log = logging.getLogger(__name__)


class Outlines:
    """Takes the outlines of one file with the names of their classes, and packs them.

    findings: counts classes, and notes what is left out or repaired.
    contours: "corner" if vertices are points between pixels, "cv2" if they are the centres of
        boundary pixels as OpenCV gives them, "auto" to find out.
    """

    def __init__(self, findings: Findings, contours: str = "auto"):
        if contours not in CONTOURS:
            raise ValueError(f"contours must be one of {', '.join(CONTOURS)}, not {contours!r}")
        self.findings = findings
        self.contours = contours
        self._batch: list[tuple[list[Ring], int, str]] = []  # rings, type number, id
        self._packer = Packer()
        self._tissue: list[shapely.Geometry] = []
        self._pixel: float | None = None  # as `traced_pixel`; None until there are nuclei

    @property
    def traced(self) -> bool:
        """Whether the outlines were contours of OpenCV."""
        return bool(self._pixel)

    @property
    def tissue(self) -> shapely.Geometry | None:
        """The union of the tissue outlines; None if there are none. Known after `columns`."""
        return shapely.union_all(self._tissue) if self._tissue else None

    def add(self, name: str, polygons: Sequence, where: str, identity: str = "") -> None:
        """Take the polygons of one object of class ``name``, each as a list of rings of points.

        ``where`` names the object in errors; the first polygon gets the id.

        Raises:
            AnnotationError: coordinates that are not finite numbers.
        """
        number = self.findings.number(name, len(polygons))
        if number is None:
            return
        try:
            for rings in polygons:
                self._batch.append((_closed(rings), number, identity))
                identity = ""
        except (ValueError, TypeError) as error:
            raise AnnotationError(
                f"{where} has coordinates that are not finite numbers: correct or remove it"
            ) from error
        if len(self._batch) >= BATCH:
            self._flush()

    def add_geometries(
        self, geometries: np.ndarray, names: Sequence[str], ids: Sequence[str] | None = None
    ) -> None:
        """Take (n,) shapely geometries, the names of their classes, and perhaps their ids.

        Raises:
            AnnotationError: coordinates that are not finite.
        """
        ids = [""] * len(geometries) if ids is None else ids
        for first in range(0, len(geometries), BATCH):
            some = slice(first, first + BATCH)
            self._add_geometries(geometries[some], names[some], ids[some])

    def columns(self) -> Columns:
        """The nuclei among all outlines."""
        self._flush()
        columns = self._packer.columns()
        if self.contours == "auto" and not self._pixel:
            if looks_traced(columns.coords, columns.ring_offsets):
                log.warning(
                    "%s: all coordinates are integers: if OpenCV traced them, give `contours` cv2",
                    self.findings.source,
                )
        return columns

    def _flush(self) -> None:
        """Pack the batch of outlines that came as lists."""
        full = [row for row in self._batch if row[0]]
        self.findings.notes["without area"] += len(self._batch) - len(full)
        self._batch = []
        self._pack(
            _polygons([rings for rings, _, _ in full]),
            np.array([number for _, number, _ in full], int),
            [identity for _, _, identity in full],
        )

    def _add_geometries(
        self, geometries: np.ndarray, names: Sequence[str], ids: Sequence[str]
    ) -> None:
        parts, source = _polygon_parts(geometries)
        numbers = self._numbers(geometries, names, np.bincount(source, minlength=len(geometries)))
        is_first = np.diff(source, prepend=-1) != 0
        drawn = [k for k, row in enumerate(source) if numbers[row] is not None]
        self._pack(
            parts[drawn],
            np.array([numbers[source[k]] for k in drawn], int),
            [ids[source[k]] if is_first[k] else "" for k in drawn],
        )

    def _numbers(
        self, geometries: np.ndarray, names: Sequence[str], counts: np.ndarray
    ) -> list[int | None]:
        """The type number of each geometry, of ``counts`` polygons; None if it is not drawn."""
        numbers: list[int | None] = []
        for geometry, name, count in zip(geometries, names, counts.tolist(), strict=True):
            if not count:
                self.findings.notes[_kind(geometry)] += 1
            numbers.append(self.findings.number(name, count) if count else None)
        return numbers

    def _pack(self, polygons: np.ndarray, numbers: np.ndarray, ids: Sequence[str]) -> None:
        """Check, repair and pack (n,) polygons with their type numbers and ids."""
        # Text has no infinity; other sources may.
        if not np.isfinite(shapely.get_coordinates(polygons)).all():
            raise AnnotationError(
                f"{self.findings.source}: coordinates that are not finite numbers: "
                "correct or remove them"
            )
        is_tissue = numbers == TISSUE
        if self._pixel is None and not is_tissue.all():
            self._pixel = self._traced_pixel(polygons[~is_tissue])
        whole = self._repaired(polygons)
        self.findings.notes["without area"] += int(shapely.is_empty(whole).sum())
        self._tissue += list(whole[is_tissue])
        names = [identity for identity, no in zip(ids, is_tissue, strict=True) if not no]
        self._packer.add(pack(whole[~is_tissue], numbers[~is_tissue], names))

    def _traced_pixel(self, polygons: np.ndarray) -> float:
        if self.contours == "corner":
            return 0.0
        coords, ring = shapely.get_coordinates(shapely.get_rings(polygons), return_index=True)
        steps = np.diff(coords, axis=0)[ring[1:] == ring[:-1]]
        return traced_pixel(steps, known=self.contours == "cv2")

    def _repaired(self, polygons: np.ndarray) -> np.ndarray:
        """Valid polygons (n,), of contours those between pixels; empty ones have no area."""
        bad = ~shapely.is_valid(polygons)
        self.findings.notes["repaired"] += int(bad.sum())
        whole = polygons.copy()
        whole[bad] = shapely.make_valid(polygons[bad])
        if self._pixel:
            return between_pixels(whole, self._pixel)
        whole[bad] = [_polygonal(geometry) for geometry in whole[bad]]
        return whole


def _closed(rings: Iterable) -> list[Ring]:
    """The closed rings of a polygon; none if it has no area.

    Raises:
        ValueError, TypeError: coordinates that are not finite numbers.
    """
    closed: list[Ring] = []
    for points in rings:
        if set(map(len, points)) != {2}:
            points = [(x, y) for x, y, *_ in points]  # heights are left out
        if points and points[0] != points[-1]:
            points = [*points, points[0]]
        ring = array("d", chain.from_iterable(points))
        if len(points) >= 4:
            closed.append(ring)
        elif not closed:
            return []
    return closed


def _polygons(outlines: list[list[Ring]]) -> np.ndarray:
    """Shapely polygons (n,) of closed rings, valid or not."""
    if not outlines:
        return np.empty(0, object)
    rings = list(chain.from_iterable(outlines))
    return shapely.from_ragged_array(
        shapely.GeometryType.POLYGON,
        np.frombuffer(b"".join(rings)).reshape(-1, 2),
        (offsets([len(ring) // 2 for ring in rings]), offsets([len(rings) for rings in outlines])),
    )


def _polygon_parts(geometries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The polygons (m,) in (n,) geometries, without heights, and which geometry each is of."""
    polygonal = np.isin(
        shapely.get_type_id(geometries),
        (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON),
    )
    index = np.flatnonzero(polygonal)
    parts, source = shapely.get_parts(shapely.force_2d(geometries[index]), return_index=True)
    return parts, index[source]


_KINDS = {
    "Point": "points",
    "MultiPoint": "points",
    "LineString": "lines",
    "MultiLineString": "lines",
    "GeometryCollection": "geometry collections",
}


def kind_of(geometry_type: object) -> str:
    """A type of geometry without area in words, for the notes."""
    return _KINDS.get(str(geometry_type), "objects without shape")


def _kind(geometry: shapely.Geometry | None) -> str:
    return kind_of(geometry and geometry.geom_type)


def _polygonal(geometry: shapely.Geometry) -> shapely.MultiPolygon:
    """What of a repaired polygon has an area."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.MultiPolygon([part for part in parts if part.geom_type == "Polygon"])

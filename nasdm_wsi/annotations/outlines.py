"""Outlines of a file's objects, which are checked, repaired and packed into arrays in batches.

Readers pass outlines to `Outlines`, from text as lists of coordinates and from other libraries as
shapely geometries, each with the name of its class; `Outlines.columns` returns them packed.
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
from .types import LEFT_OUT, TISSUE

BATCH = 4096  # outlines packed at a time
SEGMENTS = 64  # of an outline, looked at together
CONTOURS = ("auto", "corner", "cv2")
SLIVER = 1e-3  # share of an outline that is no part of its own, if it is less than a square pixel
FARTHEST = 1_000_000_000  # pixels from the origin
MOST_CROSSINGS = 2000  # of one outline with itself; repair takes seconds from here on

Ring = array  # of float64: x, y, x, y, ...; closed

log = logging.getLogger(__name__)


class Outlines:
    """A builder that packs the outlines of one file, with the names of their classes.

    findings: counts classes, and notes what is left out or repaired.
    contours: "corner" if vertices are points between pixels, "cv2" if they are the centres of
        boundary pixels as OpenCV gives them, "auto" to detect it.
    """

    def __init__(self, findings: Findings, contours: str = "auto"):
        if contours not in CONTOURS:
            raise ValueError(f"contours must be one of {', '.join(CONTOURS)}, not {contours!r}")
        self.findings = findings
        self.contours = contours
        self.names: list[str] = []  # of the classes, by their index
        self.nuclei_of_cells = 0  # cells that have a nucleus besides their own outline
        self._numbers: list[int] = []  # type numbers of the classes
        self._index: dict[tuple[str, bool], int] = {}  # of a class, and whether of bare cells
        # Rings, index of the class, id, place in the file
        self._batch: list[tuple[list[Ring], int, str, str]] = []
        self._packer = Packer()
        self._classes = array("i")  # index of each packed polygon's class
        self._tissue: list[shapely.Geometry] = []
        self._pixel: float | None = None  # as `traced_pixel`; None until there are nuclei

    @property
    def traced(self) -> bool:
        """Whether the outlines are contours of OpenCV."""
        return bool(self._pixel)

    @property
    def tissue(self) -> shapely.Geometry | None:
        """The union of the tissue outlines; None if there are none. Known after `columns`.

        It is in normal form: a union that is written and read again stays the same.
        """
        return shapely.normalize(shapely.union_all(self._tissue)) if self._tissue else None

    def add(
        self,
        name: str,
        polygons: Sequence,
        where: str,
        identity: str = "",
        *,
        bare_cell: bool = False,
    ) -> None:
        """Add the polygons of one object of class ``name``, each as a list of rings of points.

        ``where`` names the object in errors; the first polygon gets the id. A bare cell has an
        outline and no nucleus; its outline is read as a nucleus if no cell of the file has one.

        Raises:
            AnnotationError: coordinates that are not finite numbers.
        """
        kind = self._kind(name, len(polygons), bare_cell)
        if kind is None:
            return
        try:
            for rings in polygons:
                self._batch.append((_closed(rings), kind, identity, where))
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
        """Add (n,) shapely geometries, the names of their classes, and optionally their ids.

        Raises:
            AnnotationError: coordinates that are not finite.
        """
        ids = [""] * len(geometries) if ids is None else ids
        for first in range(0, len(geometries), BATCH):
            some = slice(first, first + BATCH)
            self._add_geometries(geometries[some], names[some], ids[some])

    def _kind(self, name: str, count: int, bare_cell: bool = False) -> int | None:
        """Count objects of a class. Returns the index of the class, None if it is left out."""
        number = self.findings.number(name, count)
        if number is None:
            if not self.findings.names.region(name):
                return None
            number = LEFT_OUT  # unless it is a region
        key = name, bare_cell
        if key not in self._index:
            self._index[key] = len(self.names)
            self.names.append(name)
            self._numbers.append(number)
        return self._index[key]

    def columns(self) -> tuple[Columns, np.ndarray]:
        """Return all outlines except tissue, and the index of each one's class in ``names``.

        Outlines of classes that name no nuclei have the type `types.UNKNOWN`, and those whose
        nuclei are left out `types.LEFT_OUT`.
        """
        self._flush()
        columns, classes = self._without_bare_cells()
        if self.contours == "auto" and not self._pixel:
            if looks_traced(columns.coords, columns.ring_offsets):
                log.warning(
                    "%s: all coordinates are integers: if OpenCV traced them, give `contours` cv2",
                    self.findings.source,
                )
        return columns, classes

    def _without_bare_cells(self) -> tuple[Columns, np.ndarray]:
        columns, classes = self._packer.columns(), np.frombuffer(self._classes, np.int32)
        bare = [kind for (_, is_bare), kind in self._index.items() if is_bare]
        index = np.flatnonzero(~np.isin(classes, bare))
        left_out = len(classes) - len(index)
        if not left_out:
            return columns, classes
        if not self.nuclei_of_cells:
            self.findings.notes["cells read by their only outline"] += left_out
            return columns, classes
        for kind in bare:
            count = int((classes == kind).sum())
            self.findings.leave_out(self.names[kind], count, "cells without nucleus")
        self.findings.warn(
            f"{left_out} of {left_out + self.nuclei_of_cells} cells have no nucleus and are left "
            "out: detect nuclei in all cells, or remove those without"
        )
        return columns.take(index), classes[index]

    def _flush(self) -> None:
        """Pack the batch of outlines that came as lists."""
        full = [row for row in self._batch if row[0]]
        self.findings.notes["without area"] += len(self._batch) - len(full)
        self._batch = []
        self._pack(
            _polygons([rings for rings, _, _, _ in full]),
            np.array([kind for _, kind, _, _ in full], int),
            [identity for _, _, identity, _ in full],
            [where for _, _, _, where in full],
        )

    def _add_geometries(
        self, geometries: np.ndarray, names: Sequence[str], ids: Sequence[str]
    ) -> None:
        parts, source = _polygon_parts(geometries)
        kinds = self._kinds(geometries, names, np.bincount(source, minlength=len(geometries)))
        is_first = np.diff(source, prepend=-1) != 0
        drawn = [k for k, row in enumerate(source) if kinds[row] is not None]
        self._pack(
            parts[drawn],
            np.array([kinds[source[k]] for k in drawn], int),
            [ids[source[k]] if is_first[k] else "" for k in drawn],
            [f"{self.findings.source}: an object of class {names[source[k]]!r}" for k in drawn],
        )

    def _kinds(
        self, geometries: np.ndarray, names: Sequence[str], counts: np.ndarray
    ) -> list[int | None]:
        """Return the class index of each geometry of ``counts`` polygons; None if left out."""
        kinds: list[int | None] = []
        for geometry, name, count in zip(geometries, names, counts.tolist(), strict=True):
            if not count:
                self.findings.shapeless[_kind(geometry)] += 1
            kinds.append(self._kind(name, count) if count else None)
        return kinds

    def _pack(
        self,
        polygons: np.ndarray,
        kinds: np.ndarray,
        ids: Sequence[str],
        places: Sequence[str],
    ) -> None:
        """Check, repair and pack (n,) polygons with the indices of their classes and ids.

        ``places`` names each polygon in errors.
        """
        self._check_coordinates(polygons, places)
        numbers = np.array([*self._numbers, 0], int)[kinds]
        is_tissue = numbers == TISSUE
        if self._pixel is None and not is_tissue.all():
            self._pixel = self._traced_pixel(polygons[~is_tissue])
        whole = self._repaired(polygons, places)
        self.findings.notes["without area"] += int(shapely.is_empty(whole).sum())
        self._tissue += list(whole[is_tissue])
        names = [identity for identity, no in zip(ids, is_tissue, strict=True) if not no]
        others, kinds = whole[~is_tissue], kinds[~is_tissue]
        self._packer.add(pack(others, numbers[~is_tissue], names))
        # `pack` splits what repair has made of several parts, and leaves out what is empty.
        parts = np.where(shapely.is_empty(others), 0, shapely.get_num_geometries(others))
        for kind, more in zip(kinds[parts > 1], parts[parts > 1] - 1, strict=True):
            self.findings.counts[self.names[kind]] += int(more)
        self._classes.frombytes(np.repeat(kinds, parts).astype(np.int32).tobytes())

    def _check_coordinates(self, polygons: np.ndarray, places: Sequence[str]) -> None:
        """Refuse coordinates that no slide has; sources other than text may contain infinity."""
        coords, index = shapely.get_coordinates(polygons, return_index=True)
        if (far := ~(np.abs(coords) <= FARTHEST).all(1)).any():
            place = places[int(index[far.argmax()])]
            raise AnnotationError(
                f"{place} has coordinates that are not finite numbers or beyond {FARTHEST:,} "
                "pixels: correct or remove it"
            )

    def _traced_pixel(self, polygons: np.ndarray) -> float:
        if self.contours == "corner":
            return 0.0
        coords, ring = shapely.get_coordinates(shapely.get_rings(polygons), return_index=True)
        steps = np.diff(coords, axis=0)[ring[1:] == ring[:-1]]
        return traced_pixel(steps, known=self.contours == "cv2")

    def _repaired(self, polygons: np.ndarray, places: Sequence[str]) -> np.ndarray:
        """Return valid polygons (n,), of contours those between pixels; empty ones have no area."""
        bad = ~shapely.is_valid(polygons)
        self.findings.notes["repaired"] += int(bad.sum())
        for k in np.flatnonzero(bad).tolist():
            if _is_tangled(polygons[k]):
                raise AnnotationError(
                    f"{places[k]} crosses itself more than {MOST_CROSSINGS} times: "
                    "correct or remove it"
                )
        whole = polygons.copy()
        whole[bad] = shapely.make_valid(polygons[bad])
        if self._pixel:
            return between_pixels(whole, self._pixel)
        whole[bad] = [_polygonal(geometry) for geometry in whole[bad]]
        return whole


def _closed(rings: Iterable) -> list[Ring]:
    """Return the closed rings of a polygon; empty if it has no area.

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
        if ring[:2] != ring[-2:]:  # only NaN differs from itself
            raise ValueError("NaN")
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
    """Return the 2-D polygons (m,) in (n,) geometries, and the index of each one's geometry."""
    polygonal = np.isin(
        shapely.get_type_id(geometries),
        (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON),
    )
    index = np.flatnonzero(polygonal)
    parts, source = shapely.get_parts(shapely.force_2d(geometries[index]), return_index=True)
    return parts, index[source]


def _is_tangled(polygon: shapely.Polygon) -> bool:
    """Return whether an outline crosses itself too often to be repaired quickly."""
    xy, ring = shapely.get_coordinates(shapely.get_rings(polygon), return_index=True)
    if len(xy) ** 2 < 2 * MOST_CROSSINGS:  # fewer pairs of segments
        return False
    segments = shapely.linestrings(np.stack([xy[:-1], xy[1:]], axis=1)[ring[1:] == ring[:-1]])
    tree = shapely.STRtree(segments)
    crossings = 0
    for first in range(0, len(segments), SEGMENTS):
        pairs = tree.query(segments[first : first + SEGMENTS], predicate="crosses")
        crossings += pairs.shape[1] // 2  # each pair is found from both sides
        if crossings > MOST_CROSSINGS:
            return True
    return False


_KINDS = {
    "Point": "points",
    "MultiPoint": "points",
    "LineString": "lines",
    "MultiLineString": "lines",
    "GeometryCollection": "geometry collections",
}


def kind_of(geometry_type: object) -> str:
    """Return a type of geometry without area in words, for the notes."""
    return _KINDS.get(str(geometry_type), "objects without shape")


def _kind(geometry: shapely.Geometry | None) -> str:
    return kind_of(geometry and geometry.geom_type)


def _polygonal(geometry: shapely.Geometry) -> shapely.MultiPolygon:
    """Return the parts of a repaired polygon that have an area, without slivers."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    least = min(SLIVER * geometry.area, 1.0)
    return shapely.MultiPolygon(
        [part for part in parts if part.geom_type == "Polygon" and part.area > least]
    )

"""The six nucleus types, their names and colours, and the table of nuclei.

Coordinates are x, y in pixels whose corners are the integers (x to the right, y down), as in
QuPath: the centre of pixel i is i + 0.5. Boxes are (y0, x0, y1, x1), half open.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from ..errors import AnnotationError, disk_errors
from .types import PALETTE as PALETTE
from .types import TYPES as TYPES

_ALIASES = {
    "neutrophil": "polymorph, pmn",
    "epithelial": "epithelium, neoplastic, neopla, non neoplastic epithelial, no neo, tumor, "
    "tumour, tumor nonmitotic, tumor any, malignant, cancer, normal epithelial, "
    "ductal epithelium, myoepithelium, glandular, mitosis, mitotic figure, tumor mitotic",
    "lymphocyte": "lymph, til, stil, t cell, b cell, cd3, cd8, cd20",
    "plasma": "plasmacyte",
    "eosinophil": "eos",
    "connective": "connec, stroma, stromal, nontil stromal, fibroblast, spindle, spindle shaped, "
    "endothelial, vascular endothelium, muscle",
}
# Classes of many cell kinds, read as the most frequent of them where nothing better is said.
_VAGUE = ("inflammatory", "inflam", "overall inflammatory", "immune")
LEAST_MPP, MOST_MPP = 0.01, 100.0
MOST_TO_DRAW = 200_000  # in a notebook

log = logging.getLogger(__name__)


def plain_name(name: str) -> str:
    """A class name without what spellings differ in: case, hyphens, plural, a closing "cells"."""
    words = re.sub(r"[\s_-]+", " ", name.casefold()).strip()
    # "T cells" keeps its noun: a lone letter could mean anything.
    words = re.sub(r"(?<=\w\w)( (cells?|nucleus|nuclei|tissue))+$", "", words)
    return words.removesuffix("s")


_TYPE_OF: dict[str, int | None] = {
    plain_name(alias): number
    for number, name in enumerate(TYPES[1:], 1)
    for alias in (name, *_ALIASES[name].split(", "))
} | {plain_name(name): None for name in ("background", "ignore", "image")}
_VAGUE_TYPE_OF: dict[str, int | None] = {
    plain_name(name): TYPES.index("lymphocyte") for name in _VAGUE
}


def known_names() -> dict[str, list[str]]:
    """Class names by what they are read as."""
    names = {kind: [kind, *_ALIASES[kind].split(", ")] for kind in TYPES[1:]}
    names["lymphocyte, with a warning"] = list(_VAGUE)
    names["nothing: left out"] = [name for name, number in _TYPE_OF.items() if number is None]
    return names


def own_classes(class_map: Mapping[str, str], ignore: Iterable[str] = ()) -> dict[str, int | None]:
    """The user's own class names, for `resolve_class`.

    class_map: class name to nucleus type; ignore: class names to leave out.

    Raises:
        AnnotationError: a type that is none of the six.
    """
    for name, kind in class_map.items():
        if kind.casefold() not in TYPES[1:]:
            raise AnnotationError(
                f"class {name!r} is mapped to {kind!r}: choose one of {', '.join(TYPES[1:])}"
            )
    own: dict[str, int | None] = {
        plain_name(name): TYPES.index(kind.casefold()) for name, kind in class_map.items()
    }
    return own | {plain_name(name): None for name in ignore}


def resolve_class(name: str, own: Mapping[str, int | None] | None = None) -> int | None:
    """The type number of a class, or None where its nuclei are to be left out.

    Of a derived class ("Immune cells: Lymphocyte") the whole name is tried, then each part from
    the first; ``own`` (from `own_classes`) before the known names, and names that only say
    "inflammatory" last. Names that end in ``*`` are left out, as QuPath does.

    Raises:
        KeyError: a name that says nothing.
    """
    names = [plain_name(part) for part in (name, *name.split(":"))]
    ignored: dict[str, int | None] = {names[0]: None} if name.endswith("*") else {}
    for table in (own or {}, ignored, _TYPE_OF, _VAGUE_TYPE_OF):
        for plain in names:
            if plain in table:
                if table is _VAGUE_TYPE_OF:
                    log.warning("class %r is read as lymphocyte; `class_map` can change it", name)
                return table[plain]
    raise KeyError(name)


def check_mpp(mpp: float | None, source: object) -> float:
    """``mpp`` itself, if it can be micrometres per pixel.

    Raises:
        AnnotationError: it is missing or absurd; the message names ``source``.
    """
    if mpp is None:
        raise AnnotationError(f"{source}: the pixel size is unknown: give it, like `mpp` 0.25")
    if not LEAST_MPP < mpp < MOST_MPP:
        raise AnnotationError(
            f"{source}: {mpp:g} micrometres per pixel is absurd: give the pixel size, "
            "like `mpp` 0.25"
        )
    return float(mpp)


@dataclass(frozen=True, eq=False)
class Nuclei:
    """Nuclei as columns: a million of them take some 0.4 GB, as shapely objects 2 GB.

    Attributes:
        coords: float64 (v, 2), x and y of the vertices of all rings, each ring closed.
        ring_offsets: int64 (r + 1,) into coords; the layout of `shapely.to_ragged_array`.
        polygon_offsets: int64 (n + 1,) into rings; a nucleus' first ring is its outline, then
            holes.
        types: uint8 (n,), 1 to 6.
        mpp: micrometres per pixel of the coordinates.
        ids: a name for each nucleus, "" where it has none; None if none has.
        tissue: where there is tissue; None if unknown, which counts as everywhere.
    """

    coords: np.ndarray
    ring_offsets: np.ndarray
    polygon_offsets: np.ndarray
    types: np.ndarray
    mpp: float
    ids: tuple[str, ...] | None = None
    tissue: shapely.Geometry | None = None

    @classmethod
    def from_polygons(
        cls,
        polygons: Any,
        types: Any,
        *,
        mpp: float,
        ids: Sequence[str] | None = None,
        tissue: shapely.Geometry | None = None,
    ) -> Nuclei:
        """Nuclei from (n,) shapely polygons and (n,) type numbers.

        Each part of a MultiPolygon becomes a nucleus of its own (the first keeps the id); empty
        polygons are left out.
        """
        parts, source = shapely.get_parts(np.asarray(polygons, object), return_index=True)
        full = ~shapely.is_empty(parts)
        parts, source = parts[full], source[full]
        if ids is not None:
            first = np.diff(source, prepend=-1) != 0
            ids = tuple(ids[k] if new else "" for k, new in zip(source, first, strict=True))
        if len(parts):
            _, coords, (rings, offsets) = shapely.to_ragged_array(parts, include_z=False)
        else:
            coords, rings, offsets = np.empty((0, 2)), np.zeros(1), np.zeros(1)
        return cls(
            coords,
            rings.astype(np.int64),
            offsets.astype(np.int64),
            np.asarray(types, np.uint8)[source],
            mpp,
            ids or None,
            tissue,
        )

    @classmethod
    def concatenate(cls, parts: Iterable[Nuclei]) -> Nuclei:
        """One table from one or more that share their mpp; tissue is the first one's.

        Each part is taken in before the next is asked for, and memory is needed once only.
        """
        coords, rings, polygons, types = (bytearray() for _ in range(4))
        ids: list[str] = []
        first: Nuclei | None = None
        for part in parts:
            first = part if first is None else first
            coords += part.coords.tobytes()
            rings += np.diff(part.ring_offsets).tobytes()
            polygons += np.diff(part.polygon_offsets).tobytes()
            types += part.types.tobytes()
            ids += part.ids or [""] * len(part)
        if first is None:
            raise ValueError("nothing to concatenate")
        return replace(
            first,
            coords=np.frombuffer(coords).reshape(-1, 2),
            ring_offsets=offsets(np.frombuffer(rings, np.int64)),
            polygon_offsets=offsets(np.frombuffer(polygons, np.int64)),
            types=np.frombuffer(types, np.uint8),
            ids=tuple(ids) if any(ids) else None,
        )

    @classmethod
    def from_geopandas(
        cls, frame: Any, *, mpp: float, column: str = "classification", **options: Any
    ) -> Nuclei:
        """Nuclei from a GeoDataFrame of polygons in pixels of ``mpp``.

        ``column`` holds the class names, a column "id" the ids, of which UUIDs are kept. The
        options, the repair of polygons and the errors are those of `qupath.read_geojson`.
        """
        from .tables import from_geopandas

        return from_geopandas(frame, mpp=mpp, column=column, **options)

    def to_geopandas(self) -> Any:
        """A GeoDataFrame of the polygons, with the columns "classification" and "id" (if any has).

        Tissue is not in it.

        Raises:
            ImportError: geopandas is not installed.
        """
        from .tables import to_geopandas

        return to_geopandas(self)

    def __len__(self) -> int:
        return len(self.types)

    def __repr__(self) -> str:
        counts = ", ".join(f"{n:,} {name}" for name, n in self.counts().items() if n)
        return f"<Nuclei: {len(self):,} at {self.mpp:g} mpp{counts and ': '}{counts}>"

    def _repr_png_(self) -> bytes | None:
        """A drawing for notebooks; None where there are none, or too many to draw in a moment."""
        from .notebook import drawing, png

        return png(drawing(self)) if 0 < len(self) <= MOST_TO_DRAW else None

    def polygons(self) -> np.ndarray:
        """Shapely polygons (n,)."""
        offsets = (self.ring_offsets, self.polygon_offsets)
        return shapely.from_ragged_array(shapely.GeometryType.POLYGON, self.coords, offsets)

    def boxes(self) -> np.ndarray:
        """Bounding boxes, float (n, 4) as (y0, x0, y1, x1)."""
        if not len(self):
            return np.empty((0, 4))
        yx, first = self.coords[:, ::-1], self.ring_offsets[self.polygon_offsets[:-1]]
        return np.hstack([np.minimum.reduceat(yx, first), np.maximum.reduceat(yx, first)])

    def extent(self) -> tuple[float, float, float, float]:
        """The bounding box (y0, x0, y1, x1) of all nuclei and tissue; there must be some."""
        boxes = self.boxes()
        if self.tissue is not None:
            x0, y0, x1, y1 = self.tissue.bounds
            boxes = np.vstack([boxes, [y0, x0, y1, x1]])
        (y0, x0), (y1, x1) = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
        return y0, x0, y1, x1

    def scaled(self, mpp: float) -> Nuclei:
        """The same nuclei in pixels of ``mpp`` micrometres."""
        factor = self.mpp / mpp
        return self if factor == 1 else replace(self._moved(lambda xy: xy * factor), mpp=mpp)

    def shifted(self, dy: float, dx: float) -> Nuclei:
        """The same nuclei, moved by so many pixels."""
        return self._moved(lambda xy: xy + (dx, dy)) if dx or dy else self

    def take(self, index: np.ndarray) -> Nuclei:
        """The nuclei of an integer index, in its order."""
        rings, counts = members(self.polygon_offsets, index)
        vertices, lengths = members(self.ring_offsets, rings)
        return replace(
            self,
            coords=self.coords[vertices],
            ring_offsets=offsets(lengths),
            polygon_offsets=offsets(counts),
            types=self.types[index],
            ids=None if self.ids is None else tuple(self.ids[k] for k in index),
        )

    def within(self, box: tuple[float, float, float, float]) -> Nuclei:
        """Those that touch the box (y0, x0, y1, x1); they are not cut, nor is the tissue."""
        y0, x0, y1, x1 = box
        a, b, c, d = self.boxes().T
        touch = (a <= y1) & (b <= x1) & (c >= y0) & (d >= x0)
        # Most lie wholly inside; only the others need their outlines looked at.
        cut = np.flatnonzero(touch & ~((a >= y0) & (b >= x0) & (c <= y1) & (d <= x1)))
        touch[cut] = shapely.intersects(self.take(cut).polygons(), shapely.box(x0, y0, x1, y1))
        return self if touch.all() else self.take(np.flatnonzero(touch))

    def counts(self) -> dict[str, int]:
        """How many there are of each of the six types."""
        counts = np.bincount(self.types, minlength=len(TYPES))
        return {name: int(n) for name, n in zip(TYPES[1:], counts[1:], strict=True)}

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when an outline, a type or the tissue does.

        Ids and the pixel size are left out: they change no pixel of a canvas.
        """
        digest = hashlib.sha256()
        for column in (self.coords, self.ring_offsets, self.polygon_offsets, self.types):
            digest.update(np.ascontiguousarray(column).reshape(-1).data)
        digest.update(b"" if self.tissue is None else self.tissue.wkb)
        return digest.hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write all but the ids, for `load` in another process."""
        tissue = b"" if self.tissue is None else shapely.to_wkb(self.tissue)
        with disk_errors(path.parent), open(path, "wb") as file:
            np.savez(
                file,
                coords=self.coords,
                ring_offsets=self.ring_offsets,
                polygon_offsets=self.polygon_offsets,
                types=self.types,
                mpp=self.mpp,
                tissue=np.frombuffer(tissue, np.uint8),
            )

    @classmethod
    def load(cls, path: Path) -> Nuclei:
        """What `save` wrote."""
        with np.load(path) as file:
            columns = dict(file)
        tissue = columns.pop("tissue").tobytes()
        return cls(
            **{**columns, "mpp": float(columns["mpp"])},
            tissue=shapely.from_wkb(tissue) if tissue else None,
        )

    def _moved(self, move: Callable[[np.ndarray], np.ndarray]) -> Nuclei:
        tissue = None if self.tissue is None else shapely.transform(self.tissue, move)
        return replace(self, coords=move(self.coords), tissue=tissue)


def offsets(lengths: Any) -> np.ndarray:
    """Where each of consecutive runs of these lengths begins, and the end: int64 (n + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def members(starts: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positions starts[i] to starts[i + 1] - 1 for each i of the index, and how many each."""
    lengths = starts[index + 1] - starts[index]
    return runs(starts[index], lengths), lengths


def runs(first: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """first[i], first[i] + 1, ..., lengths[i] of them, for each i one after another: int64."""
    before = offsets(lengths)
    return np.repeat(first - before[:-1], lengths) + np.arange(before[-1])

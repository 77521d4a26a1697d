"""The table of nuclei.

Coordinates are x, y in pixels whose corners are the integers (x to the right, y down), as in
QuPath: the centre of pixel i is i + 0.5. Boxes are (y0, x0, y1, x1), half open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import orjson
import shapely
from PIL import Image, ImageDraw

from ..errors import AnnotationError, disk_errors
from ..notebook import SIDE, png
from .classes import ClassNames
from .columns import Packer, PolygonTable, pack
from .features import add_feature, canonical_uuid, class_name, feature_lines, features_in
from .findings import Findings
from .outlines import Outlines
from .plausible import sort_out
from .regions import Regions, joined
from .types import PALETTE, TYPES

LEAST_MPP, MOST_MPP = 0.01, 100.0
MOST_TO_DRAW = 200_000  # in a notebook


def check_mpp(mpp: float | None, source: object) -> float:
    """Return ``mpp`` if it is a possible number of micrometres per pixel.

    Raises:
        AnnotationError: it is missing or impossible; the message names ``source``.
    """
    if mpp is None:
        raise AnnotationError(
            f"{source}: the pixel size is unknown: give it, for example `mpp` 0.25"
        )
    if not LEAST_MPP < mpp < MOST_MPP:
        raise AnnotationError(
            f"{source}: {mpp:g} micrometres per pixel is not plausible: give the "
            "right pixel size, for example `mpp` 0.25"
        )
    return float(mpp)


@dataclass(frozen=True, eq=False)
class Nuclei(PolygonTable):
    """A table of nuclei as columns; a million take 0.4 GB, where shapely objects would take 2 GB.

    Attributes:
        coords, ring_offsets, polygon_offsets, types, ids: as in `columns.Columns`.
        mpp: micrometres per pixel of the coordinates.
        tissue: where there is tissue; None if unknown, which counts as everywhere.
        regions: what tissue lies between the nuclei, in the same pixels; None if nothing is known.
        sources: the files from which they were read, which no output may replace.
        canvas: height and width in micrometres of the canvas that the file states, which begins at
            the origin of the coordinates; None if it states none.
    """

    tissue: shapely.Geometry | None = field(default=None, kw_only=True)
    regions: Regions | None = field(default=None, kw_only=True)
    sources: tuple[Path, ...] = field(default=(), kw_only=True)
    canvas: tuple[float, float] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.regions is not None and self.regions.mpp != self.mpp:
            raise ValueError(
                f"regions at {self.regions.mpp:g} mpp and nuclei at {self.mpp:g}: scale the regions"
            )

    @classmethod
    def from_polygons(
        cls,
        polygons: Any,
        types: Any,
        *,
        mpp: float,
        ids: Sequence[str] | None = None,
        tissue: shapely.Geometry | None = None,
        regions: Regions | None = None,
    ) -> Nuclei:
        """Return nuclei from (n,) shapely polygons and (n,) type numbers.

        Each part of a MultiPolygon becomes a nucleus of its own (the first keeps the id); empty
        polygons are left out.
        """
        return cls(**vars(pack(polygons, types, ids)), mpp=mpp, tissue=tissue, regions=regions)

    @classmethod
    def concatenate(cls, parts: Iterable[Nuclei]) -> Nuclei:
        """Join tables that share their mpp; the tissue is that of the first.

        Each part is added before the next is requested, so memory is needed only once.
        """
        packer, regions = Packer(), []
        first: Nuclei | None = None
        for part in parts:
            first = part if first is None else first
            packer.add(part)
            regions.append(part.regions)
        if first is None:
            raise ValueError("nothing to concatenate")
        return replace(first, **vars(packer.columns()), regions=joined(regions))

    @classmethod
    def from_outlines(cls, outlines: Outlines, *, mpp: float) -> Nuclei:
        """Make nuclei from the outlines of a file, with its tissue and regions."""
        columns, classes = outlines.columns()
        nuclei, regions = sort_out(columns, classes, outlines.names, outlines.findings, mpp)
        return cls(**vars(nuclei), mpp=mpp, tissue=outlines.tissue, regions=regions)

    @classmethod
    def from_geojson(
        cls, collection: Any, *, mpp: float, contours: str = "auto", **classes: Any
    ) -> Nuclei:
        """Nuclei from GeoJSON in memory: a FeatureCollection of ``geojson``, a dict, or features.

        ``mpp`` is that of their coordinates; ``contours`` and ``classes`` (``class_map``,
        ``ignore_classes``, ``tissue_classes``) are as in `formats.read_contents`, which is for
        files.

        Raises:
            AnnotationError: not GeoJSON by the rules of the package ``geojson``, an unknown class,
                no nuclei, or an impossible ``mpp``.
        """
        source = "the GeoJSON"
        outlines = Outlines(Findings(source, ClassNames(**classes)), contours)
        mpp = check_mpp(mpp, source)
        listed = isinstance(collection, Iterable) and not isinstance(collection, dict)
        roots = collection if listed else [collection]
        features = (feature for root in roots for feature in features_in(root, source))
        for number, feature in enumerate(features):
            where = f"{source}: feature {number}"
            _check_feature(feature, where)
            add_feature(outlines, feature, where)
        nuclei = cls.from_outlines(outlines, mpp=mpp)
        outlines.findings.check(len(nuclei), len(nuclei.regions or ()))
        return nuclei

    def to_geojson(self) -> Any:
        """Return a ``geojson.FeatureCollection`` of the features that `write_geojson` writes."""
        import geojson

        lines = feature_lines(self, self.regions, tissue=self.tissue)
        features = [geojson.Feature(**orjson.loads(line)) for line in lines]
        return geojson.FeatureCollection(features)

    @classmethod
    def from_geopandas(
        cls,
        frame: Any,
        *,
        mpp: float,
        column: str = "classification",
        contours: str = "auto",
        **classes: Any,
    ) -> Nuclei:
        """Return nuclei from a GeoDataFrame of polygons.

        ``mpp`` is that of their coordinates. ``column`` holds the class names, a column "id" the
        ids, of which UUIDs are kept. The rest is as in `from_geojson`.
        """
        source = "the GeoDataFrame"
        if column not in frame:
            raise AnnotationError(f"{source} has no column {column!r}: name that of the classes")
        outlines = Outlines(Findings(source, ClassNames(**classes)), contours)
        mpp = check_mpp(mpp, source)
        names = [class_name(value) for value in frame[column]]
        ids = [canonical_uuid(value) for value in frame["id"]] if "id" in frame else None
        outlines.add_geometries(np.asarray(frame.geometry, object), names, ids)
        nuclei = cls.from_outlines(outlines, mpp=mpp)
        outlines.findings.check(len(nuclei), len(nuclei.regions or ()))
        return nuclei

    def to_geopandas(self) -> Any:
        """Return a GeoDataFrame of the polygons, with columns "classification" and "id" (if any).

        It contains neither the tissue nor the regions.

        Raises:
            ImportError: geopandas is not installed.
        """
        try:
            import geopandas
        except ImportError as error:
            raise ImportError("geopandas is missing: pip install 'nasdm-wsi[geopandas]'") from error
        columns: dict[str, Any] = {"classification": np.array(TYPES)[self.types]}
        if self.ids:
            columns["id"] = list(self.ids)
        return geopandas.GeoDataFrame(columns, geometry=self.polygons())

    def __repr__(self) -> str:
        counts = ", ".join(f"{n:,} {name}" for name, n in self.counts().items() if n)
        return f"<Nuclei: {len(self):,} at {self.mpp:g} mpp{counts and ': '}{counts}>"

    def _repr_png_(self) -> bytes | None:
        """Draw nuclei for notebooks; None if there are none, or too many to draw quickly."""
        return self._drawing() if 0 < len(self) <= MOST_TO_DRAW else None

    def _drawing(self) -> bytes:
        """Return the nuclei in the colours of their types, as a PNG; holes are white."""
        y0, x0, y1, x1 = self.extent()
        scale = SIDE / max(y1 - y0, x1 - x0)
        size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
        colours = [tuple(colour) for colour in PALETTE.tolist()]
        image = Image.new("RGB", size, colours[0])
        pen = ImageDraw.Draw(image)
        points = (self.coords - (x0, y0)) * scale - 0.5  # the pen counts from pixel centres
        is_hole = np.ones(len(self.ring_offsets) - 1, bool)
        is_hole[self.polygon_offsets[:-1]] = False
        kinds = np.repeat(self.types, np.diff(self.polygon_offsets)) * ~is_hole
        for kind, (first, last) in zip(kinds, pairwise(self.ring_offsets), strict=True):
            pen.polygon(points[first:last].ravel().tolist(), fill=colours[kind])
        return png(np.asarray(image))

    @property
    def canvas_size(self) -> tuple[int, int] | None:
        """Height and width in pixels of the canvas that the file states; None if it states none."""
        if self.canvas is None:
            return None
        height, width = (max(math.ceil(round(side / self.mpp, 2)), 1) for side in self.canvas)
        return height, width

    def extent(self) -> tuple[float, float, float, float]:
        """Return the box (y0, x0, y1, x1) round nuclei, tissue and regions, of which some exist."""
        boxes = self.boxes()
        if self.regions is not None:
            boxes = np.vstack([boxes, self.regions.boxes()])
        if self.tissue is not None:
            x0, y0, x1, y1 = self.tissue.bounds
            boxes = np.vstack([boxes, [y0, x0, y1, x1]])
        (y0, x0), (y1, x1) = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
        return y0, x0, y1, x1

    def shifted(self, dy: float, dx: float) -> Nuclei:
        """Return nuclei, tissue and regions moved by these numbers of pixels, without a canvas."""
        moved = super().shifted(dy, dx)
        return moved if moved is self else replace(moved, canvas=None)

    def within(self, box: tuple[float, float, float, float]) -> Nuclei:
        """Return the nuclei and regions that touch the box (y0, x0, y1, x1); nothing is cut."""
        near = super().within(box)
        return near if near.regions is None else replace(near, regions=near.regions.within(box))

    def counts(self) -> dict[str, int]:
        """Return the number of nuclei of each of the six types."""
        counts = np.bincount(self.types, minlength=len(TYPES))
        return {name: int(n) for name, n in zip(TYPES[1:], counts[1:], strict=True)}

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when an outline, a type, the tissue or a region does.

        Ids and the pixel size are left out: they change no pixel of a canvas.
        """
        digest = self.digest()
        digest.update(b"" if self.tissue is None else self.tissue.wkb)
        if self.regions:
            digest.update(self.regions.fingerprint().encode())
        return digest.hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write everything except the ids, for `load` in another process."""
        tissue = b"" if self.tissue is None else shapely.to_wkb(self.tissue)
        regions = {} if self.regions is None else self.regions.arrays()
        with disk_errors(path.parent), open(path, "wb") as file:
            np.savez(
                file,
                **self.arrays(),
                tissue=np.frombuffer(tissue, np.uint8),
                **{f"region_{name}": array for name, array in regions.items()},
            )

    @classmethod
    def load(cls, path: Path) -> Nuclei:
        """Read the nuclei that `save` wrote."""
        with np.load(path) as file:
            columns = dict(file)
        tissue = columns.pop("tissue").tobytes()
        of_regions = [name for name in columns if name.startswith("region_")]
        regions = {name.removeprefix("region_"): columns.pop(name) for name in of_regions}
        return cls(
            **{**columns, "mpp": float(columns["mpp"])},
            tissue=shapely.from_wkb(tissue) if tissue else None,
            regions=Regions(**{**regions, "mpp": float(regions["mpp"])}) if regions else None,
        )

    def _moved(self, move: Callable[[np.ndarray], np.ndarray], mpp: float) -> Nuclei:
        tissue = None if self.tissue is None else shapely.transform(self.tissue, move)
        regions = None if self.regions is None else self.regions._moved(move, mpp)
        return replace(self, coords=move(self.coords), mpp=mpp, tissue=tissue, regions=regions)


def _check_feature(feature: dict, where: str) -> None:
    """Refuse a feature that the package ``geojson`` finds invalid."""
    for geometry in (feature.get("geometry"), feature.get("nucleusGeometry")):
        if geometry and (flaw := _flaw(geometry)):
            reason = shorten(f"{flaw}", 200)
            raise AnnotationError(f"{where} is not valid GeoJSON ({reason}): correct or remove it")


def _flaw(geometry: Any) -> object:
    """Return what is invalid in a geometry by the package ``geojson``; false if it is valid."""
    import geojson

    try:
        checked = geojson.GeoJSON.to_instance(geometry, strict=True)
        geojson.dumps(checked)  # refuses NaN and infinity
        return checked.errors()
    except (AttributeError, TypeError, ValueError) as error:
        return error

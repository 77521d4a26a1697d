"""The pairs of pictures of `stress.py`: each kind of change is a method of `Scene`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely
from PIL import Image
from scipy.ndimage import gaussian_filter
from stress import BESIDE, VIEWS, Pair

from nasdm_wsi.annotations.geojson import write_geojson
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.editing import presets
from nasdm_wsi.editing.changes import SAME, Changes, changes
from nasdm_wsi.editing.edit import edited, plan_edit
from nasdm_wsi.editing.source import on_tissue
from nasdm_wsi.errors import OutputError, PlanError
from nasdm_wsi.geometry import Box
from nasdm_wsi.job import Job
from nasdm_wsi.model import Painter
from nasdm_wsi.rendering import plan_render, read_annotations, render_region
from nasdm_wsi.slides.stain import STYLES, style_vector
from nasdm_wsi.tools.sets import find_sources

MARGIN = 4.0  # micrometres round what changes, as of `nasdm-wsi edit`
INSIDE = 16.0  # micrometres from the border of the slide to a change, at least
BLURS = (0.5, 1.0, 2.0)  # standard deviations in pixels
TRIES = 100


class Shown(NamedTuple):
    """What a pair shows.

    views: the pictures control, before and after, uint8 (h, w, 3).
    places, area: as in `stress.Pair`.
    nuclei: before and after, from the corner of the pictures.
    """

    what: str
    views: tuple[np.ndarray, np.ndarray, np.ndarray]
    places: list[tuple[float, float, int, int]]
    area: shapely.Geometry
    nuclei: tuple[Nuclei, Nuclei]


def points(nuclei: Nuclei) -> np.ndarray:
    """Centroids (n, 2) as x, y."""
    return shapely.get_coordinates(shapely.centroid(nuclei.polygons())).reshape(-1, 2)


def as_of(nuclei: Nuclei, mpp: float) -> Nuclei:
    """Return nuclei and regions with the same coordinates, which count as pixels of ``mpp``."""
    regions = None if nuclei.regions is None else replace(nuclei.regions, mpp=mpp)
    return replace(nuclei, mpp=mpp, regions=regions)


class Scene:
    """A slide with its nuclei, both in pixels of the canvas on which it is edited."""

    def __init__(
        self, slide: Path, labels: Path, painter: Painter, mpp: float | None, side: int, seed: int
    ):
        self.slide, self.painter, self.stated_mpp, self.side = slide, painter, mpp, side
        self.rng = np.random.default_rng(seed)
        nuclei = read_annotations(labels, like=slide, mpp=mpp)
        probe = self._job(nuclei, shapely.box(0, 0, 8, 8))
        self.size, self.mpp = probe.plan.size, probe.known.mpp
        if min(self.size) < side:
            raise PlanError(f"{slide} is smaller than {side} pixels: give a smaller side")
        self.known, self.nuclei = probe.known, replace(nuclei, tissue=None).scaled(self.mpp)
        self.fits = on_tissue(slide, self.mpp)

    def _job(self, nuclei: Nuclei, area: shapely.Geometry, seed: int = 0) -> Job:
        return plan_edit(self.slide, nuclei, area, self.painter, mpp=self.stated_mpp, seed=seed)

    def box_round(self, x: float, y: float) -> Box:
        """Return the box of a picture round a point."""
        (h, w), side = self.size, self.side
        y0 = int(np.clip(round(y) - side // 2, 0, h - side))
        x0 = int(np.clip(round(x) - side // 2, 0, w - side))
        return y0, x0, y0 + side, x0 + side

    def anywhere(self) -> Box:
        """Return the box of a picture round a random nucleus."""
        return self.box_round(*self.rng.choice(points(self.nuclei)))

    def cut(self, nuclei: Nuclei, box: Box) -> Nuclei:
        """Return the nuclei of a box, counted from its corner."""
        return nuclei.within(box).shifted(-box[0], -box[1])

    # One nucleus, or a few

    def added(self, turn: int) -> tuple[Nuclei, str]:
        """Insert a nucleus; the types take turns."""
        kind = TYPES[1:][turn % 6]
        return presets.insert(self.nuclei, kind, 1, rng=self.rng, fits=self.fits), kind

    def removed(self, _turn: int) -> tuple[Nuclei, str]:
        """Remove a nucleus."""
        return presets.remove(self.nuclei, None, 1, rng=self.rng), ""

    def retyped(self, turn: int) -> tuple[Nuclei, str]:
        """Give a nucleus another type; the types take turns."""
        new = TYPES[1:][turn % 6]
        present = [TYPES[k] for k in np.unique(self.nuclei.types) if TYPES[k] != new]
        old = self.rng.choice(present)
        return presets.swap(self.nuclei, old, new, rng=self.rng, amount=1), new

    def thinned(self, _turn: int) -> tuple[Nuclei, str]:
        """Remove every other nucleus near a place."""
        places = points(self.nuclei)
        distance = np.linalg.norm(places - self.rng.choice(places), axis=1)
        near = np.flatnonzero(distance * self.mpp < BESIDE)
        gone = self.rng.permutation(near)[: max(len(near) // 2, 1)]
        return self.nuclei.take(np.setdiff1d(np.arange(len(places)), gone)), ""

    def edited(self, change: Callable[[int], tuple[Nuclei, str]], turn: int) -> Shown:
        """Change nuclei at a place that lies well inside the slide."""
        for _ in range(TRIES):
            after, what = change(turn)
            area = changes(self.nuclei, after).area(MARGIN)
            if self.is_inside(area):
                break
        else:
            raise PlanError(f"{self.slide}: no room for {change.__name__} nuclei off the border")
        box = self.box_round(*area.centroid.coords[0])

        def painted(nuclei: Nuclei, difference: Changes | None = None) -> np.ndarray:
            return edited(replace(self._job(nuclei, area, turn), region=box), difference)

        y0, x0 = box[:2]
        places = [(x - x0, y - y0, old, new) for x, y, old, new in self.places(after)]
        control, before = self.known.pixels(box), painted(self.nuclei)
        views = control, before, painted(after, changes(self.nuclei, after))
        there = shapely.transform(area, lambda xy: xy - (x0, y0))
        return Shown(what, views, places, there, (self.cut(self.nuclei, box), self.cut(after, box)))

    def is_inside(self, area: shapely.Geometry) -> bool:
        """Return whether an area fits a picture and is not at the border of the slide."""
        h, w = self.size
        margin = INSIDE / self.mpp
        x0, y0, x1, y1 = area.bounds
        fits = max(x1 - x0, y1 - y0) < self.side
        return fits and shapely.box(margin, margin, w - margin, h - margin).contains(area)

    def places(self, after: Nuclei) -> list[tuple[float, float, int, int]]:
        """Return x, y, type before and type after, 0 for none, of all nuclei that changed."""
        difference = changes(self.nuclei, after)
        new = np.flatnonzero(difference.states != SAME)
        if len(after) == len(self.nuclei):  # one has another type, and kept its number
            rows = zip(points(after)[new], self.nuclei.types[new], after.types[new], strict=True)
        else:
            rows = [
                (place, 0, kind)
                for place, kind in zip(points(after)[new], after.types[new], strict=True)
            ]
            gone = difference.removed
            rows += [(place, kind, 0) for place, kind in zip(points(gone), gone.types, strict=True)]
        return [(*place.round(2).tolist(), int(old), int(kind)) for place, old, kind in rows]

    # The whole picture

    def stained(self, turn: int) -> Shown:
        """Paint the nuclei of a place in the stain of the slide, and in a named one."""
        box, name = self.anywhere(), list(STYLES)[turn % len(STYLES)]
        nuclei = self.cut(self.nuclei, box)
        own = self.painter.restyled(style_vector(self.known.pixels(box)[None]))

        def painted(painter: Painter, seed: int) -> np.ndarray:
            size = self.side, self.side
            return render_region(
                plan_render(as_of(nuclei, painter.mpp), painter, size=size, seed=seed)
            )

        other = self.painter.restyled(name)
        views = painted(own, turn + 1), painted(own, turn), painted(other, turn)
        return Shown(name, views, [], shapely.Polygon(), (nuclei, nuclei))

    def blurred(self, turn: int) -> Shown:
        """Blur the slide at a place."""
        box, sigma = self.anywhere(), BLURS[turn % len(BLURS)]
        picture, nuclei = self.known.pixels(box), self.cut(self.nuclei, box)
        after = np.rint(gaussian_filter(picture.astype(float), (sigma, sigma, 0))).astype(np.uint8)
        views = picture, picture, after
        return Shown(f"{sigma:g} pixels", views, [], shapely.Polygon(), (nuclei, nuclei))

    def pair(self, kind: str, turn: int) -> Shown:
        """Return a pair of one of `KINDS`."""
        change = getattr(self, kind)
        return change(turn) if kind in ("stained", "blurred") else self.edited(change, turn)


KINDS = ("added", "removed", "retyped", "thinned", "stained", "blurred")


def make(
    slides: list[Path],
    out: Path,
    labels: Path | None,
    weights: str,
    *,
    mpp: float | None,
    count: int,
    side: int,
    seed: int,
) -> None:
    """Write ``count`` pairs of each kind, from the slides in turn."""
    if out.exists():
        raise OutputError(f"{out} exists: choose another name or remove it")
    painter = Painter(weights)
    scenes = []
    for number, source in enumerate(find_sources(slides, labels=labels)):
        beside = source.labels or source.slide.with_name(f"{source.name}.geojson")
        scenes.append(Scene(source.slide, beside, painter, mpp, side, seed + number))
    (out / "truth").mkdir(parents=True)
    for kind in KINDS:
        for turn, scene in enumerate(islice(cycle(scenes), count)):
            shown = scene.pair(kind, turn)
            area = shown.area.wkt
            pair = Pair(f"{kind}-{turn:03}", kind, shown.what, scene.mpp, shown.places, area)
            write(out, pair, shown)
            pair.save(out)
        print(f"{kind}: {count} pairs", flush=True)


def write(out: Path, pair: Pair, shown: Shown) -> None:
    """Write the pictures of a pair, and the nuclei that are there."""
    before, after = shown.nuclei
    dots = 25400 / pair.mpp
    for view, picture, nuclei in zip(VIEWS, shown.views, (before, before, after), strict=True):
        name = f"{pair.name}-{view}"
        Image.fromarray(picture).save(out / f"{name}.png", dpi=(dots, dots))
        write_geojson(out / "truth" / f"{name}.geojson", nuclei)

"""Ask for changes of single nuclei in real pictures, and let a segmenter read what is there.

    python benchmarks/edit_changes.py PICTURES NUCLEI [--edits 200] [--weights small]

PICTURES and NUCLEI are as in `edits.py`. A file of nuclei may also hold `box` (y0, x0, y1, x1), the
part of the picture in which edits may lie, because the weights were trained on the rest. A third of
the edits each removes a nucleus, inserts one, and gives one another type. The edits of a picture
are painted together; they lie at least 32 micrometres apart. The segmenter of `nasdm-wsi evaluate`
reads the pictures before and after:

- As asked: no nucleus is found within 3 micrometres of a removed one; where one was inserted or
  changed, one of the right type is found. Types are also compared in three groups, which the
  segmenter tells apart far better: epithelial, inflammatory and connective.
- No other change: beyond the repainted area and 3 micrometres more, within 20 micrometres of the
  change, the segmenter finds the nuclei that it found before, of the same types, and no others.

The segmenter's own errors bound both, so the same is told of pictures that were changed in another
way:

- real: nuclei of the untouched pictures, as they are annotated;
- pasted: at the places of inserted and changed nuclei, real nuclei of the type that was asked for,
  with 4 micrometres of their surroundings. All are read as annotated where they come from, which is
  the same picture if it has one;
- painted anew: the places of the edits, painted from the nuclei that are there;
- JPEG: the pictures, compressed at quality 90.
"""

from __future__ import annotations

import argparse
import io
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from edits import Bench
from measure import machine, table
from PIL import Image
from scipy.ndimage import center_of_mass, distance_transform_edt
from shapely import affinity

from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Cover
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.editing import presets
from nasdm_wsi.editing.changes import ADDED, CHANGED, changes
from nasdm_wsi.errors import PlanError
from nasdm_wsi.model.evaluation.segmenter import decode, load, predict

NEAR, APART, BESIDE = 6, 64, 40  # pixels of 0.5 micrometres
MARGIN = 4.0  # micrometres, the default of `nasdm-wsi edit`
INSIDE = 14  # pixels between an edit and the border of the part where edits may lie
TRIES = 20  # random choices of a nucleus, until one lies there and apart from other edits
GROUPS = np.array([0, 3, 2, 3, 3, 3, 6])  # by type: 3 is inflammatory


class Reader:
    """The nuclei that the segmenter finds in a picture: centroids (n, 2) as x, y, and types."""

    def __init__(self, picture: np.ndarray, network):
        kinds, instances = decode(predict(picture, network))
        numbers = np.arange(1, instances.max() + 1)
        centres = np.array(center_of_mass(instances > 0, instances, numbers)).reshape(-1, 2)
        self.centres = centres[:, ::-1]
        self.types = kinds[tuple(np.rint(centres).astype(int).T)]

    def type_at(self, point: np.ndarray) -> int:
        """Type of the nearest nucleus within `NEAR` pixels; 0 if there is none."""
        distance = np.linalg.norm(self.centres - point, axis=1)
        return int(self.types[distance.argmin()]) if distance.min(initial=np.inf) <= NEAR else 0

    def around(self, point: np.ndarray, area: shapely.Geometry) -> np.ndarray:
        """Return bool (n,): the nuclei outside an area and within `BESIDE` pixels of a point."""
        near = np.linalg.norm(self.centres - point, axis=1) <= BESIDE
        return near & ~shapely.contains_xy(area, *self.centres.T)

    def keeps(self, other: Reader, which: np.ndarray) -> bool:
        """Return whether these nuclei of ``other`` are found here too, of the same types."""
        pairs = zip(other.centres[which], other.types[which], strict=True)
        return all(self.type_at(point) == kind for point, kind in pairs)

    def agrees(self, other: Reader, point: np.ndarray, area: shapely.Geometry) -> bool:
        """Return whether both read the same round a point and outside an area."""
        return self.keeps(other, other.around(point, area)) and other.keeps(
            self, self.around(point, area)
        )


@dataclass
class Picture:
    """A picture, its nuclei, and the part (x0, y0, x1, y1) where edits may lie."""

    path: Path
    pixels: np.ndarray
    nuclei: Nuclei
    part: shapely.Polygon

    @classmethod
    def load(cls, bench: Bench, name: str) -> Picture:
        path, pixels, nuclei = bench.load(name)
        with np.load(bench.labels / f"{name}.npz") as file:
            y0, x0, y1, x1 = file["box"] if "box" in file else (0, 0, *pixels.shape[:2])
        return cls(path, pixels, nuclei, shapely.box(x0, y0, x1, y1).buffer(-INSIDE))


def points(nuclei: Nuclei) -> np.ndarray:
    """Centroids (n, 2) as x, y."""
    return shapely.get_coordinates(shapely.centroid(nuclei.polygons()))


Asked = list[tuple[np.ndarray, int]]  # places x, y, and types; 0 where a nucleus is removed


def edited(picture: Picture, count: int, rng: np.random.Generator) -> tuple[Nuclei, Asked]:
    """Return nuclei after edits, and what was asked for.

    ``count`` edits of each kind are tried.
    """
    nuclei: Nuclei = picture.nuclei
    asked: Asked = []

    def free(place: shapely.Point) -> bool:
        places = [shapely.Point(at) for at, _ in asked]
        return picture.part.contains(place) and all(place.distance(at) > APART for at in places)

    def change(nuclei: Nuclei) -> Nuclei:
        there = [name for name in TYPES[1:] if (nuclei.types == TYPES.index(name)).any()]
        old = rng.choice(there)
        new = rng.choice([name for name in TYPES[1:] if name != old])
        return presets.swap(nuclei, old, new, rng=rng, amount=1)

    def insert(nuclei: Nuclei) -> Nuclei:
        kind = rng.choice(TYPES[1:])
        return presets.insert(nuclei, kind, 1, rng=rng, fits=lambda o: free(o.centroid))

    def remove(nuclei: Nuclei) -> Nuclei:
        return presets.remove(nuclei, None, 1, rng=rng)

    for step in (insert, change, remove) * count:
        for _ in range(TRIES):
            try:
                after = step(nuclei)
            except PlanError:  # no room
                continue
            difference = changes(nuclei, after)
            new = np.flatnonzero(np.isin(difference.states, [ADDED, CHANGED]))
            there = after.take(new) if len(new) else difference.removed
            (place,) = shapely.centroid(there.polygons())
            if free(place):
                kind = int(after.types[new[0]]) if len(new) else 0
                asked.append((np.array([place.x, place.y]), kind))
                nuclei = after
                break
    return nuclei, asked


class Pasting:
    """Real nuclei that the segmenter reads as they are annotated, to be laid into other places."""

    def __init__(self, pictures: list[Picture], readers: list[Reader]):
        self.models = defaultdict(list)
        for number, (picture, reader) in enumerate(zip(pictures, readers, strict=True)):
            h, w = picture.pixels.shape[:2]
            inner = shapely.box(0, 0, w, h).buffer(-2 * INSIDE)
            nuclei = picture.nuclei
            for place, kind, outline in zip(
                points(nuclei), nuclei.types, nuclei.polygons(), strict=True
            ):
                if inner.contains(outline) and reader.type_at(place) == kind:
                    self.models[kind].append((number, picture, outline, place))

    def pasted(
        self, number: int, picture: Picture, asked: Asked, rng: np.random.Generator
    ) -> np.ndarray:
        """Return the picture with a real nucleus at each place where one was asked for."""
        out = picture.pixels.astype(float)
        for place, kind in asked:
            models = self.models[kind]
            models = [model for model in models if model[0] == number] or models
            if not kind or not models:
                continue
            _, source, outline, centre = models[rng.integers(len(models))]
            dx, dy = np.rint(place - centre).astype(int)
            moved = affinity.translate(outline, dx, dy).buffer(MARGIN / 0.5)
            x0, y0, x1, y1 = (round(n) for n in moved.buffer(2).bounds)
            box = max(y0, 0), max(x0, 0), min(y1, len(out)), min(x1, out.shape[1])
            share = np.clip(distance_transform_edt(Cover(moved).mask(box)) / 3, 0, 1)[..., None]
            at = np.s_[box[0] : box[2], box[1] : box[3]]
            there = np.s_[box[0] - dy : box[2] - dy, box[1] - dx : box[3] - dx]
            out[at] += share * (source.pixels[there] - out[at])
        return np.rint(out).astype(np.uint8)


def compressed(picture: np.ndarray) -> np.ndarray:
    """Return the picture after JPEG at quality 90."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return np.array(Image.open(file))


def share(values: list) -> str:
    """Return the share of true values in percent."""
    return f"{np.mean(values):.0%}" if values else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("pictures", "nuclei"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--weights", default="small")
    options = parser.parse_args()
    bench, network = Bench(options.pictures, options.nuclei, options.weights), load()
    pictures = [Picture.load(bench, name) for name in bench.names]
    readers = [Reader(picture.pixels, network) for picture in pictures]
    pasting = Pasting(pictures, readers)
    rng, seen, beside = np.random.default_rng(0), defaultdict(list), defaultdict(list)
    each = -(-options.edits // (3 * len(pictures)))
    for number, (picture, before) in enumerate(zip(pictures, readers, strict=True)):
        nuclei = picture.nuclei
        within = shapely.contains_xy(picture.part, *points(nuclei).T)
        for place, kind in zip(points(nuclei)[within], nuclei.types[within], strict=True):
            note(seen, "real", kind, before.type_at(place))
        after, asked = edited(picture, each, rng)
        difference = changes(nuclei, after)
        area = difference.area(MARGIN)
        views = {
            "edited": bench.painted(picture.path, after, area, 0, difference),
            "painted anew": bench.painted(picture.path, nuclei, area, 0),
            "pasted": pasting.pasted(number, picture, asked, rng),
            "JPEG": compressed(picture.pixels),
        }
        read = {name: Reader(pixels, network) for name, pixels in views.items()}
        beyond = area.buffer(NEAR)
        for place, kind in asked:
            for name in ("edited", "pasted") if kind else ("edited",):
                note(seen, name, kind, read[name].type_at(place))
            for name in views:
                beside[name].append(read[name].agrees(before, place, beyond))
            beside["edited, from the margin on"].append(read["edited"].agrees(before, place, area))
    print(machine())
    report(seen)
    for name, same in beside.items():
        print(f"no other change, {name}: {share(same)} of {len(same)}")


def note(seen: dict, view: str, kind: int, read: int) -> None:
    """Note what was read where a type, or 0 for nothing, should be."""
    what = TYPES[kind] if kind else "removed"
    for name in (what, "all types") if kind else (what,):
        seen["found", view, name].append(read > 0)
        seen["asked", view, name].append(read == kind)
        seen["group", view, name].append(GROUPS[read] == GROUPS[kind])


def report(seen: dict) -> None:
    """Print what was found for each type, and what the segmenter reads of real nuclei."""
    views = [("asked", "pasted"), ("asked", "real")]
    columns = [("found", "edited"), ("asked", "edited"), *views]
    columns += [("group", view) for view in ("edited", "pasted", "real")]
    rows = []
    for what in ("removed", *TYPES[1:], "all types"):
        count = len(seen["asked", "edited", what])
        rows.append((what, count, *(share(seen[which, view, what]) for which, view in columns)))
    names = ["asked for", "edits", "a nucleus is found", "as asked", "pasted", "real"]
    table([*names, "group as asked", "pasted", "real"], rows)


if __name__ == "__main__":
    main()

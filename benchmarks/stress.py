"""Change one thing in a picture: does a segmenter see it, and what else does it change its mind on?

    python benchmarks/stress.py pairs SLIDES... -o FOLDER [--labels NUCLEI] [--count 24]
    (run any segmenter on the pictures FOLDER/*.png)
    python benchmarks/stress.py score FOLDER PREDICTIONS [--class-map nuclei=epithelial]

SLIDES and NUCLEI are those of `nasdm-wsi export`. PREDICTIONS holds a file for each picture, with
its name and any suffix, in any format that `nasdm-wsi` reads: GeoJSON, a label image, HoVer-Net's
JSON and so on. Each change gives three pictures:

- NAME-control.png: the slide as it is.
- NAME-before.png: a small area painted anew from its own nuclei.
- NAME-after.png: the same area painted from the same noise, with the change.

So before and after differ in the change alone, and control and before show how often the segmenter
answers differently without one. The kinds of change are

- added, removed, retyped: one nucleus;
- thinned: half of the nuclei within 20 micrometres of a place removed;
- stained: the nuclei of the slide painted in its stain and in another (the control is painted in
  its stain, too, from other noise);
- blurred: a Gaussian blur of the slide itself (control and before are the same picture).

`score` prints for each kind how often

- the place is read as annotated before the change;
- the change is seen: a nucleus is found within 3 micrometres where none was, or none where one was,
  or one of another type; and whether the answer is the type that was asked for;
- the same is "seen" from control to before, where nothing has changed;
- nuclei are lost, gained or get another type elsewhere: outside the painted area, within 20
  micrometres of it, or in the whole picture if all of it changed. The share is of those found
  before; the last column is the sum of the three from control to before.

FOLDER/truth holds the annotations of each picture, which score 100 %.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from measure import machine, table
from scipy.spatial import KDTree
from scipy.stats import binomtest

from nasdm_wsi.errors import NasdmError
from nasdm_wsi.rendering import read_annotations

NEAR, BESIDE = 3.0, 20.0  # micrometres
VIEWS = ("control", "before", "after")
LIST = "pairs.json"


@dataclass(frozen=True)
class Pair:
    """A change, and the three pictures that show it.

    Attributes:
        name: of the pictures, without view and suffix.
        kind: of the change.
        what: the new type, stain or blur; "" if the kind says all.
        mpp: micrometres per pixel of the pictures.
        places: (x, y, type before, type after) of each nucleus that changed, 0 for none.
        area: what was painted anew, as well-known text in pixels; empty if it is the whole picture.
    """

    name: str
    kind: str
    what: str
    mpp: float
    places: list[tuple[float, float, int, int]]
    area: str

    def save(self, folder: Path) -> None:
        """Append the pair to the list of the folder."""
        with open(folder / LIST, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(self)) + "\n")


def load(folder: Path) -> list[Pair]:
    """Return the pairs of a folder."""
    lines = (folder / LIST).read_text(encoding="utf-8").splitlines()
    return [Pair(**json.loads(line)) for line in lines]


class Reading:
    """The nuclei that a segmenter finds in a picture: centres (n, 2) as x, y, and types (n,)."""

    def __init__(self, path: Path, mpp: float, class_map: dict[str, str]):
        # The sizes of nuclei are not checked if the pixel size is only assumed.
        options = {"assumed_mpp": mpp, "may_be_empty": True, "class_map": class_map}
        nuclei = read_annotations(path, **options).scaled(mpp)
        self.mpp, self.types = mpp, nuclei.types
        self.centres = shapely.get_coordinates(shapely.centroid(nuclei.polygons())).reshape(-1, 2)

    def type_at(self, x: float, y: float) -> int:
        """Return the type of the nearest nucleus within `NEAR`; 0 if there is none."""
        distance = np.linalg.norm(self.centres - (x, y), axis=1) * self.mpp
        return int(self.types[distance.argmin()]) if distance.min(initial=np.inf) <= NEAR else 0

    def elsewhere(self, area: shapely.Geometry) -> np.ndarray:
        """Return the indices of nuclei outside an area but beside it; of all if it is empty."""
        points = shapely.points(self.centres)
        if area.is_empty:
            return np.arange(len(points))
        beside = shapely.dwithin(points, area, BESIDE / self.mpp)
        return np.flatnonzero(beside & ~shapely.intersects(points, area))


def partners(first: np.ndarray, second: np.ndarray, most: float) -> np.ndarray:
    """Return the pairs (n, 2) of points that are each other's nearest, at most so far apart."""
    if not len(first) or not len(second):
        return np.empty((0, 2), int)
    distance, there = KDTree(second).query(first)
    _, back = KDTree(first).query(second)
    mutual = (back[there] == np.arange(len(first))) & (distance <= most)
    return np.stack([np.flatnonzero(mutual), there[mutual]], axis=1)


def differences(first: Reading, second: Reading, area: shapely.Geometry) -> np.ndarray:
    """Return how many nuclei elsewhere the first has, and are lost, gained and retyped: (4,)."""
    a, b = first.elsewhere(area), second.elsewhere(area)
    same = partners(first.centres[a], second.centres[b], NEAR / first.mpp)
    retyped = first.types[a][same[:, 0]] != second.types[b][same[:, 1]]
    return np.array([len(a), len(a) - len(same), len(b) - len(same), retyped.sum()])


def is_seen(old: int, new: int, first: int, second: int) -> bool:
    """Return whether the answers to two pictures differ as ``old`` and ``new`` do; 0 is none."""
    if old and new:
        return bool(first and second and first != second)
    return (bool(first), bool(second)) == (bool(old), bool(new))


class Tally:
    """What a segmenter answered to the pairs of one kind."""

    def __init__(self) -> None:
        self.pairs, self.places = 0, []
        self.changed, self.unchanged = np.zeros(4, int), np.zeros(4, int)

    def add(self, pair: Pair, control: Reading, before: Reading, after: Reading) -> None:
        """Count a pair."""
        area = shapely.from_wkt(pair.area)
        self.pairs += 1
        self.changed += differences(before, after, area)
        self.unchanged += differences(control, before, area)
        for x, y, old, new in pair.places:
            answers = [view.type_at(x, y) for view in (control, before, after)]
            self.places.append((old, new, *answers))

    def row(self, *, typed: bool) -> list[Any]:
        """The figures, as `score` prints them."""
        seen = [is_seen(old, new, a, b) for old, new, _, a, b in self.places]
        alone = [is_seen(old, new, c, a) for old, new, c, a, _ in self.places]
        right = [a == old if typed else bool(a) == bool(old) for old, _, _, a, _ in self.places]
        asked = [s and b == new for s, (_, new, *_, b) in zip(seen, self.places, strict=True)]
        found, *other = self.changed.tolist()
        return [
            self.pairs,
            share(right),
            interval(seen),
            share(asked) if typed else "",
            share(alone),
            *(percent(n, found) for n in other[: 3 if typed else 2]),
            *([] if typed else [""]),
            percent(sum(self.unchanged[1:].tolist()), self.unchanged[0]),
        ]


def percent(part: int, whole: int) -> str:
    """A share in words; nothing of nothing is left out."""
    return f"{part / whole:.1%}" if whole else ""


def share(answers: list[bool]) -> str:
    """The share of true answers."""
    return f"{np.mean(answers):.0%}" if answers else ""


def interval(answers: list[bool]) -> str:
    """The share of true answers, with its 95 % interval by Wilson."""
    if not answers:
        return ""
    low, high = binomtest(sum(answers), len(answers)).proportion_ci(method="wilson")
    return f"{np.mean(answers):.0%} ({low:.0%} to {high:.0%})"


HEAD = (
    *("changed", "pairs", "place read as annotated before", "change seen (95 %)"),
    *("as asked", "seen without a change"),
    *("elsewhere lost", "gained", "retyped", "all three without a change"),
)


def score(folder: Path, predictions: Path, class_map: dict[str, str]) -> None:
    """Print what a segmenter answered to all pairs, by kind and by what was asked for."""
    files = {path.name.split(".")[0]: path for path in sorted(predictions.iterdir())}
    tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
    types: set[int] = set()
    for pair in load(folder):
        names = [f"{pair.name}-{view}" for view in VIEWS]
        if missing := [name for name in names if name not in files]:
            raise NasdmError(f"{predictions}: no file {missing[0]}.*: segment all pictures")
        views = [Reading(files[name], pair.mpp, class_map) for name in names]
        types.update(*(view.types.tolist() for view in views))
        for what in {"", pair.what}:
            tallies[pair.kind, what].add(pair, *views)
    typed = len(types) > 1
    rows = ((f"{kind} {what}", *tallies[kind, what].row(typed=typed)) for kind, what in tallies)
    print(f"{predictions}; {machine()}")
    table(HEAD, sorted(rows))
    if not typed:
        print("The segmenter gives all nuclei one type, so that types are not judged.")


def pairs_of(arguments: Iterable[str]) -> dict[str, str]:
    """Return NAME=TYPE as a mapping."""
    return dict(text.rsplit("=", 1) for text in arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("pairs", help="write the pictures")
    making.add_argument("slides", type=Path, nargs="+")
    making.add_argument("-o", "--out", type=Path, required=True)
    making.add_argument("--labels", type=Path, help="annotations of a single slide")
    making.add_argument("--mpp", type=float, help="of slides that do not state it")
    making.add_argument("--count", type=int, default=24, help="changes of each kind")
    making.add_argument("--side", type=int, default=256, help="pixels of a picture")
    making.add_argument("--seed", type=int, default=0)
    making.add_argument("--weights", default="small")
    scoring = commands.add_parser("score", help="print what a segmenter saw")
    scoring.add_argument("folder", type=Path)
    scoring.add_argument("predictions", type=Path)
    scoring.add_argument("--class-map", nargs="+", default=[], metavar="NAME=TYPE")
    options = parser.parse_args()
    try:
        if options.command == "score":
            score(options.folder, options.predictions, pairs_of(options.class_map))
        else:
            from stress_pairs import make  # loads torch

            settings = {name: getattr(options, name) for name in ("mpp", "count", "side", "seed")}
            make(options.slides, options.out, options.labels, options.weights, **settings)
    except NasdmError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()

"""One training of `utility.py`: which pictures a segmenter sees, and how well it then reads others.

The network, its loss, its crops and its augmentation are those of `labels/train_segmenter.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pictures import INFLAMMATORY
from scipy import ndimage
from train_segmenter import Sample, fit, full_sample
from utility_pictures import Labelled, read_set

from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.model.evaluation.matching import Matching
from nasdm_wsi.model.evaluation.segmenter import Segmenter, decode, predict
from nasdm_wsi.tools.dataset import UNPUBLISHED

EPITHELIAL, LYMPHOCYTE = TYPES.index("epithelial"), TYPES.index("lymphocyte")
ALL = 0  # as a number of labelled pictures: all there are
# The share of the crops from each set; "pasted" is made of the real pictures at hand.
KINDS: dict[str, dict[str, float]] = {
    "real": {"real": 1},
    "pasted": {"real": 0.5, "pasted": 0.5},
    "painted": {"layouts": 1},
    "mixed": {"real": 0.5, "layouts": 0.5},
    "rare": {"real": 0.5, "rare": 0.5},
    "masks": {"real": 0.5, "masks": 0.5},
    "stains": {"real": 0.5, "stains": 0.5},
    "edits": {"real": 0.5, "edits": 0.5},
    "masks alone": {"masks": 1},
    "stains alone": {"stains": 1},
}
FROM_LAYOUTS = ("layouts", "rare")  # sets that need no labelled picture
ONE_CLASS = np.array([0, 3, 2, 3, 3, 3, 6])  # CoNSeP does not tell inflammatory nuclei apart

PASTED = 0.3  # pasted nuclei for each nucleus of a picture
NEAR = 30  # pixels from a nucleus of the same kind, epithelial or not
RIM = 4  # pixels round a nucleus that are pasted with it
FEATHER = 1.5  # pixels; standard deviation of the blurred border
GAP = 2  # pixels between a pasted nucleus and the others
WHITE = 235  # grey level; on brighter places nothing is pasted
CHANGE = 1.2  # most by which a colour channel of a pasted nucleus is brought to its place
TRIES = 20  # places for each pasted nucleus


@dataclass(frozen=True)
class Run:
    """A training: the collection that is tested, the kind, the labelled pictures and the seed."""

    fold: str
    kind: str
    labels: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its result."""
        return f"{self.fold}-{self.kind.replace(' ', '_')}-{self.labels or 'all'}-{self.seed}"


class Shelf:
    """The sets of pictures, read once, and their samples, made once."""

    def __init__(self, sets: Path):
        self.sets = {path.name: read_set(path) for path in sorted(sets.iterdir()) if path.is_dir()}
        self._sample = cache(self._made)

    def sample(self, way: str, k: int) -> Sample:
        """The k-th picture of a set, to train on."""
        return self._sample(way, k)

    def _made(self, way: str, k: int) -> Sample:
        return sample_of(self.sets[way][k])

    def prepare(self) -> None:
        """Make all samples, before processes that share them are started."""
        for way, pictures in self.sets.items():
            for k in range(len(pictures)):
                self.sample(way, k)

    def chosen(self, run: Run) -> set[str]:
        """Names of the labelled pictures of a run; those of fewer are among those of more."""
        names = [p.name for p in self.sets["real"] if p.collection not in ("ink", run.fold)]
        order = np.random.default_rng(run.seed).permutation(len(names))
        return {names[k] for k in order[: run.labels or len(names)]}

    def groups(self, run: Run) -> list[tuple[float, list[Sample]]]:
        """The samples of a run, with the shares of the crops."""
        chosen, out = self.chosen(run), []
        for way, share in KINDS[run.kind].items():
            if way == "pasted":
                real = [p for p in self.sets["real"] if p.name in chosen]
                samples = [sample_of(p) for p in pasted(real, np.random.default_rng(run.seed))]
            else:
                samples = [
                    self.sample(way, k)
                    for k, picture in enumerate(self.sets[way])
                    if way in FROM_LAYOUTS or picture.name in chosen
                ]
            out.append((share, samples))
        return out

    def tests(self, fold: str, side: int) -> list[Labelled]:
        """The pictures of a held-out collection; with CoNSeP's its soiled tiles."""
        wanted = (fold, "ink") if fold == "consep" else (fold,)
        return [p.cut(side) for p in self.sets["real"] if p.collection in wanted]


def sample_of(picture: Labelled) -> Sample:
    """Return a picture to train on."""
    lymphocyte = INFLAMMATORY if picture.name.startswith("consep-") else 3
    nowhere = (0, 0, 0, 0)
    return full_sample(
        picture.image, picture.types, picture.instances, nowhere, lymphocyte=lymphocyte
    )


def perform(
    run: Run, shelf: Shelf, results: Path, *, steps: int, batch: int, device: str, side: int
) -> None:
    """Train, read the held-out collection and write RESULTS/NAME.json."""
    start = time.monotonic()
    model = fit(
        shelf.groups(run), lambda step: step / steps, seed=run.seed, device=device, batch=batch
    )
    trained = time.monotonic() - start
    told: dict[str, Matching] = {}
    for picture in shelf.tests(run.fold, side):
        add(told.setdefault(picture.collection, Matching()), picture, model)
    content = {
        **vars(run),
        "steps": steps,
        "batch": batch,
        "device": device,
        "pictures": len(shelf.chosen(run)),
        "seconds": [round(trained), round(time.monotonic() - start - trained)],
        "test": {name: counts(matching) for name, matching in told.items()},
    }
    part = results / f"{run.name}.part"
    part.write_text(json.dumps(content))
    part.replace(results / f"{run.name}.json")
    print(run.name, *content["seconds"], flush=True)


def add(matching: Matching, picture: Labelled, model: Segmenter) -> None:
    """Count what a segmenter finds in a picture."""
    found_types, found = decode(predict(picture.image, model))
    types = picture.types
    if picture.name.startswith("consep-"):
        known = types != UNPUBLISHED
        types = np.where(known, ONE_CLASS[types * known], UNPUBLISHED)
        found_types = ONE_CLASS[found_types]
    matching.add(picture.instances, types, found, found_types)


def counts(matching: Matching) -> dict[str, Any]:
    """The counts of a matching, for JSON."""
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(matching).items()}


def matching_of(counts: dict[str, Any]) -> Matching:
    """A matching from its counts."""
    matching = Matching()
    for name, value in counts.items():
        setattr(matching, name, np.array(value) if isinstance(value, list) else value)
    return matching


# Copy-paste


@dataclass(frozen=True)
class Cut:
    """A nucleus with its surroundings: image (h, w, 3), mask bool (h, w), type."""

    image: np.ndarray
    mask: np.ndarray
    kind: int

    def turned(self, rng: np.random.Generator) -> Cut:
        """Return it in one of eight positions."""
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        image, mask = (
            np.rot90(a[:, ::-1] if mirrored else a, turns) for a in (self.image, self.mask)
        )
        return Cut(image, mask, self.kind)


def pasted(pictures: Sequence[Labelled], rng: np.random.Generator) -> Iterator[Labelled]:
    """Yield the pictures with nuclei of each other pasted in, all types as often.

    A nucleus is turned or mirrored, brought to the colour of its place, and blended in with a rim
    of its surroundings, near nuclei of its kind. It touches no other nucleus.
    """
    bank = [cut for picture in pictures for cut in nuclei_of(picture)]
    by_type = [[c for c in bank if c.kind == kind] for kind in range(1, len(TYPES))]
    by_type = [cuts for cuts in by_type if cuts]
    for picture in pictures:
        changed = replace(
            picture,
            image=picture.image.copy(),
            types=picture.types.copy(),
            instances=picture.instances.copy(),
        )
        wall = picture.types == EPITHELIAL
        anchors = [np.argwhere((picture.instances > 0) & alike) for alike in (~wall, wall)]
        number = int(picture.instances.max())
        for _ in range(int(PASTED * number)):
            cuts = by_type[rng.integers(len(by_type))]
            cut = cuts[rng.integers(len(cuts))].turned(rng)
            corner = place_for(cut, changed, anchors[cut.kind == EPITHELIAL], rng)
            if corner:
                number += 1
                paste(cut, changed, corner, number)
        yield changed


def nuclei_of(picture: Labelled) -> Iterator[Cut]:
    """Yield the nuclei of a picture with their surroundings, but none whose type is uncertain."""
    h, w = picture.types.shape
    border = RIM + GAP
    for k, where in enumerate(ndimage.find_objects(picture.instances), 1):
        if where is None:
            continue
        (y0, y1), (x0, x1) = ((s.start - border, s.stop + border) for s in where)
        if min(y0, x0) < 0 or y1 > h or x1 > w:
            continue
        around = np.s_[y0:y1, x0:x1]
        mask = picture.instances[around] == k
        kind = int(picture.types[around][mask][0])
        published = (picture.types[around] != UNPUBLISHED).all()
        uncertain = kind == LYMPHOCYTE and picture.name.startswith("consep-")
        if published and not uncertain:
            yield Cut(picture.image[around], mask, kind)


def place_for(
    cut: Cut, picture: Labelled, anchors: np.ndarray, rng: np.random.Generator
) -> tuple[int, int] | None:
    """Return a corner (y, x) at which there is room for a nucleus; None if none is found.

    ``anchors``: pixels (n, 2) near which it may lie.
    """
    h, w = cut.mask.shape
    apart = ndimage.binary_dilation(cut.mask, iterations=GAP)
    most = np.array(picture.types.shape) - (h, w)
    for _ in range(TRIES if len(anchors) and most.min() > 0 else 0):
        anchor = anchors[rng.integers(len(anchors))] + rng.integers(-NEAR, NEAR, 2)
        y, x = np.clip(anchor - (h // 2, w // 2), 0, most)
        place = np.s_[y : y + h, x : x + w]
        free = (picture.instances[place][apart] == 0).all()
        published = (picture.types[place] != UNPUBLISHED).all()
        if free and published and picture.image[place][apart].mean() < WHITE:
            return int(y), int(x)
    return None


def paste(cut: Cut, picture: Labelled, corner: tuple[int, int], number: int) -> None:
    """Paste a nucleus into the arrays of a picture, as the instance ``number``."""
    (y, x), (h, w) = corner, cut.mask.shape
    place = np.s_[y : y + h, x : x + w]
    rim = ndimage.binary_dilation(cut.mask, iterations=RIM)
    old, around = picture.image[place].astype(float), rim & ~cut.mask
    factor = old[around].mean(0) / np.maximum(cut.image[around].mean(0), 1)
    new = cut.image * np.clip(factor, 1 / CHANGE, CHANGE)
    soft = ndimage.gaussian_filter(rim.astype(float), FEATHER) * rim
    alpha = np.maximum(soft, cut.mask)[..., None]
    picture.image[place] = np.clip(alpha * new + (1 - alpha) * old, 0, 255)
    picture.types[place][cut.mask] = cut.kind
    picture.instances[place][cut.mask] = number

"""Does it help a segmenter to train on painted pictures?

    python benchmarks/utility.py DATA WORK [--steps 400] [--seeds 3] [--device cuda] [--jobs 15]

DATA is as in `labels/pictures.py`. WORK receives the sets of pictures (`utility_pictures.py`), a
JSON file for each training (`utility_training.py`), and the plot curve.png. A command that was
stopped continues when it is given again; if WORK contains all sets, DATA is not read. The tables
that are printed cover the results that are there, for one number of steps; after ± stands half the
range over the seeds.

A fold holds out all pictures of one collection: dpath, consep, crag, glas or pannuke. The others
are the labelled pictures, of which a training sees 1, 4, 16 or all. All trainings have the same
network, number of steps, batch, crops and augmentation. They differ in the share of the crops that
comes from each set (`KINDS` of `utility_training.py`).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent / "labels"))

from measure import machine, table  # noqa: E402
from utility_pictures import make_sets  # noqa: E402
from utility_training import ALL, KINDS, Run, Shelf, matching_of, perform  # noqa: E402

from nasdm_wsi.annotations.types import TYPES  # noqa: E402

LABELS = (1, 4, 16, ALL)
# What a fold is asked, in this order: kind, number of labelled pictures.
BASIC = [(kind, ALL) for kind in ("real", "painted", "mixed", "pasted")]
CURVE = [*[(kind, 4) for kind in ("real", "mixed", "pasted")], ("real", 16), ("real", 1)]
WAYS = [(kind, ALL) for kind in ("rare", "stains", "masks", "edits")]
MORE = [
    *[(kind, n) for kind in ("mixed", "pasted") for n in (16, 1)],
    *[(kind, ALL) for kind in ("stains alone", "masks alone")],
]
QUESTIONS = {
    "dpath": BASIC + CURVE + WAYS + MORE,
    "consep": BASIC + CURVE + [("stains", ALL), ("masks", ALL), ("masks alone", ALL)],
    "crag": [*BASIC, ("masks alone", ALL)],
}
ENOUGH = 100  # test nuclei of a type, for its F1 to count in the mean
WHOLE = ("detection F1", "nuclei Dice", "panoptic quality")


@dataclass(frozen=True)
class Result:
    """What one training told of the pictures of its fold."""

    run: Run
    figures: dict[str, float]
    nuclei: np.ndarray  # of each type in the test pictures, (types + 1,)


def runs(folds: Sequence[str], kinds: Sequence[str], seeds: int) -> Iterator[Run]:
    """Yield all trainings, those that tell most first."""
    asked = {fold: QUESTIONS.get(fold, BASIC + CURVE) for fold in folds}
    for part in (BASIC + CURVE, WAYS, MORE):
        for seed in range(seeds):
            for fold in folds:
                for kind, labels in part:
                    if kind in kinds and (kind, labels) in asked[fold]:
                        yield Run(fold, kind, labels, seed)


def perform_all(wanted: Iterable[Run], shelf: Shelf, results: Path, **options: Any) -> None:
    """Perform the trainings that have no result, ``jobs`` at a time."""
    results.mkdir(parents=True, exist_ok=True)
    missing = [run for run in wanted if not (results / f"{run.name}.json").exists()]
    jobs = options.pop("jobs")
    options |= {"shelf": shelf, "results": results}
    torch.set_num_threads(1)
    if jobs == 1:
        for run in missing:
            perform(run, **options)
        return
    shelf.prepare()  # before the fork, so that all processes share the samples
    with multiprocessing.get_context("fork").Pool(
        jobs, initializer=_shared.update, initargs=(options,)
    ) as pool:
        for _ in pool.imap_unordered(_perform, missing):
            pass


_shared: dict[str, Any] = {}  # of a process of the pool: what it does not have to be sent


def _perform(run: Run) -> None:
    torch.set_num_threads(1)
    perform(run, **_shared)


def read_results(results: Path) -> list[Result]:
    """Read all results; the mean F1 of types is over those of which there are enough."""
    out = []
    for path in sorted(results.glob("*.json")):
        content = json.loads(path.read_text())
        run = Run(*(content[name] for name in ("fold", "kind", "labels", "seed")))
        for collection, counts in content["test"].items():
            matching = matching_of(counts)
            figures, nuclei = matching.figures(), matching.by_type
            by_type = [figures[f"{TYPES[k]} F1"] for k in np.flatnonzero(nuclei >= ENOUGH)]
            figures["mean type F1"] = float(np.mean(by_type)) if by_type else float("nan")
            if collection != run.fold:
                run = Run(collection, run.kind, run.labels, run.seed)
            out.append(Result(run, figures, nuclei))
    return out


def told(values: Sequence[float]) -> str:
    """The mean, and half the range over the seeds."""
    if not len(values):
        return ""
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.3f}"


def print_tables(results: list[Result]) -> None:
    """Print for each fold the figures by kind and number of labels, and those by type."""
    for fold in dict.fromkeys(r.run.fold for r in results):
        here = [r for r in results if r.run.fold == fold]
        shown = [k for k in range(1, len(TYPES)) if here[0].nuclei[k]]
        counted = ", ".join(f"{here[0].nuclei[k]:,} {TYPES[k]}" for k in shown)
        print(f"\n{fold}: {counted}")
        for columns in ((*WHOLE, "mean type F1"), tuple(f"{TYPES[k]} F1" for k in shown)):
            print()
            rows = []
            for kind, labels in sorted({(r.run.kind, r.run.labels) for r in here}, key=_order):
                mine = [r for r in here if (r.run.kind, r.run.labels) == (kind, labels)]
                cells = [told([r.figures[name] for r in mine]) for name in columns]
                rows.append((kind, labels or "all", *cells))
            table(("trained on", "pictures", *columns), rows)


def print_gains(results: list[Result], figure: str = "mean type F1") -> None:
    """Print what each kind has beyond real pictures alone, paired by seed."""
    base = {r.run: r.figures for r in results if r.run.kind == "real"}
    print(f"\n{figure} beyond real pictures alone with as many labels, by seed\n")
    rows = []
    for fold in dict.fromkeys(r.run.fold for r in results):
        for kind, labels in sorted({(r.run.kind, r.run.labels) for r in results}, key=_order):
            gains = [
                r.figures[figure] - base[Run(fold, "real", labels, r.run.seed)][figure]
                for r in results
                if (r.run.fold, r.run.kind, r.run.labels) == (fold, kind, labels)
                and Run(fold, "real", labels, r.run.seed) in base
            ]
            if gains and kind != "real":
                rows.append((fold, kind, labels or "all", *(f"{g:+.3f}" for g in gains)))
    table(("fold", "trained on", "pictures", *range(max(map(len, rows), default=3) - 3)), rows)


def _order(of: tuple[str, int]) -> tuple[int, int]:
    kind, labels = of
    return list(KINDS).index(kind), labels or 1_000


def plot(results: list[Result], out: Path, figure: str = "mean type F1") -> None:
    """Draw the figure against the number of labelled pictures, with the range over the seeds."""
    from matplotlib.figure import Figure

    folds = [f for f in dict.fromkeys(r.run.fold for r in results) if f != "ink"]
    picture = Figure(figsize=(3 * len(folds) + 1.5, 3), layout="constrained")
    for axes, fold in zip(np.atleast_1d(picture.subplots(1, len(folds))), folds, strict=True):
        here = [r for r in results if r.run.fold == fold]
        for kind in ("real", "pasted", "mixed"):
            points = {
                n: [r.figures[figure] for r in here if (r.run.kind, r.run.labels) == (kind, n)]
                for n in LABELS
            }
            places = [k for k, n in enumerate(LABELS) if points[n]]
            values = [points[LABELS[k]] for k in places]
            mean = np.array([np.mean(v) for v in values])
            reach = np.array([[np.mean(v) - min(v), max(v) - np.mean(v)] for v in values])
            axes.errorbar(places, mean, reach.reshape(-1, 2).T, label=kind, marker="o", capsize=3)
        alone = [r.figures[figure] for r in here if r.run.kind == "painted"]
        if alone:
            axes.axhline(np.mean(alone), color="grey", linestyle="--", label="painted alone")
        axes.set_xticks(range(len(LABELS)), [str(n or "all") for n in LABELS])
        axes.set(title=fold, xlabel="labelled pictures", ylabel=figure)
    picture.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    picture.savefig(out, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument("--batch", type=int, default=24, help="crops of a step")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--folds", nargs="+", default=list(QUESTIONS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--weights", default="small", help="that paint")
    parser.add_argument("--side", type=int, default=768, help="of painted pictures, in pixels")
    parser.add_argument("--layouts", type=int, default=20, help="number of painted layouts")
    parser.add_argument("--test-side", type=int, default=1024, help="most of a test picture")
    options = parser.parse_args()
    sets, results = options.work / "sets", options.work / f"results-{options.steps}"
    if not (sets / "complete").exists():
        make_sets(
            options.data, sets, weights=options.weights, side=options.side, count=options.layouts
        )
    perform_all(
        runs(options.folds, options.kinds, options.seeds),
        Shelf(sets),
        results,
        steps=options.steps,
        batch=options.batch,
        device=options.device,
        side=options.test_side,
        jobs=options.jobs,
    )
    told_by = read_results(results)
    print(machine())
    print_tables(told_by)
    print_gains(told_by)
    plot(told_by, options.work / "curve.png")


if __name__ == "__main__":
    main()

"""The engine: phases over blocks as an ordinary dask graph.

The task (phase k, block b) reads the state after phase k - 1 around its block, runs the windows it
owns, and writes its part once. It depends on its neighbours' tasks of the phase before and on
nothing else, so there is no barrier and the graph runs under any dask scheduler. The engine is
handed callables and knows nothing of networks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .geometry import Block, Box, Plan, grow, inside, intersect, shape
from .store import RunStore

Key = tuple[str, int, int, int]  # kind, phase, block row, block column
PART, PIXELS = "part", "pixels"
MOST_TASKS = 2048


@dataclass(frozen=True)
class Work:
    """What a mosaic is made of: three pure functions.

    start(box) -> state (6, h, w) of ``box`` before the first phase.
    solve(phase, box, state) -> state of the window ``box`` after the phase, of the same shape.
    finish(box, state) -> uint8 (h, w, 3), the pixels of ``box``.
    """

    start: Callable[[Box], np.ndarray]
    solve: Callable[[int, Box, np.ndarray], np.ndarray]
    finish: Callable[[Box, np.ndarray], np.ndarray]


def mosaic_tasks(store: RunStore, blocks: Iterable[Block]) -> list[Key]:
    """What is left to do to finish ``blocks``, in an order in which nothing waits for a later task.

    What the store holds already is not computed again. Row by row, each phase one row behind the
    phase before: few parts wait on disk at any time, whatever the height of the slide.
    """
    plan = store.plan
    last = len(plan.phases)
    tasks = [(PIXELS, last, *block) for block in blocks if not store.has_pixels(block)]
    needed = {key for task in tasks for key in _inputs(plan, task)}
    for phase in reversed(range(last)):
        missing = [key for key in needed if not store.has_part(phase, key[2:])]
        tasks += missing
        needed = {key for task in missing for key in _inputs(plan, task)}
    return sorted(tasks, key=lambda key: (key[1] + key[2], key[1], key[3]))


def mosaic_graphs(
    work: Work, store: RunStore, tasks: list[Key], *, most: int = MOST_TASKS
) -> Iterator[tuple[dict[Key, Any], list[Key]]]:
    """Dask graphs that do ``tasks`` one graph after another, and the keys to ask for.

    Each has ``most`` tasks, for a scheduler's memory grows with its graph. A part is freed as soon
    as every task that reads it is done.
    """
    plan = store.plan
    readers = Counter(part for task in tasks for part in _inputs(plan, task))
    for start in range(0, len(tasks), most):
        chunk = tasks[start : start + most]
        graph: dict[Key, Any] = {}
        read: dict[Key, list[Key]] = defaultdict(list)
        for key in chunk:
            for part in _inputs(plan, key):
                read[part].append(key)
        here = set(chunk)
        for key in chunk:
            kind, phase, i, j = key
            block = finish_block if kind == PIXELS else partial(solve_block, phase=phase)
            graph[key] = (
                partial(block, work, store, (i, j)),
                [part for part in _inputs(plan, key) if part in here],
            )
        readers.subtract({part: len(keys) for part, keys in read.items()})
        for part, keys in read.items():
            if not readers[part]:
                graph["free", *part[1:]] = (partial(_free, store, part), keys)
        yield graph, list(graph)


def _inputs(plan: Plan, key: Key) -> list[Key]:
    """The parts that a task reads."""
    kind, phase, i, j = key
    if phase == 0:
        return []
    box = plan.owned((i, j)) if kind == PIXELS else plan.view((i, j))
    return [(PART, phase - 1, *block) for block in plan.sources(box)]


def solve_block(
    work: Work, store: RunStore, block: Block, _after: object = None, *, phase: int
) -> None:
    """One task: run the block's windows through a phase and store their weighted sum."""
    plan = store.plan
    view, covers = plan.view(block), plan.part(block)
    state = work.start(view) if phase == 0 else store.read_state(phase - 1, view)
    part = np.zeros((len(state), *shape(covers)), np.float32)
    for core in plan.cores(block):
        window = plan.window(core)
        reached = intersect(grow(core, plan.taper), covers)
        result = work.solve(phase, window, state[:, *inside(window, view)])
        result = result * plan.weight(core)
        part[:, *inside(reached, covers)] += result[:, *inside(reached, window)]
    store.write_part(phase, block, part)


def finish_block(work: Work, store: RunStore, block: Block, _after: object = None) -> None:
    """The last task of a block: fuse, round to 8 bits once, store."""
    box = store.plan.owned(block)
    state = store.read_state(len(store.plan.phases) - 1, box)
    store.write_pixels(block, work.finish(box, state))


def _free(store: RunStore, part: Key, _after: object = None) -> None:
    store.free(part[1], part[2:])

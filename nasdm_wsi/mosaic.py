"""The engine: phases over blocks as an ordinary dask graph.

The task (phase k, block b) reads the state after phase k - 1 around its block, runs the windows it
owns, and writes its part once. It depends on its neighbours' tasks of the phase before and on
nothing else, so there is no barrier and the graph runs under any dask scheduler. The engine is
handed callables and knows nothing of networks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .geometry import Block, Box, grow, inside, intersect, shape
from .store import RunStore

Key = tuple[str, int, int, int]


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


def mosaic_graph(
    work: Work, store: RunStore, blocks: Iterable[Block]
) -> tuple[dict[Key, Any], list[Key]]:
    """The dask graph that finishes ``blocks``, and the keys to ask for.

    What the store holds already is not computed again; a part is freed as soon as every task that
    reads it is done.
    """
    plan = store.plan
    last = len(plan.phases) - 1
    graph: dict[Key, Any] = {}
    readers: dict[Key, list[Key]] = defaultdict(list)

    def add(key: Key, task: Callable[..., None], box: Box, phase: int) -> None:
        """A task that reads ``box`` of the state after ``phase``."""
        inputs = [("part", phase, *b) for b in plan.sources(box)] if phase >= 0 else []
        graph[key] = (task, [i for i in inputs if not store.has_part(i[1], i[2:])])
        for i in inputs:
            readers[i].append(key)

    for block in blocks:
        if not store.has_pixels(block):
            task = partial(finish_block, work, store, block)
            add(("pixels", last, *block), task, plan.owned(block), last)
    outputs = list(graph)
    for phase in reversed(range(last + 1)):
        for block in sorted(key[2:] for key in readers if key[1] == phase):
            if not store.has_part(phase, block):
                task = partial(solve_block, work, store, phase, block)
                add(("part", phase, *block), task, plan.view(block), phase - 1)
    for (_, phase, i, j), keys in readers.items():
        graph["free", phase, i, j] = (partial(_free, store, phase, (i, j)), keys)
        outputs.append(("free", phase, i, j))
    return graph, outputs


def solve_block(
    work: Work, store: RunStore, phase: int, block: Block, _after: object = None
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


def _free(store: RunStore, phase: int, block: Block, _after: object = None) -> None:
    store.free(phase, block)

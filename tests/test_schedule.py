"""The ledger against a slow and obvious account of what is to be done."""

from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdm_wsi.mosaic import schedule
from nasdm_wsi.mosaic.schedule import Grid, Ledger, run


@st.composite
def stages(draw):
    """Two to four grids; rows and columns read some neighbours, never falling."""
    found = [Grid((range(0),) * draw(st.integers(1, 4)), (range(0),) * draw(st.integers(1, 4)))]
    for _ in range(draw(st.integers(1, 3))):
        axes = []
        for count in found[-1].shape:
            length = draw(st.integers(1, 4))
            starts = sorted(draw(st.integers(0, count - 1)) for _ in range(length))
            stops = sorted(draw(st.integers(1, count)) for _ in range(length))
            axes.append(tuple(range(a, max(a + 1, b)) for a, b in zip(starts, stops, strict=True)))
        found.append(Grid(*axes))
    return found


def sources(stages, task):
    s, i, j = task
    return [(s - 1, a, b) for a in stages[s].rows[i] for b in stages[s].columns[j]] if s else []


def wanted(stages, present, finished):
    """From the last stage back, task by task."""
    found = set()
    for s in reversed(range(len(stages))):
        for i, j in np.ndindex(stages[s].shape):
            readers = [t for t in found if (s, i, j) in sources(stages, t)]
            if not finished[s][i, j] or (readers and not present[s][i, j]):
                found.add((s, i, j))
    return found


@given(stages(), st.randoms(use_true_random=False))
def test_each_wanted_task_is_done_once_after_what_it_reads(stages, rng):
    def some(share):
        return [
            np.reshape([rng.random() < share for _ in range(s.shape[0] * s.shape[1])], s.shape)
            for s in stages
        ]

    present, finished = some(0.4), some(0.5)
    expected = wanted(stages, present, finished)
    ledger = Ledger(stages, [a.copy() for a in present], [a.copy() for a in finished])
    assert ledger.left == len(expected)
    there = {
        (s, *place) for s, array in enumerate(present) for place in np.argwhere(array).tolist()
    }
    done, ready, forgotten = set(), [], set()
    while ledger.left:
        while (task := ledger.next()) is not None:
            ready.append(task)
        task = ready.pop(rng.randrange(len(ready)))
        assert task in expected - done
        for source in sources(stages, task):
            assert source not in forgotten and source not in expected - done
            assert source in there | done
        done.add(task)
        forgotten |= set(ledger.finish(task))
    assert done == expected and ledger.next() is None
    read = {source for task in expected for source in sources(stages, task)}
    assert forgotten == read


class Pool:
    """Does each task at once; notes how many were out at a time."""

    def __init__(self, room, do=lambda task: None, together=1):
        self.room, self.do, self.together = room, do, together
        self.out, self.most, self.told, self.sizes = set(), 0, 0, []

    def submit(self, tasks):
        self.out.update(tasks)
        self.sizes.append(len(tasks))
        self.most = max(self.most, len(self.out))
        future = Future()
        try:
            future.set_result([self.do(task) for task in tasks])
        except ZeroDivisionError as error:
            future.set_exception(error)
        return future

    def capacity(self):
        return self.room

    def bundle(self, ledger, running):
        return [ledger.next() for _ in range(min(self.together, ledger.ready))]

    def stalled(self):
        self.told += 1


LINE = Grid((range(0),), (range(0),) * 20)
NOTHING = [np.zeros((1, 20), bool)]


def test_no_more_tasks_are_out_than_allowed_and_an_error_ends_the_run():
    pool, seen = Pool(room=3), []

    def finished(task, idle):
        pool.out.discard(task)
        seen.append(task)

    run(Ledger([LINE], NOTHING, NOTHING), pool, finished)
    assert pool.most == 3 and sorted(seen) == [(0, 0, j) for j in range(20)]

    failing = Pool(room=2, do=lambda task: 1 / (task[2] - 5))
    with pytest.raises(ZeroDivisionError):
        run(Ledger([LINE], NOTHING, NOTHING), failing, finished)
    assert len(seen) == 25


@given(stages(), st.integers(1, 5), st.integers(1, 3))
def test_bundles_hold_each_task_once_after_what_it_reads(stages, together, room):
    none = [np.zeros(stage.shape, bool) for stage in stages]
    done = []

    def do(task):
        assert set(sources(stages, task)) <= set(done)

    pool = Pool(room, do, together)
    run(Ledger(stages, none, none), pool, lambda task, idle: done.append(task))
    assert len(done) == len(set(done)) == len(wanted(stages, none, none))
    assert max(pool.sizes) <= together


def test_the_pool_is_told_when_nothing_comes_back(monkeypatch):
    monkeypatch.setattr(schedule, "PATIENCE", 0.001)
    pool, held = Pool(room=1), []

    def submit(tasks):
        held.append(Future())
        return held[-1]

    def stalled():
        pool.told += 1
        held[-1].set_result(None)

    pool.submit, pool.stalled = submit, stalled
    run(Ledger([LINE], NOTHING, NOTHING), pool, lambda task, idle: None)
    assert pool.told == len(held) == 20


def test_after_an_error_what_was_not_begun_is_cancelled():
    pool, futures = Pool(room=4), []

    def submit(tasks):
        futures.append(Future())
        if len(futures) == 4:
            futures[1].set_exception(ZeroDivisionError())
        return futures[-1]

    pool.submit = submit
    with pytest.raises(ZeroDivisionError):
        run(Ledger([LINE], NOTHING, NOTHING), pool, lambda task, idle: None)
    assert [future.cancelled() for future in futures] == [True, False, True, True]

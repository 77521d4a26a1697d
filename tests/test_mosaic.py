"""The engine with toy callables: no network, whole-slide behaviour in milliseconds."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import dask
import numpy as np
import pytest
from scipy import ndimage as ndi

from nasdm_wsi.errors import OutputError
from nasdm_wsi.geometry import Plan, inside
from nasdm_wsi.mosaic import Work, mosaic_graphs, mosaic_tasks
from nasdm_wsi.noise import noise
from nasdm_wsi.store import open_run

SIZE = (150, 203)
BOX = Plan(SIZE, 48, 8, 0, 1, ((0, 1), (1, 2), (2, 3)), grid=8)
TAPERED = Plan(SIZE, 24, 4, 4, 2, ((0, 2), (2, 3)))
PLANS = [pytest.param(BOX, id="box"), pytest.param(TAPERED, id="tapered")]


def start(box):
    unit = noise(box, seed=3)
    return np.concatenate([unit, np.zeros_like(unit)])


def step(phase, state):
    """A local step: reaches 2 x 4 pixels and remembers the picture before."""
    x = state[:3]
    for _ in range(2):
        x = ndi.convolve(x, np.ones((1, 5, 5)) / (5 + phase), mode="constant")
    return np.concatenate([np.tanh(x) - 0.1 * state[3:], x])


def finish(box, state):
    return np.clip(127.5 + 100 * state[:3].transpose(1, 2, 0), 0, 255).astype(np.uint8)


def solve(phase, box, state):
    return step(phase, state)


WORK = Work(start, solve, finish)


def painted(folder, plan, work=WORK, *, get=dask.get, blocks=None, most=2048, **options):
    with open_run(folder, plan, {"run": "test"}) as store:
        tasks = mosaic_tasks(store, blocks or plan.all_blocks())
        for graph, wanted in mosaic_graphs(work, store, tasks, most=most):
            get(graph, wanted, **options)
        return store.pixels[:]


def shuffled(graph, wanted, seed):
    """Run a graph in a random order that respects nothing but its dependencies."""
    rng, done = np.random.default_rng(seed), set()
    while len(done) < len(graph):
        ready = [
            k for k, (_, after) in graph.items() if k not in done and all(a in done for a in after)
        ]
        key = ready[rng.integers(len(ready))]
        graph[key][0](None)
        done.add(key)


def test_box_plan_equals_the_whole_canvas_at_once(tmp_path):
    canvas = (0, 0, 152, 208)  # rounded up to the grid
    state = start(canvas)
    for phase in range(3):
        state = step(phase, state)
    whole = finish(canvas, state)[: SIZE[0], : SIZE[1]]
    np.testing.assert_array_equal(painted(tmp_path / "run", BOX), whole)


def test_tapered_plan_equals_fusing_all_windows_between_phases(tmp_path):
    state = start(TAPERED.bounds)
    for phase in range(2):
        fused = np.zeros_like(state)
        for block in TAPERED.all_blocks():
            for core in TAPERED.cores(block):
                at = inside(TAPERED.window(core), TAPERED.bounds)
                fused[:, *at] += step(phase, state[:, *at]) * TAPERED.weight(core)
        state = fused
    whole = finish(None, state)[inside((0, 0, *SIZE), TAPERED.bounds)]
    difference = painted(tmp_path / "run", TAPERED).astype(int) - whole
    assert np.abs(difference).max() <= 1  # sums in another order, then truncation


@pytest.mark.parametrize("plan", PLANS)
def test_order_workers_and_region_do_not_change_a_byte(tmp_path, plan):
    reference = painted(tmp_path / "reference", plan)
    threads = painted(tmp_path / "threads", plan, get=dask.threaded.get, num_workers=4)
    np.testing.assert_array_equal(threads, reference)
    for seed in range(3):
        again = painted(tmp_path / f"{seed}", plan, get=shuffled, seed=seed)
        np.testing.assert_array_equal(again, reference)
    for most in (1, 7):
        again = painted(tmp_path / f"most{most}", plan, most=most)
        np.testing.assert_array_equal(again, reference)
    region = (60, 70, 140, 120)
    alone = painted(tmp_path / "region", plan, blocks=plan.blocks_of(region))
    np.testing.assert_array_equal(alone[60:140, 70:120], reference[60:140, 70:120])


@pytest.mark.parametrize("most", [5, 2048])
@pytest.mark.parametrize("plan", PLANS)
def test_state_is_freed_when_it_was_used(tmp_path, plan, most):
    painted(tmp_path / "run", plan, most=most)
    assert not [p for p in (tmp_path / "run").glob("phase-*.zarr/c/**/*") if p.is_file()]


@pytest.mark.parametrize("plan", PLANS)
def test_a_stopped_run_goes_on_without_repeating_finished_work(tmp_path, plan):
    reference = painted(tmp_path / "reference", plan)
    calls = []

    def failing(phase, box, state):
        if len(calls) == 11:
            raise KeyboardInterrupt
        calls.append((phase, box))
        return solve(phase, box, state)

    with pytest.raises(KeyboardInterrupt):
        painted(tmp_path / "run", plan, Work(start, failing, finish))
    again = []

    def counting(phase, box, state):
        again.append((phase, box))
        return solve(phase, box, state)

    np.testing.assert_array_equal(
        painted(tmp_path / "run", plan, Work(start, counting, finish)), reference
    )
    repeated = set(calls) & set(again)
    assert len(repeated) < plan.windows**2  # no more than the block that was cut off
    assert len(set(again)) == len(again)


def test_few_parts_wait_on_disk_however_tall_the_slide(tmp_path):
    """Three rows of each phase at most, and graphs that do not grow."""
    plan = Plan((40 * 16, 3 * 16), 16, 8, 0, 1, tuple((k, k + 1) for k in range(4)), grid=8)
    alive = []

    def counting(phase, box, state):
        alive.append(sum(1 for _ in (tmp_path / "run").glob("phase-*.zarr/c/0/*/*")))
        return state

    painted(tmp_path / "run", plan, Work(start, counting, finish), most=12)
    assert len(alive) == 4 * 40 * 3 and max(alive) <= 3 * 4 * 3
    with open_run(tmp_path / "again", plan, {}) as store:
        graphs = list(mosaic_graphs(WORK, store, mosaic_tasks(store, plan.all_blocks()), most=12))
    assert len(graphs) == 5 * 40 * 3 / 12 and max(len(graph) for graph, _ in graphs) <= 2 * 12 + 12


def test_damaged_parts_are_found_and_computed_again(tmp_path):
    reference = painted(tmp_path / "reference", BOX)

    def stop(phase, box, state):
        if phase == 2:
            raise KeyboardInterrupt
        return solve(phase, box, state)

    with pytest.raises(KeyboardInterrupt):
        painted(tmp_path / "run", BOX, Work(start, stop, finish))
    parts = sorted(p for p in (tmp_path / "run").glob("phase-*.zarr/c/**/*") if p.is_file())
    parts[0].write_bytes(parts[0].read_bytes()[:100])
    data = bytearray(parts[-1].read_bytes())
    data[50] ^= 1
    parts[-1].write_bytes(data)
    with open_run(tmp_path / "run", BOX, {"run": "test"}) as store:
        assert store.drop_damaged() == 2
    np.testing.assert_array_equal(painted(tmp_path / "run", BOX), reference)


def test_kill_dash_nine_and_the_same_command_again_give_the_same_bytes(tmp_path):
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        import dask
        sys.path.insert(0, sys.argv[1])
        import test_mosaic as t
        def slow(phase, box, state):
            time.sleep(0.05)
            return t.solve(phase, box, state)
        work = t.Work(t.start, slow, t.finish)
        t.painted(Path(sys.argv[2]), t.BOX, work, get=dask.threaded.get, num_workers=2)
        """
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "run")]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "run").glob("phase-1.zarr/c/0/*/*"))) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True)
    with open_run(tmp_path / "run", BOX, {"run": "test"}) as store:
        again = store.pixels[:]
    np.testing.assert_array_equal(again, painted(tmp_path / "reference", BOX))


def test_two_runs_in_one_folder_and_another_configuration_are_refused(tmp_path):
    with open_run(tmp_path, BOX, {"seed": 1}):
        with pytest.raises(OutputError, match="another render is at work"):
            with open_run(tmp_path, BOX, {"seed": 1}):
                pass
    with pytest.raises(OutputError, match="another seed.*--overwrite"):
        with open_run(tmp_path, BOX, {"seed": 2}):
            pass
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(OutputError, match="damaged"):
        with open_run(tmp_path, BOX, {"seed": 1}):
            pass

"""The engine with toy callables: no network, whole-slide behaviour in milliseconds."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage as ndi

from nasdm_wsi.errors import OutputError
from nasdm_wsi.geometry import Plan, cells_in, inside, intersect
from nasdm_wsi.mosaic.engine import Mosaic, Work
from nasdm_wsi.mosaic.noise import noise
from nasdm_wsi.mosaic.store import open_run
from nasdm_wsi.slides import ome_tiff
from nasdm_wsi.slides.pyramid import Pyramid

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


def solve(phase, boxes, states):
    return np.stack([step(phase, state) for state in states])


WORK = Work(start, solve, finish)


def all_blocks(plan):
    return cells_in((0, 0, *plan.blocks))


def painted(folder, plan, work=WORK, *, region=None, do=None, threads=1, pyramid=None):
    """The region's pixels, or the encoded tiles of a pyramid by level; ``do(mosaic)`` does all."""
    region = region or (0, 0, *plan.size)
    with open_run(folder, {"run": "test"}) as store:
        mosaic = Mosaic(work, plan, store, region=region, pyramid=pyramid)
        if do:
            do(mosaic)
        else:
            with ThreadPoolExecutor(threads) as pool:
                mosaic.paint(lambda task: pool.submit(mosaic.do, task), in_flight=lambda: threads)
        if pyramid:
            return [list(mosaic.encoded(level)) for level in range(len(pyramid.shapes))]
        return mosaic.pixels(region)


def shuffled(seed):
    """Do tasks in a random order that respects nothing but their dependencies."""

    def do(mosaic):
        rng, ledger, ready = np.random.default_rng(seed), mosaic.ledger(), []
        while ledger.left:
            while (task := ledger.next()) is not None:
                ready.append(task)
            task = ready.pop(rng.integers(len(ready)))
            mosaic.do(task)
            for idle in ledger.finish(task):
                mosaic.free(idle)

    return do


def parts(folder, kind="phase-*"):
    return sorted(path for path in folder.glob(f"{kind}/*/*"))


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
        for block in all_blocks(TAPERED):
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
    np.testing.assert_array_equal(painted(tmp_path / "threads", plan, threads=4), reference)
    for seed in range(3):
        again = painted(tmp_path / f"{seed}", plan, do=shuffled(seed))
        np.testing.assert_array_equal(again, reference)
    for region in [(60, 70, 140, 120), (0, 190, 1, 203), (100, 100, 101, 101)]:
        alone = painted(tmp_path / f"{region}", plan, region=region)
        y0, x0, y1, x1 = region
        np.testing.assert_array_equal(alone, reference[y0:y1, x0:x1])


def test_a_region_computes_only_what_lies_within_reach(tmp_path):
    """Beyond that there is nothing, and it does not matter what."""
    plan = replace(BOX, stride=16, reach=8)
    calls = []

    def counting(phase, boxes, states):
        calls.extend((phase, box) for box in boxes)
        return solve(phase, boxes, states)

    region = (64, 96, 80, 112)  # one block
    alone = painted(tmp_path / "a", plan, replace(WORK, solve=counting), region=region)
    assert [sum(k == phase for k, _ in calls) for phase in range(3)] == [9, 9, 1]
    np.testing.assert_array_equal(alone, painted(tmp_path / "b", BOX)[64:80, 96:112])


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("region", [(0, 0, *SIZE), (37, 20, 143, 201)])
def test_tiles_of_any_order_are_those_of_the_whole_picture(tmp_path, plan, region):
    y0, x0, y1, x1 = region
    pyramid = Pyramid((y1 - y0, x1 - x0, 3), tile=32, lossless=True)
    tiles = painted(tmp_path / "tiles", plan, region=region, do=shuffled(1), pyramid=pyramid)
    whole = painted(tmp_path / "whole", plan)[y0:y1, x0:x1]
    common = {"mpp": 0.5, "description": "test"}
    ome_tiff.write_tiles(tmp_path / "a.tif", pyramid, lambda level: tiles[level], **common)
    ome_tiff.write(tmp_path / "b.tif", whole, tile=32, lossless=True, **common)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize("plan", PLANS)
def test_state_is_freed_when_it_was_used(tmp_path, plan):
    pyramid = Pyramid((*SIZE, 3), tile=32)
    painted(tmp_path / "run", plan, pyramid=pyramid)
    assert {path.parts[-3] for path in parts(tmp_path / "run", "*")} == {
        f"tiles-{level}" for level in range(len(pyramid.shapes))
    }


GLASS = (-8, -8, 100, 120)  # this corner shows nothing


def in_glass(box):
    return intersect(box, GLASS) == box


def glass(phase, box):
    """As `start` and `glassy_solve` would have it, pixel for pixel."""
    unit = start(box)[:3]
    return np.concatenate([0.5 ** (phase + 1) * unit, np.full_like(unit, 0.3)])


def glassy_finish(box, state):
    return np.clip(127.5 + 100 * state[3:].transpose(1, 2, 0), 0, 255).astype(np.uint8)


def glassy_solve(phase, boxes, states):
    results = solve(phase, boxes, states)
    for box, state, new in zip(boxes, states, results, strict=True):
        at = inside(intersect(box, GLASS), box)
        new[:3, *at] = 0.5 * state[:3, *at]
        new[3:, *at] = 0.3
    return results


@pytest.mark.parametrize("plan", PLANS)
def test_glass_is_not_computed_and_changes_nothing(tmp_path, plan):
    everything = Work(start, glassy_solve, glassy_finish)
    reference = painted(tmp_path / "all", plan, everything)
    calls = []

    def counting(phase, boxes, states):
        calls.extend((phase, box) for box in boxes)
        return glassy_solve(phase, boxes, states)

    spared = Work(start, counting, glassy_finish, in_glass, glass)
    np.testing.assert_array_equal(painted(tmp_path / "spared", plan, spared), reference)
    blocks = [b for b in all_blocks(plan) if not in_glass(plan.part(b))]
    windows = sum(len(plan.cores(b)) for b in blocks)
    assert len(calls) == windows * len(plan.phases) and len(blocks) < len(all_blocks(plan))

    pyramid = Pyramid((*SIZE, 3), tile=16, lossless=True)
    tiles = painted(tmp_path / "tiles", plan, spared, pyramid=pyramid)
    assert tiles == painted(tmp_path / "again", plan, everything, pyramid=pyramid)
    assert not (tmp_path / "tiles/tiles-0/0/0").exists()  # one blank tile stands for all


@pytest.mark.parametrize("plan", PLANS)
def test_a_stopped_run_goes_on_without_repeating_finished_work(tmp_path, plan):
    reference = painted(tmp_path / "reference", plan)
    calls = []

    def failing(phase, boxes, states):
        if len(calls) >= 11:
            raise KeyboardInterrupt
        calls.extend((phase, box) for box in boxes)
        return solve(phase, boxes, states)

    with pytest.raises(KeyboardInterrupt):
        painted(tmp_path / "run", plan, Work(start, failing, finish))
    again = []

    def counting(phase, boxes, states):
        again.extend((phase, box) for box in boxes)
        return solve(phase, boxes, states)

    np.testing.assert_array_equal(
        painted(tmp_path / "run", plan, Work(start, counting, finish)), reference
    )
    repeated = set(calls) & set(again)
    assert not repeated
    assert len(set(again)) == len(again)


def test_few_parts_wait_on_disk_however_tall_the_slide(tmp_path):
    """Three rows of each phase at most."""
    plan = Plan((40 * 16, 3 * 16), 16, 8, 0, 1, tuple((k, k + 1) for k in range(4)), grid=8)
    alive = []

    def counting(phase, boxes, states):
        alive.append(len(parts(tmp_path / "run")))
        return states

    painted(tmp_path / "run", plan, replace(WORK, solve=counting))
    assert len(alive) == 4 * 40 * 3 and max(alive) <= 3 * 4 * 3


def test_damaged_parts_are_found_and_computed_again(tmp_path):
    reference = painted(tmp_path / "reference", BOX)

    def stop(phase, boxes, states):
        if phase == 2:
            raise KeyboardInterrupt
        return solve(phase, boxes, states)

    with pytest.raises(KeyboardInterrupt):
        painted(tmp_path / "run", BOX, Work(start, stop, finish))
    first, *_, last = parts(tmp_path / "run")
    first.write_bytes(first.read_bytes()[:100])
    data = bytearray(last.read_bytes())
    data[50] ^= 1
    last.write_bytes(data)
    (tmp_path / "run/phase-0/0/.0.half").write_bytes(b"of a process that was killed")
    with open_run(tmp_path / "run", {"run": "test"}) as store:
        assert store.drop_damaged() == 2
    assert not first.exists() and not list((tmp_path / "run").glob("*/*/.*"))
    np.testing.assert_array_equal(painted(tmp_path / "run", BOX), reference)


def test_kill_dash_nine_and_the_same_command_again_give_the_same_bytes(tmp_path):
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        import test_mosaic as t
        def slow(phase, boxes, states):
            time.sleep(0.05)
            return t.solve(phase, boxes, states)
        t.painted(Path(sys.argv[2]), t.BOX, t.Work(t.start, slow, t.finish), threads=2)
        """
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "run")]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while len(parts(tmp_path / "run", "phase-1")) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    again = painted(tmp_path / "run", BOX)
    np.testing.assert_array_equal(again, painted(tmp_path / "reference", BOX))


def test_two_runs_in_one_folder_and_another_configuration_are_refused(tmp_path):
    with open_run(tmp_path, {"seed": 1}):
        with pytest.raises(OutputError, match="another render is at work"):
            with open_run(tmp_path, {"seed": 1}):
                pass
    with pytest.raises(OutputError, match="another seed.*`overwrite`"):
        with open_run(tmp_path, {"seed": 2}):
            pass
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(OutputError, match="damaged"):
        with open_run(tmp_path, {"seed": 1}):
            pass

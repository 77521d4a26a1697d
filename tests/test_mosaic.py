"""The engine with toy painters: no network, whole-slide behaviour in milliseconds."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import toy
from helpers import wait_for

from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.errors import OutputError, PlanError
from nasdm_wsi.geometry import Plan, cells_in, inside, intersect, shape
from nasdm_wsi.job import Job, Window
from nasdm_wsi.mosaic.noise import noise
from nasdm_wsi.mosaic.store import open_run
from nasdm_wsi.slides import ome_tiff
from nasdm_wsi.slides.pyramid import Pyramid

SIZE = (150, 203)
BOX = Plan(SIZE, 48, 8, 0, 1, ((0, 1), (1, 2), (2, 3)), grid=8)
TAPERED = Plan(SIZE, 24, 4, 4, 2, ((0, 2), (2, 3)))
PLANS = [pytest.param(BOX, id="box"), pytest.param(TAPERED, id="tapered")]


def job_of(plan, *, region=None, painter=toy.StepPainter, nuclei=None, **options):
    return toy.step_job(painter(plan, **options), region=region, nuclei=nuclei)


def all_blocks(plan):
    return cells_in((0, 0, *plan.blocks))


def whole_window(plan, state):
    """All of the canvas as one window without nuclei."""
    size = state.shape[1:]
    return Window(plan.bounds, plan.bounds, state, np.empty((0, *size)), np.ones(size, bool), None)


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


@pytest.mark.parametrize("channels", [3, 6, 7])
def test_box_plan_equals_the_whole_canvas_at_once(tmp_path, channels):
    job = job_of(BOX, channels=channels)
    canvas = (0, 0, 152, 208)  # rounded up to the grid
    state = job.painter.start(noise(canvas, seed=3))
    for steps in BOX.phases:
        state = job.painter.step(steps, whole_window(BOX, state))
    whole = job.painter.finish(state)[: SIZE[0], : SIZE[1]]
    np.testing.assert_array_equal(toy.painted(tmp_path / "run", job), whole)


@pytest.mark.parametrize("channels", [3, 7])
def test_tapered_plan_equals_fusing_all_windows_between_phases(tmp_path, channels):
    job = job_of(TAPERED, channels=channels)
    state = job.painter.start(noise(TAPERED.bounds, seed=3))
    for steps in TAPERED.phases:
        fused = np.zeros_like(state)
        for block in all_blocks(TAPERED):
            for core in TAPERED.cores(block):
                at = inside(TAPERED.window(core), TAPERED.bounds)
                after = job.painter.step(steps, whole_window(TAPERED, state[:, *at]))
                fused[:, *at] += after * TAPERED.weight(core)
        state = fused
    whole = job.painter.finish(state)[inside((0, 0, *SIZE), TAPERED.bounds)]
    difference = toy.painted(tmp_path / "run", job).astype(int) - whole
    assert np.abs(difference).max() <= 1  # sums in another order, then truncation


@pytest.mark.parametrize("plan", PLANS)
def test_planes_come_in_the_order_in_which_the_painter_names_them(tmp_path, plan):
    names = ("epithelial", "lymphocyte", "edge", "nuclei known")
    nuclei = replace(toy.toy_job().nuclei, tissue=None)
    nuclei.types[::2] = 3  # lymphocytes
    pictures = [
        toy.painted(tmp_path / str(k), job_of(plan, nuclei=nuclei, planes=planes))
        for k, planes in enumerate([names, names[::-1], names[:1], ()])
    ]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert len({picture.tobytes() for picture in pictures}) == 3


def test_a_plane_that_nobody_can_give_is_named():
    with pytest.raises(PlanError, match="'mitosis'.* lymphocyte, .*nuclei known"):
        job_of(BOX, planes=("edge", "mitosis"))


@pytest.mark.parametrize("plan", PLANS)
def test_noise_of_a_step_is_that_of_the_place_in_any_window(tmp_path, plan):
    """Another for another step, and none of them that from which the canvas starts."""
    seen = {}  # by step: a canvas of what any window said

    def watch(phase, windows):
        for window in windows:
            at = inside(window.box, plan.bounds)
            for step in range(2):
                canvas = seen.setdefault(step, np.full((3, *shape(plan.bounds)), np.nan))
                known, said = canvas[:, *at], window.noise(step)
                assert ((known == said) | np.isnan(known)).all()
                canvas[:, *at] = said

    toy.painted(tmp_path / "run", job_of(plan, watch=watch))
    draws = [seen[0], seen[1], noise(plan.bounds, seed=3)]
    for k, one in enumerate(draws):
        assert one.std() == pytest.approx(1, abs=0.02)
        for other in draws[:k]:
            assert abs(np.mean(one * other)) < 0.02


@pytest.mark.parametrize("plan", PLANS)
def test_order_workers_and_region_do_not_change_a_byte(tmp_path, plan):
    reference = toy.painted(tmp_path / "reference", job_of(plan))
    threads = toy.painted(tmp_path / "threads", job_of(plan), threads=4)
    np.testing.assert_array_equal(threads, reference)
    for seed in range(3):
        again = toy.painted(tmp_path / f"{seed}", job_of(plan), do=shuffled(seed))
        np.testing.assert_array_equal(again, reference)
    for region in [(60, 70, 140, 120), (0, 190, 1, 203), (100, 100, 101, 101)]:
        alone = toy.painted(tmp_path / f"{region}", job_of(plan, region=region))
        y0, x0, y1, x1 = region
        np.testing.assert_array_equal(alone, reference[y0:y1, x0:x1])


def recorder(calls):
    """A `StepPainter.watch` that notes phase and box of each window."""
    return lambda phase, windows: calls.extend((phase, window.box) for window in windows)


def test_a_region_computes_only_what_lies_within_reach(tmp_path):
    """Beyond that there is nothing, and it does not matter what."""
    plan = replace(BOX, stride=16, reach=8)
    calls = []
    job = job_of(plan, watch=recorder(calls), region=(64, 96, 80, 112))  # one block
    alone = toy.painted(tmp_path / "a", job)
    assert [sum(k == phase for k, _ in calls) for phase in range(3)] == [9, 9, 1]
    whole = toy.painted(tmp_path / "b", job_of(BOX))
    np.testing.assert_array_equal(alone, whole[64:80, 96:112])


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("region", [(0, 0, *SIZE), (37, 20, 143, 201)])
def test_tiles_of_any_order_are_those_of_the_whole_picture(tmp_path, plan, region):
    y0, x0, y1, x1 = region
    pyramid = Pyramid((y1 - y0, x1 - x0, 3), tile=32, lossless=True)
    job = job_of(plan, region=region)
    tiles = toy.painted(tmp_path / "tiles", job, do=shuffled(1), pyramid=pyramid)
    whole = toy.painted(tmp_path / "whole", job_of(plan))[y0:y1, x0:x1]
    common = {"mpp": 0.5, "description": "test"}
    ome_tiff.write_tiles(tmp_path / "a.tif", pyramid, lambda level: tiles[level], **common)
    ome_tiff.write(tmp_path / "b.tif", whole, tile=32, lossless=True, **common)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize("plan", PLANS)
def test_state_is_freed_when_it_was_used(tmp_path, plan):
    pyramid = Pyramid((*SIZE, 3), tile=32)
    toy.painted(tmp_path / "run", job_of(plan), pyramid=pyramid)
    assert {path.parts[-3] for path in parts(tmp_path / "run", "*")} == {
        f"tiles-{level}" for level in range(len(pyramid.shapes))
    }


@pytest.mark.parametrize("plan", PLANS)
def test_state_that_a_killed_run_left_is_freed_by_the_next(tmp_path, plan):
    pyramid = Pyramid((*SIZE, 3), tile=32)

    def half(mosaic):
        ledger = mosaic.ledger()
        for _ in range(ledger.left // 2):
            mosaic.do(task := ledger.next())
            ledger.finish(task)  # killed before anything was freed
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.painted(tmp_path / "run", job_of(plan), do=half, pyramid=pyramid)
    assert len(parts(tmp_path / "run")) > 3
    toy.painted(tmp_path / "run", job_of(plan), pyramid=pyramid)
    assert {path.parts[-3] for path in parts(tmp_path / "run", "*")} == {
        f"tiles-{level}" for level in range(len(pyramid.shapes))
    }


GLASS = (-8, -8, 98, 146)  # this corner shows nothing; it ends beside corners of blocks
TISSUE = shapely.box(-50, -50, 300, 300) - shapely.box(-50, -50, GLASS[3], GLASS[2])
TISSUE_ABOVE = shapely.box(-50, -50, 300, 70)  # glass goes on to the lower edge


class ThoroughJob(Job):
    """Paints glass as if it were tissue."""

    def is_glass(self, box):
        return False


@pytest.mark.parametrize("plan", PLANS)
def test_glass_is_not_computed_and_changes_nothing(tmp_path, plan):
    calls = []
    common = {"painter": toy.GlassPainter, "nuclei": toy.no_nuclei(TISSUE)}
    spared = job_of(plan, watch=recorder(calls), **common)
    everything = ThoroughJob(**vars(job_of(plan, **common)))
    reference = toy.painted(tmp_path / "all", everything)
    np.testing.assert_array_equal(toy.painted(tmp_path / "spared", spared), reference)
    blocks = [b for b in all_blocks(plan) if intersect(plan.part(b), GLASS) != plan.part(b)]
    windows = sum(len(plan.cores(b)) for b in blocks)
    assert len(calls) == windows * len(plan.phases) and len(blocks) < len(all_blocks(plan))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("tissue", "blank"), [(TISSUE, "0/0"), (TISSUE_ABOVE, "8/0")])
def test_one_blank_tile_stands_for_all_of_glass(tmp_path, plan, tissue, blank):
    job = job_of(plan, painter=toy.GlassPainter, nuclei=toy.no_nuclei(tissue))
    pyramid = Pyramid((*SIZE, 3), tile=16, lossless=True)
    tiles = toy.painted(tmp_path / "tiles", job, pyramid=pyramid)
    everything = ThoroughJob(**vars(job_of(plan, painter=toy.GlassPainter, nuclei=job.nuclei)))
    assert tiles == toy.painted(tmp_path / "all", everything, pyramid=pyramid)
    assert (tmp_path / "all/tiles-0" / blank).exists()
    assert not (tmp_path / "tiles/tiles-0" / blank).exists()


@pytest.mark.parametrize("plan", PLANS)
def test_a_stopped_run_goes_on_without_repeating_finished_work(tmp_path, plan):
    reference = toy.painted(tmp_path / "reference", job_of(plan))
    calls = []

    def failing(phase, windows):
        if len(calls) >= 11:
            raise KeyboardInterrupt
        recorder(calls)(phase, windows)

    with pytest.raises(KeyboardInterrupt):
        toy.painted(tmp_path / "run", job_of(plan, watch=failing))
    again = []
    resumed = toy.painted(tmp_path / "run", job_of(plan, watch=recorder(again)))
    np.testing.assert_array_equal(resumed, reference)
    repeated = set(calls) & set(again)
    assert not repeated
    assert len(set(again)) == len(again)


@pytest.mark.parametrize("blocks", [(40, 3), (3, 40), (12, 12)])
def test_few_parts_wait_on_disk_however_long_the_slide(tmp_path, blocks):
    """Two short lines of each phase, and some that the workers hold up."""
    size = blocks[0] * 16, blocks[1] * 16
    plan = Plan(size, 16, 8, 0, 1, tuple((k, k + 1) for k in range(4)), grid=8)
    alive = []

    def count(phase, windows):
        alive.append(len(parts(tmp_path / "run")))

    toy.painted(tmp_path / "run", job_of(plan, watch=count))
    assert len(alive) == 4 * blocks[0] * blocks[1]
    assert max(alive) <= 4 * 2 * min(blocks) + 4


@pytest.mark.parametrize("plan", PLANS)
def test_a_window_is_rasterised_once(tmp_path, plan, monkeypatch):
    counts, rasterise = Counter(), Conditioning._encoded

    def counting(self, box):
        counts[box] += 1
        return rasterise(self, box)

    monkeypatch.setattr(Conditioning, "_encoded", counting)
    calls = []
    job = job_of(
        plan,
        painter=toy.GlassPainter,
        planes=("epithelial", "edge"),
        nuclei=replace(toy.toy_job().nuclei, tissue=TISSUE),
        watch=recorder(calls),
    )
    toy.painted(tmp_path / "run", job, threads=2)
    windows = {box for _, box in calls}
    assert len(calls) > len(windows) > 5
    assert {counts[box] for box in windows} == {1}


def test_damaged_parts_are_found_and_computed_again(tmp_path):
    reference = toy.painted(tmp_path / "reference", job_of(BOX))

    def stop(phase, windows):
        if phase == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.painted(tmp_path / "run", job_of(BOX, watch=stop))
    first, *_, last = parts(tmp_path / "run")
    first.write_bytes(first.read_bytes()[:100])
    data = bytearray(last.read_bytes())
    data[50] ^= 1
    last.write_bytes(data)
    (tmp_path / "run/phase-0/0/.0.0123abcd").write_bytes(b"of a process that was killed")
    with open_run(tmp_path / "run", {"run": "test"}) as store:
        assert store.drop_damaged() == 2
    assert not first.exists() and not list((tmp_path / "run").glob("*/*/.*"))
    np.testing.assert_array_equal(toy.painted(tmp_path / "run", job_of(BOX)), reference)


def test_kill_dash_nine_and_the_same_command_again_give_the_same_bytes(tmp_path):
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        import toy
        from nasdm_wsi.geometry import Plan
        plan = Plan((150, 203), 48, 8, 0, 1, ((0, 1), (1, 2), (2, 3)), grid=8)
        painter = toy.StepPainter(plan, watch=lambda phase, windows: time.sleep(0.05))
        toy.painted(Path(sys.argv[2]), toy.step_job(painter), threads=2)
        """
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "run")]
    process = subprocess.Popen(command)
    wait_for(lambda: len(parts(tmp_path / "run", "phase-1")) >= 3, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    again = toy.painted(tmp_path / "run", job_of(BOX))
    np.testing.assert_array_equal(again, toy.painted(tmp_path / "reference", job_of(BOX)))


def test_two_runs_in_one_folder_and_another_configuration_are_refused(tmp_path):
    with open_run(tmp_path, {"seed": 1}):
        with pytest.raises(OutputError, match="another render is running"):
            with open_run(tmp_path, {"seed": 1}):
                pass
    with pytest.raises(OutputError, match="a different seed.*`overwrite`"):
        with open_run(tmp_path, {"seed": 2}):
            pass


@pytest.mark.parametrize("damage", ["{", "[1]", "", "\0", "[" * 100_000])
def test_a_damaged_manifest_is_written_again_if_the_parts_are_of_the_same_run(tmp_path, damage):
    with open_run(tmp_path, {"seed": 1}) as store:
        store.write("pixels", (0, 0), b"finished")
    manifest = tmp_path / "manifest.json"
    before = manifest.read_text()
    manifest.write_text(damage)
    with pytest.raises(OutputError, match="manifest.json is damaged.*another render.*`overwrite`"):
        with open_run(tmp_path, {"seed": 2}):
            pass
    with open_run(tmp_path, {"seed": 1}) as store:
        assert store.drop_damaged() == 0
        assert store.read("pixels", (0, 0)) == b"finished" and manifest.read_text() == before
    manifest.write_text(damage)
    with open_run(tmp_path, {"seed": 2}, overwrite=True) as store:
        assert store.is_empty() and json.loads(manifest.read_text()) == {"seed": 2}


def test_parts_without_a_manifest_belong_to_nobody(tmp_path):
    with open_run(tmp_path, {"seed": 1}) as store:
        store.write("pixels", (0, 0), b"old")
    (tmp_path / "manifest.json").unlink()
    for seed in (1, 2):
        with pytest.raises(OutputError, match="without a manifest.json: remove .*`overwrite`"):
            with open_run(tmp_path, {"seed": seed}):
                pass
    with open_run(tmp_path, {"seed": 2}, overwrite=True) as store:
        assert store.is_empty()


def test_each_part_tells_whose_it_is_and_where_it_belongs(tmp_path):
    with open_run(tmp_path / "old", {"seed": 1}) as old, open_run(tmp_path / "new", {}) as new:
        for store in (old, new):
            for column in (0, 1):
                store.write("pixels", (0, column), b"%4d" % column)
        theirs, ours, moved = (
            run / "pixels/0" / name
            for run, name in ((old.folder, "0"), (new.folder, "0"), (new.folder, "1"))
        )
        moved.write_bytes(ours.read_bytes())
        ours.write_bytes(theirs.read_bytes())
        for column in (0, 1):
            with pytest.raises(OutputError, match="was removed or damaged: run the same command"):
                new.read("pixels", (0, column))
            with pytest.raises(OutputError, match="was removed or damaged: run the same command"):
                new.array("pixels", (0, column), (4,), np.uint8)
        assert new.drop_damaged() == 2 and old.drop_damaged() == 0


@pytest.mark.parametrize("taken", ["lock", "manifest.json", "pixels", "pixels/0", "pixels/0/0"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_name_that_is_taken_is_told_in_one_line(tmp_path, taken, kind):
    path = tmp_path / taken
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if kind == "folder" else path.write_text("dear to me")
    try:
        with open_run(tmp_path, {"seed": 1}) as store:
            store.drop_damaged()
            store.write("pixels", (0, 0), b"x")
            assert store.present("pixels", (0, 0, 1, 1)).all()
            assert store.read("pixels", (0, 0)) == b"x"
    except OutputError as error:
        assert str(tmp_path) in str(error) and "\n" not in str(error)


def test_what_is_not_of_a_render_stays_in_the_run_folder(tmp_path):
    for name in ("notes/thesis/chapter", ".DS_Store"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("dear to me")
    with open_run(tmp_path, {"seed": 1}) as store:
        store.write("pixels", (0, 0), b"x")
        assert store.drop_damaged() == 0
        store.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".DS_Store", "lock", "notes"]
    assert (tmp_path / "notes/thesis/chapter").read_text() == "dear to me"

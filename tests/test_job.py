"""What a planned render says of itself: its identity, and the room that it needs."""

from __future__ import annotations

import json
import pickle
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy

from nasdm_wsi.errors import OutputError, PlanError
from nasdm_wsi.geometry import Plan
from nasdm_wsi.model import Painter
from nasdm_wsi.model.checkpoint import load_network, save_weights
from nasdm_wsi.mosaic.store import open_run
from nasdm_wsi.rendering import plan_render, render


@pytest.fixture(scope="module")
def job_of(weights):
    """A job of the settings that are given, and fixed ones for all others."""

    def make(*, stride=64, together=1, types=2, seed=1, size=(150, 203), region=None, **painting):
        nuclei = toy.toy_job().nuclei
        nuclei = replace(nuclei, types=np.full_like(nuclei.types, types))
        given = {
            "weights": weights,
            "steps": 3,
            "guidance": 1.0,
            "device": "cpu",
            "precision": "float32",
            **painting,
        }
        job = plan_render(nuclei, Painter(**given), size=size, region=region, seed=seed)
        return toy.cut_up(job, stride, together=together)

    return make


STYLE = np.array([0.9, 0.1, 0, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("seed", {"seed": 2}),
        ("steps", {"steps": 4}),
        ("solver", {"solver": "ddim"}),
        ("guidance", {"guidance": 0.5}),
        ("style", {"style": STYLE}),
        ("precision", {"precision": "bfloat16"}),
        ("nuclei", {"types": 3}),
        ("canvas", {"size": (150, 204)}),
        ("region", {"region": (10, 20, 110, 170)}),
        ("region", {"region": (20, 10, 110, 170)}),
        ("plan", {"stride": 96}),
        ("plan", {"together": 2}),
    ],
)
def test_a_run_folder_is_refused_to_a_job_with_another_setting(job_of, tmp_path, key, change):
    with open_run(tmp_path, job_of().facts):
        pass
    with open_run(tmp_path, job_of().facts):
        pass  # the same
    with pytest.raises(OutputError, match=f"with a different .*{key}"):
        with open_run(tmp_path, job_of(**change).facts):
            pass


def test_a_run_folder_is_refused_to_other_weights_of_the_same_name(job_of, weights, tmp_path):
    network = load_network(weights)
    next(network.parameters()).data.flatten()[0] += 0.01
    save_weights(tmp_path / weights.name, network)
    with open_run(tmp_path / "run", job_of().facts):
        pass
    with pytest.raises(OutputError, match="with a different .*weights"):
        with open_run(tmp_path / "run", job_of(weights=tmp_path / weights.name).facts):
            pass


def test_a_run_folder_is_refused_to_another_version(job_of, tmp_path, monkeypatch):
    with open_run(tmp_path, job_of().facts):
        pass
    monkeypatch.setattr("nasdm_wsi.job.version", lambda package: "0.0.1")
    with pytest.raises(OutputError, match="with a different software"):
        with open_run(tmp_path, job_of().facts):
            pass


def size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another thread may remove it just now
            total += path.stat().st_size if path.is_file() else 0
    return total


@pytest.mark.parametrize("channels", [3, 7])
@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(Plan((320, 160), 16, 8, 0, 1, ((0, 1), (1, 2), (2, 3)), grid=8), id="tall"),
        pytest.param(Plan((160, 320), 16, 8, 0, 1, ((0, 1), (1, 2), (2, 3)), grid=8), id="wide"),
        pytest.param(Plan((192, 192), 24, 4, 4, 2, ((0, 2), (2, 3))), id="tapered"),
        pytest.param(Plan((150, 203), 512, 8, 0, 1, ((0, 1), (1, 2)), grid=8), id="one block"),
    ],
)
def test_a_render_takes_about_the_disk_that_it_asked_for(tmp_path, plan, channels):
    """How many parts wait depends on which thread is quicker; small files are not counted."""
    seen, small_files = [], 100_000
    job = toy.step_job(toy.StepPainter(plan, channels=channels))
    out = tmp_path / "slide.ome.tif"
    note = lambda what, done, total: seen.append(size_of(tmp_path))  # noqa: E731
    render(job, out, lossless=True, workers=1, progress=note)
    assert 0.4 * job.disk(workers=1) <= max(seen) <= job.disk(workers=1) + small_files


def test_the_disk_asked_for_grows_with_workers_channels_and_region():
    plan = Plan((3200, 3200), 16, 8, 0, 1, ((0, 1), (1, 2), (2, 3)), grid=8)
    job = toy.step_job(toy.StepPainter(plan, channels=3))
    part = 3 * 4 * 16 * 16
    assert job.disk(workers=9) - job.disk(workers=1) == 8 * 4 * part
    more = replace(job, painter=toy.StepPainter(plan, channels=6))
    tiles = 8 * 3200 * 3200
    assert more.disk(workers=1) - tiles == 2 * (job.disk(workers=1) - tiles)
    assert replace(job, region=(0, 0, 320, 320)).disk(workers=1) < job.disk(workers=1) / 9


def test_the_report_tells_what_is_painted_and_what_it_takes(job_of):
    job = job_of(region=(60, 70, 140, 200))
    report = dict(line.split(maxsplit=1) for line in job.report(workers=100))
    assert report["slide"].startswith("130 x 80 pixels at 0.5 mpp")
    assert report["blocks"].startswith("9 of 64 pixels") and "show tissue" in report["blocks"]
    assert report["phases"] == "3" and report["time"].endswith("minutes expected")
    assert int(report["workers"]) <= 12  # no more than there are blocks to paint
    assert "130 x 80" in repr(job) and "seed 1" in repr(job)


def test_provenance_says_synthetic_and_gives_the_facts(job_of):
    text = job_of().provenance
    assert text.startswith("Synthetic image") and "not for diagnosis" in text
    facts = json.loads(text[text.index("{") :])
    assert facts == job_of().facts
    assert facts["plan"]["phases"] == [1, 2, 3] and facts["guidance"] == 1.0


def test_a_job_that_was_used_can_be_sent_to_another_process():
    job = toy.toy_job()
    box = (80, 80, 120, 140)
    planes, tissue = job.planes(box), job.tissue(box)
    sent = pickle.loads(pickle.dumps(job))
    assert sent.facts == job.facts
    np.testing.assert_array_equal(sent.planes(box), planes)
    np.testing.assert_array_equal(sent.tissue(box), tissue)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed):
    job = toy.toy_job()
    with pytest.raises(PlanError, match=r"choose 0 to 2\*\*64 - 1"):
        plan_render(job.nuclei, job.painter, size=(9, 9), seed=seed)

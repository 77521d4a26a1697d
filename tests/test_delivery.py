"""What a render finds on disk, what it leaves there, and what it never touches."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import toy
from PIL import Image

from nasdm_wsi.delivery import LONGEST_NAME, run_folder
from nasdm_wsi.errors import OutputError
from nasdm_wsi.geometry import Plan
from nasdm_wsi.mosaic.store import RunStore
from nasdm_wsi.mosaic.watch import Watch
from nasdm_wsi.rendering import render, render_region

PLAN = Plan((96, 130), 32, 8, 0, 1, ((0, 1), (1, 2)), grid=8)


def job_of(**options):
    return toy.step_job(toy.StepPainter(PLAN), **options)


class Stop(Exception):
    """The user stops a render."""


def stopped(out, after):
    """Begin a render and stop it after so many tasks."""

    def stop(what, done, total):
        if done == after:
            raise Stop

    with pytest.raises(Stop):
        render(job_of(), out, lossless=True, workers=1, progress=stop)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_slide_is_replaced_only_if_the_user_says_so(tmp_path):
    out = tmp_path / "slide.ome.tif"
    out.write_text("dear to me")
    with pytest.raises(OutputError, match="slide.ome.tif exists: .*give `overwrite`"):
        render(job_of(), out)
    assert out.read_text() == "dear to me" and names(tmp_path) == ["slide.ome.tif"]
    render(job_of(), out, overwrite=True)
    assert tifffile.imread(out).shape == (96, 130, 3)
    assert names(tmp_path) == ["slide.geojson", "slide.ome.tif"]


# Nuclei beside the slide: replaced only if a render wrote them


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("beside", ["nothing", "a run folder", "a slide"])
def test_nuclei_that_no_render_wrote_are_never_replaced(tmp_path, overwrite, beside):
    out, labels = tmp_path / "slide.ome.tif", tmp_path / "slide.geojson"
    if beside == "a run folder":
        stopped(out, after=9)
    if beside == "a slide":
        render(job_of(), out)
        out.rename(tmp_path / "slide.tif")
        out = tmp_path / "slide.tif"
    labels.write_text("dear to me")
    before = names(tmp_path)
    with pytest.raises(OutputError, match="was not written by a render|tif exists"):
        render(job_of(), out, overwrite=overwrite)
    assert labels.read_text() == "dear to me" and names(tmp_path) == before


@pytest.mark.parametrize("name", ["slide.ome.tif", "slide.ome.zarr"])
def test_own_nuclei_are_replaced_with_overwrite_alone(tmp_path, name):
    out, labels = tmp_path / name, tmp_path / "slide.geojson"
    render(job_of(), out)
    with pytest.raises(OutputError, match="give `overwrite`"):
        render(job_of(), out)
    out.rename(tmp_path / f"moved.{name.partition('.')[2]}")  # the slide that vouched for them
    with pytest.raises(OutputError, match="was not written by a render"):
        render(job_of(), out, overwrite=True)
    (tmp_path / f"moved.{name.partition('.')[2]}").rename(out)
    render(job_of(region=(0, 0, 40, 40)), out, overwrite=True)
    labels.write_bytes(labels.read_bytes() + b" ")  # saved by the user in another program
    with pytest.raises(OutputError, match="was not written by a render"):
        render(job_of(), out, overwrite=True)


def test_a_run_that_was_stopped_after_its_nuclei_finds_them_again(tmp_path):
    out, labels = tmp_path / "slide.ome.tif", tmp_path / "slide.geojson"

    def stop(what, done, total):
        if what == "writing":
            raise Stop

    with pytest.raises(Stop):
        render(job_of(), out, progress=stop)
    first = labels.read_bytes()
    render(job_of(), out)
    assert labels.read_bytes() == first and names(tmp_path) == ["slide.geojson", "slide.ome.tif"]


def test_nuclei_put_there_while_a_render_is_at_work_are_kept(tmp_path):
    out, labels = tmp_path / "slide.ome.tif", tmp_path / "slide.geojson"

    def annotate(what, done, total):
        labels.write_text("dear to me")

    with pytest.raises(OutputError, match="was not written by a render"):
        render(job_of(), out, progress=annotate)
    assert labels.read_text() == "dear to me" and not out.exists()
    labels.unlink()
    render(job_of(), out)


@pytest.mark.parametrize("suffix", [".ome.tif", ".tif", ".ome.zarr"])
def test_the_longest_name_works_and_a_longer_one_is_refused_before_all(tmp_path, suffix):
    folder = tmp_path / "out"
    folder.mkdir()
    for length in (LONGEST_NAME + 1, 300):
        with pytest.raises(OutputError, match=f"a name of {length} bytes: choose one of at most"):
            render(job_of(), folder / f"{'x' * (length - len(suffix))}{suffix}")
        assert not list(folder.iterdir())
    for seed in (1, 2):
        out = folder / f"{'x' * (LONGEST_NAME - len(suffix))}{suffix}"
        render(replace(job_of(), seed=seed), out, overwrite=True)
    assert len(list(folder.iterdir())) == 2


def test_a_third_seed_goes_on_after_two_that_were_stopped(tmp_path):
    def stop(what, done, total):
        raise Stop

    def stop_writing(what, done, total):
        if what == "writing":
            raise Stop

    out = tmp_path / "slide.ome.tif"
    with pytest.raises(Stop):
        render(job_of(), out, progress=stop_writing)
    assert (tmp_path / "slide.geojson").exists() and not out.exists()
    with pytest.raises(Stop):
        render(replace(job_of(), seed=1), out, overwrite=True, progress=stop)
    render(replace(job_of(), seed=2), out, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slide.geojson", "slide.ome.tif"]


@pytest.mark.parametrize("left", ["render", "cleaning"])
def test_the_same_call_finishes_what_was_killed_in_the_clean_up(tmp_path, left, monkeypatch):
    out = tmp_path / "slide.ome.tif"

    def stop(self):
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(RunStore, "clear", stop)
        render(job_of(), out, lossless=True)
    if left == "cleaning":
        shutil.rmtree(run_folder(out) / "tiles-0")
    (tmp_path / ".slide.ome.tif.0123abcd").write_text("of a killed write")
    before = out.stat().st_mtime_ns
    with pytest.raises(OutputError, match="exists"):
        render(replace(job_of(), seed=9), out, lossless=True)
    assert render(job_of(), out, lossless=True) == 0
    assert out.stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slide.geojson", "slide.ome.tif"]
    with pytest.raises(OutputError, match="exists"):
        render(job_of(), out, lossless=True)


@pytest.mark.parametrize("theirs", ["slide.ome.tif", "slide.geojson", "slide.ome.zarr"])
def test_a_folder_of_the_users_is_never_replaced(tmp_path, theirs):
    (tmp_path / theirs).mkdir()
    (tmp_path / theirs / "thesis.txt").write_text("dear to me")
    out = tmp_path / ("slide.ome.zarr" if theirs.endswith("zarr") else "slide.ome.tif")
    with pytest.raises(OutputError, match="is a folder: choose another name"):
        render(job_of(), out, overwrite=True)
    assert (tmp_path / theirs / "thesis.txt").read_text() == "dear to me"


@pytest.mark.parametrize("name", ["slide.dcm", "slide.ome.zarr", "slide.v04.ome.zarr"])
def test_a_slide_is_not_replaced_with_what_the_user_put_into_its_folder(tmp_path, name):
    render(job_of(), out := tmp_path / name)
    render(job_of(), out, overwrite=True)
    (out / "thesis.txt").write_text("dear to me")
    with pytest.raises(OutputError, match="also holds thesis.txt, .*: move it away or choose"):
        render(job_of(), out, overwrite=True)
    assert (out / "thesis.txt").read_text() == "dear to me"


def test_a_folder_that_is_not_there_is_named_before_anything_is_done(tmp_path):
    with pytest.raises(OutputError, match="nowhere is not a folder: create it first"):
        render(job_of(), tmp_path / "nowhere" / "slide.ome.tif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_a_part_that_was_damaged_between_two_runs_is_made_again(tmp_path, harm):
    out = tmp_path / "slide.ome.tif"
    stopped(out, after=9)
    damaged = [*run_folder(out).glob("phase-*/*/*"), *run_folder(out).glob("pixels/*/*")]
    assert len(damaged) > 3
    for path in damaged:
        data = bytearray(path.read_bytes())
        data[40] ^= 64
        path.write_bytes(data if harm == "flip" else data[: len(data) // 2])
    render(job_of(), out, lossless=True)
    np.testing.assert_array_equal(tifffile.imread(out), render_region(job_of()))


@pytest.mark.parametrize("region", [(0, 0, 96, 130), (17, 9, 90, 126)])
def test_the_thumbnail_shows_every_nth_pixel_of_what_is_painted(tmp_path, monkeypatch, region):
    monkeypatch.setattr(Watch, "SIDE", 50)
    monkeypatch.setattr(Watch, "SECONDS", -1.0)
    out = tmp_path / "slide.ome.tif"

    def stop(what, done, total):
        if what == "writing":
            raise Stop

    with suppress(Stop):
        render(job_of(region=region), out, progress=stop)
    shown = np.array(Image.open(run_folder(out) / "thumbnail.png"))
    step = 3
    np.testing.assert_array_equal(shown, render_region(job_of(region=region))[::step, ::step])

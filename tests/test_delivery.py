"""What a render finds on disk, what it leaves there, and what it never touches."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
import tifffile
import toy
from PIL import Image

from nasdm_wsi.delivery import run_folder
from nasdm_wsi.errors import OutputError
from nasdm_wsi.geometry import Plan
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


@pytest.mark.parametrize("theirs", ["slide.ome.tif", "slide.geojson"])
def test_a_file_of_the_users_is_replaced_only_if_they_say_so(tmp_path, theirs):
    out = tmp_path / "slide.ome.tif"
    (tmp_path / theirs).write_text("dear to me")
    with pytest.raises(OutputError, match=rf"{theirs} exists: .*give `overwrite`"):
        render(job_of(), out)
    assert (tmp_path / theirs).read_text() == "dear to me"
    assert [path.name for path in tmp_path.iterdir()] == [theirs]
    render(job_of(), out, overwrite=True)
    assert tifffile.imread(out).shape == (96, 130, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slide.geojson", "slide.ome.tif"]


@pytest.mark.parametrize("theirs", ["slide.ome.tif", "slide.geojson", "slide.ome.zarr"])
def test_a_folder_of_the_users_is_never_replaced(tmp_path, theirs):
    (tmp_path / theirs).mkdir()
    (tmp_path / theirs / "thesis.txt").write_text("dear to me")
    out = tmp_path / ("slide.ome.zarr" if theirs.endswith("zarr") else "slide.ome.tif")
    with pytest.raises(OutputError, match="is a folder: choose another name"):
        render(job_of(), out, overwrite=True)
    assert (tmp_path / theirs / "thesis.txt").read_text() == "dear to me"


def test_a_folder_that_is_not_there_is_named_before_anything_is_done(tmp_path):
    with pytest.raises(OutputError, match="nowhere is no folder: make it first"):
        render(job_of(), tmp_path / "nowhere" / "slide.ome.tif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_a_part_that_was_damaged_between_two_runs_is_made_again(tmp_path, harm):
    out = tmp_path / "slide.ome.tif"
    stopped(out, after=9)
    damaged = list(run_folder(out).glob("phase-*/*/*"))
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

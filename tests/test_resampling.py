"""Slides at another pixel size than the painter's: against Pillow, and the same however made."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from helpers import tissue
from hypothesis import given, settings
from hypothesis import strategies as st
from openslide import OpenSlide
from PIL import Image
from toy import SIDE, ToyPainter, no_nuclei, toy_job

from nasdm_wsi.annotations.geojson import read_geojson
from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import PlanError
from nasdm_wsi.job import Output
from nasdm_wsi.provenance import facts_of
from nasdm_wsi.rendering import plan_render, render, render_region
from nasdm_wsi.resampling import Resampling
from nasdm_wsi.slides.reading import open_slide

SIZE = (90, 130)


def of(source, step, box):
    """A box of the result, from no more of the source than it says that it reads."""
    resampling = Resampling(source.shape[:2], step)
    y0, x0, y1, x1 = resampling.reads(box)
    return resampling.pixels(source[y0:y1, x0:x1], box)


def whole_size(step):
    return tuple(int(n / step) for n in SIZE)


@pytest.mark.parametrize("step", [0.25, 0.5, 2.0])
def test_the_whole_picture_is_that_of_pillow(step):
    """Pillow rounds between the two directions, and its weights to 22 bits."""
    source = tissue(*SIZE)
    height, width = whole_size(step)
    source = source[: int(height * step), : int(width * step)]
    ours = of(source, step, (0, 0, height, width)).astype(int)
    theirs = np.asarray(Image.fromarray(source).resize((width, height), Image.Resampling.LANCZOS))
    assert abs(ours - theirs).max() <= 2 and abs(ours - theirs).mean() < 0.05


@given(data=st.data(), step=st.sampled_from([0.2, 0.5, 0.6, 0.97, 1.3, 2.0, 3.7]))
@settings(max_examples=60)
def test_a_box_is_the_same_as_in_the_whole(data, step):
    height, width = whole_size(step)
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width))
    rng = np.random.default_rng(0)
    source = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    whole = of(source, step, (0, 0, height, width))
    np.testing.assert_array_equal(of(source, step, (y0, x0, y1, x1)), whole[y0:y1, x0:x1])


@pytest.mark.parametrize("step", [0.3, 0.5, 2.5])
def test_an_even_colour_stays_what_it_is(step):
    source = np.full((*SIZE, 3), (245, 1, 128), np.uint8)
    assert (of(source, step, (0, 0, *whole_size(step))) == source[0, 0]).all()


def test_an_enlarged_picture_keeps_its_edges():
    """Halved and enlarged again, more of the gradients is left than by linear interpolation."""
    picture = tissue(*SIZE)
    half = np.asarray(Image.fromarray(picture).reduce(2))
    linear = Image.fromarray(half).resize(SIZE[::-1], Image.Resampling.BILINEAR)

    def edges(pixels):
        return np.abs(np.diff(pixels.astype(float), axis=1)).max(axis=1).mean()

    assert edges(of(half, 0.5, (0, 0, *SIZE))) > 1.2 * edges(np.asarray(linear))


# Slides


def job_of(mpp_out, *, region=None, size=None):
    nuclei = toy_job().nuclei
    size = size or tuple(round(SIDE * 0.5 / mpp_out) for _ in "yx")
    return plan_render(nuclei, ToyPainter(), size=size, seed=5, mpp_out=mpp_out, region=region)


@pytest.mark.parametrize("mpp_out", [0.25, 0.4, 1.0])
def test_a_slide_is_its_painting_resampled(mpp_out, tmp_path):
    """Tiles of the pyramid, rows of a zarr and pixels in memory, by one thread and by three."""
    job = job_of(mpp_out)
    painting = render_region(replace(job, region=(0, 0, *job.plan.size), output=None))
    expected = of(painting, mpp_out / 0.5, job.shown)
    np.testing.assert_array_equal(render_region(job), expected)
    render(job, tmp_path / "a.ome.tif", lossless=True, workers=1)
    render(job, tmp_path / "b.ome.tif", lossless=True, workers=3)
    render(job, tmp_path / "c.ome.zarr")
    assert (tmp_path / "a.ome.tif").read_bytes() == (tmp_path / "b.ome.tif").read_bytes()
    for name in ("a.ome.tif", "c.ome.zarr"):
        with open_slide(tmp_path / name) as slide:
            assert slide.mpp == pytest.approx(mpp_out)
            pixels = slide.read((0, 0, *slide.size), mpp=slide.mpp)
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("mpp_out", [0.25, 0.3, 1.0])
def test_a_region_alone_is_that_of_the_whole(mpp_out, tmp_path):
    whole = render_region(job_of(mpp_out))
    h, w = whole.shape[:2]
    y0, x0, y1, x1 = region = (h // 3, w // 4, h // 3 + 37, w // 4 + 21)
    part = job_of(mpp_out, region=region)
    assert len(part.blocks) < len(job_of(mpp_out).blocks)
    np.testing.assert_array_equal(render_region(part), whole[y0:y1, x0:x1])


def test_the_same_pixel_size_changes_nothing():
    job = job_of(0.5)
    assert job.output is None and job.facts == toy_job().facts and job.shown == job.region


def test_the_slide_says_that_it_was_resampled(tmp_path):
    render(job_of(0.25, region=(10, 20, 110, 220)), tmp_path / "a.ome.tif")
    with OpenSlide(tmp_path / "a.ome.tif") as slide:
        assert slide.dimensions == (200, 100)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25)
        text = slide.properties["openslide.comment"]
    assert 'NominalMagnification="40"' in text
    with open_slide(tmp_path / "a.ome.tif") as slide:
        told = facts_of(slide.description)["resampled"]
    assert told == {
        **{"from mpp": 0.5, "to mpp": 0.25, "kernel": "Lanczos 3"},
        "region": [10, 20, 110, 220],
    }
    assert "painted at 0.5 mpp" in job_of(0.25).report()[0]


def test_pipelines_find_the_objective_power_of_an_enlarged_slide(tmp_path):
    render(job_of(0.25), tmp_path / "a.svs")
    with OpenSlide(tmp_path / "a.svs") as slide:
        assert slide.properties["openslide.objective-power"] == "40"
        assert float(slide.properties["openslide.mpp-x"]) == 0.25


def test_without_a_size_the_margin_is_in_pixels_of_the_slide():
    nuclei = toy_job().nuclei
    at_half, at_quarter = (
        plan_render(nuclei, ToyPainter(), mpp_out=mpp_out).shown for mpp_out in (None, 0.25)
    )
    for half, quarter in zip(at_half[2:], at_quarter[2:], strict=True):
        assert abs((quarter - 32) - 2 * (half - 32)) <= 2  # extents are rounded up


@pytest.mark.parametrize("mpp_out", [0, -1, 0.06, 4.1, float("nan")])
def test_pixel_sizes_far_from_the_painters_are_refused(mpp_out):
    with pytest.raises(PlanError, match="give a `mpp_out` of 0.0625 to 4"):
        plan_render(no_nuclei(), ToyPainter(), size=(8, 8), mpp_out=mpp_out)


def test_another_output_is_another_job():
    job = job_of(0.25)
    other = replace(job, output=Output(0.25, (0, 0, 10, 10)))
    assert len({json.dumps(j.facts) for j in (job, other, toy_job())}) == 3


def test_annotations_at_40x_get_a_slide_at_40x_with_their_own_coordinates(
    annotations, weights, tmp_path
):
    """`render --like` the slide of the annotations: same size, same pixel size, same nuclei."""
    like, out = tmp_path / "like.tif", tmp_path / "twin.ome.tif"
    pixels = np.full((300, 401, 3), 200, np.uint8)
    tifffile.imwrite(
        *(like, pixels),
        tile=(64, 64),
        photometric="rgb",
        resolution=(40000, 40000),
        resolutionunit="CENTIMETER",
    )
    command = ["render", annotations, "--like", like, "--mpp-out", 0.25, "-o", out]
    command += ["--weights", weights, "--steps", 2, "--device", "cpu"]
    result = CliRunner().invoke(main, [str(a) for a in command])
    assert result.exit_code == 0, result.output
    assert "401 x 300 pixels at 0.25 mpp (painted at 0.5)" in result.output
    with open_slide(out) as slide:
        assert slide.size == (300, 401) and slide.mpp == pytest.approx(0.25)
    own, written = (
        read_geojson(annotations, mpp=0.25),
        read_geojson(tmp_path / "twin.geojson", mpp=0.25),
    )
    np.testing.assert_allclose(written.coords, own.coords, atol=0.006)

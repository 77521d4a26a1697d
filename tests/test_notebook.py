"""What a notebook shows of slides, nuclei and jobs: the PNGs open and show the thing."""

from __future__ import annotations

import io

import numpy as np
import pytest
import shapely
import toy
from PIL import Image

from nasdm_wsi import Nuclei, open_slide
from nasdm_wsi.annotations.types import PALETTE, TYPES
from nasdm_wsi.slides import ome_tiff
from nasdm_wsi.slides import reading as slides


def opened(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.array(picture)


@pytest.fixture
def slide_path(tmp_path):
    """Four colours in 1000 x 2000 pixels."""
    image = np.empty((1000, 2000, 3), np.uint8)
    image[:500, :1000], image[:500, 1000:] = (200, 0, 0), (0, 200, 0)
    image[500:, :1000], image[500:, 1000:] = (0, 0, 200), (200, 200, 0)
    ome_tiff.write(tmp_path / "slide.tif", image, mpp=0.5, description="", lossless=True)
    return tmp_path / "slide.tif"


def test_a_slide_shows_itself(slide_path):
    with open_slide(slide_path) as slide:
        assert repr(slide) == (
            f"<Slide {slide_path}: 2000 x 1000 pixels at 0.5 mpp, {len(slide.levels)} levels, "
            "generic-tiff>"
        )
        picture = opened(slide._repr_png_())
        assert picture.shape == (256, 512, 3)
        corners = picture[64::128, 128::256].reshape(-1, 3).tolist()
        assert corners == [[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0]]


def test_a_small_image_of_unknown_scale_is_shown_as_it_is(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        assert "unknown mpp, 1 level" in repr(slide)
        np.testing.assert_array_equal(opened(slide._repr_png_()), image)


def test_a_thumbnail_of_unknown_scale_is_reduced_too(tmp_path):
    image = np.full((600, 900, 3), 90, np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        assert (slide.thumbnail(90) == 90).all() and slide.thumbnail(90).shape == (60, 90, 3)


def test_what_cannot_be_shown_in_a_moment_is_told_in_words(slide_path, monkeypatch):
    with open_slide(slide_path) as slide:
        monkeypatch.setattr(slides, "MOST_FOR_A_LOOK", 10)
        assert slide._repr_png_() is None
        monkeypatch.undo()
    assert slide._repr_png_() is None and "2000 x 1000" in repr(slide)  # it is closed now


def test_nuclei_are_drawn_in_the_colours_of_their_types():
    squares = [shapely.box(x, 40, x + 10, 50) for x in range(100, 220, 20)]
    nuclei = Nuclei.from_polygons(squares, range(1, 7), mpp=0.5)
    assert repr(nuclei) == f"<Nuclei: 6 at 0.5 mpp: {', '.join(f'1 {t}' for t in TYPES[1:])}>"
    picture = opened(nuclei._repr_png_())
    assert picture.shape == (47, 512, 3)  # 110 x 10 pixels, enlarged
    at = ((np.arange(110) + 0.5) * 512 / 110).astype(int)
    expected = [PALETTE[k // 20 + 1 if k % 20 < 10 else 0].tolist() for k in range(110)]
    assert picture[23, at].tolist() == expected
    none = Nuclei.from_polygons([], [], mpp=0.5)
    assert none._repr_png_() is None and repr(none) == "<Nuclei: 0 at 0.5 mpp>"


def test_holes_and_the_place_of_nuclei_are_seen_in_their_drawing():
    """Also where they do not begin at zero, and in a picture that is higher than wide."""
    holed = shapely.box(0, 0, 64, 64) - shapely.box(16, 16, 48, 48)
    nuclei = Nuclei.from_polygons([holed, shapely.box(0, 64, 64, 128)], [2, 3], mpp=0.25)
    picture = opened(nuclei.shifted(-300, 5000)._repr_png_())
    assert picture.shape == (512, 256, 3)
    places = {(128, 20): 2, (128, 128): 0, (128, 236): 2, (30, 128): 2, (400, 128): 3}
    assert {at: picture[at].tolist() for at in places} == {
        at: PALETTE[kind].tolist() for at, kind in places.items()
    }


def test_a_job_says_what_it_will_do():
    job = toy.toy_job()
    h, w = job.plan.size
    what = f"{w} x {h} pixels at {job.painter.mpp} mpp, {len(job.nuclei):,} nuclei"
    assert repr(job) == f"<Job: {what}, seed {job.seed}>"

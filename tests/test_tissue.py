"""The stain of a picture is that of its tissue, whatever else it shows."""

import logging
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage.color import rgb_from_hed

from nasdm_wsi.errors import SlideError
from nasdm_wsi.model.painter import Painter
from nasdm_wsi.slides.reading import find_style
from nasdm_wsi.slides.stain import STYLES, StainStatistics, style_vector
from nasdm_wsi.slides.tissue import clean_tissue, optical_density, tissue_mask

SIZE = (480, 560)


@cache
def tissue(name: str) -> np.ndarray:
    """A picture with the stain of a named style, uint8 (h, w, 3): blobs of nuclei on fibres."""
    rng = np.random.default_rng(0)
    style = np.array(STYLES[name])
    waves = [ndimage.gaussian_filter(rng.standard_normal(SIZE), s) for s in (3, 2, 1)]
    waves[0] = np.maximum(waves[0], 0)  # nuclei stand out of a ground
    unit = np.stack([(w - w.mean()) / w.std() for w in waves], axis=-1)
    return pixels(np.maximum(style[:3] + unit * style[3:], 0.02) @ rgb_from_hed)


def pixels(density: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(255 * np.exp(-density)), 0, 255).astype(np.uint8)


def stroke(box: tuple[int, int, int, int], colour: tuple[int, int, int], blur: float = 0):
    """Paints an ellipse over a picture; ``blur`` mixes its border with what lies under it."""

    def draw(picture: np.ndarray) -> np.ndarray:
        shape = Image.new("L", SIZE[::-1])
        ImageDraw.Draw(shape).ellipse(box, fill=255)
        over = ndimage.gaussian_filter(np.asarray(shape) / 255, blur)[..., None]
        return np.rint(picture * (1 - over) + np.array(colour) * over).astype(np.uint8)

    return draw


def fold(picture: np.ndarray) -> np.ndarray:
    """Three layers of tissue in a band."""
    folded = optical_density(picture).copy()
    folded[200:260] *= 3
    return pixels(folded)


def dark_corners(picture: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.where((y + x < 150)[..., None], 12, picture).astype(np.uint8)


def coverslip(picture: np.ndarray) -> np.ndarray:
    """A grey line, as the edge of a coverslip shows."""
    picture = picture.copy()
    picture[:, 300:306] = 120
    return picture


SPOILT = {
    "blue ink": stroke((50, 60, 300, 200), (20, 80, 160)),
    "blurred blue ink": stroke((50, 60, 300, 200), (0, 120, 200), blur=2),
    "green ink": stroke((50, 60, 300, 200), (30, 140, 90)),
    "black ink": stroke((50, 60, 300, 200), (40, 34, 36)),
    "black hole": stroke((200, 100, 500, 400), (0, 0, 0)),
    "dark corners": dark_corners,
    "glass": stroke((200, 100, 500, 400), (244, 243, 245)),
    "white": stroke((200, 100, 500, 400), (255, 255, 255)),
    "coverslip": coverslip,
    "fold": fold,
}


@pytest.mark.parametrize("what", SPOILT)
@pytest.mark.parametrize("name", STYLES)
def test_what_is_no_tissue_does_not_change_the_stain(name, what):
    picture = tissue(name)
    assert np.abs(style_vector(SPOILT[what](picture)) - style_vector(picture)).max() < 0.02


@pytest.mark.parametrize("what", SPOILT)
def test_a_style_from_a_file_is_that_of_its_tissue(tmp_path, what):
    for name, picture in (("clean", tissue("lizard")), ("spoilt", SPOILT[what](tissue("lizard")))):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    clean, spoilt = (find_style(str(tmp_path / f"{name}.png")) for name in ("clean", "spoilt"))
    assert np.abs(clean - spoilt).max() < 0.04  # of other tiles


@pytest.mark.parametrize("name", STYLES)
def test_all_of_an_ordinary_picture_counts(name):
    """So that networks trained before keep the meaning of their styles."""
    picture = tissue(name)
    stained = optical_density(picture).mean(-1) > 0.12
    assert np.array_equal(clean_tissue(picture), stained)
    assert (tissue_mask(picture) == stained).mean() > 0.999
    whole, parts = StainStatistics.of(picture), StainStatistics.of(picture.reshape(-1, 3))
    np.testing.assert_allclose(whole.style, parts.style, atol=1e-3)


def test_a_file_without_tissue_is_one_line(tmp_path):
    path = tmp_path / "ink.png"
    Image.fromarray(SPOILT["blue ink"](np.full((*SIZE, 3), 245, np.uint8))).save(path)
    with pytest.raises(SlideError, match=r"^[^\n]*ink.png: no tissue[^\n]*$"):
        find_style(str(path))


# Holding a style within what the network saw


@pytest.mark.parametrize("name", STYLES)
def test_a_style_within_the_range_is_untouched_and_silent(name, caplog):
    np.testing.assert_array_equal(Painter(device="cpu", style=name).style, find_style(name))
    assert not caplog.records


def test_an_absurd_style_is_held_and_said(caplog):
    painter = Painter(device="cpu", style=np.array([0.4, -0.34, 0.58, -0.1, 0.1, 9]))
    mean, spread = painter.network.style_mean.numpy(), painter.network.style_std.numpy()
    assert (np.abs(painter.style - mean) <= 2.76 * spread).all()
    assert (painter.style[3:] > 0).all() and painter.style[4] == np.float32(0.1)
    assert painter.facts["style"] == [round(float(v), 4) for v in painter.style]
    (record,) = caplog.records
    said = record.getMessage()
    assert record.levelno == logging.WARNING and "\n" not in said
    assert "eosin from -0.34 to 0.12, residual colour from 0.58 to 0.35" in said
    assert "haematoxylin from 0.40 to 0.56" in said  # it takes over what the residual loses
    assert "variation of residual colour from 9.00 to" in said
    assert "variation of eosin" not in said


def test_a_slide_far_from_training_is_held_when_a_painter_is_restyled(tmp_path, caplog):
    Image.fromarray(pixels(2.5 * optical_density(tissue("deep")))).save(tmp_path / "thick.png")
    painter = Painter(device="cpu")
    assert not caplog.records
    held = painter.restyled(tmp_path / "thick.png")
    assert len(caplog.records) == 1
    assert (held.style < find_style(str(tmp_path / "thick.png"))).any()

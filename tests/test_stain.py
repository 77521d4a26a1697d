import numpy as np
import pytest
from skimage.color import hed_from_rgb

from nasdm_wsi.errors import SlideError
from nasdm_wsi.stain import StainStatistics, optical_density, restain, style_vector

RNG = np.random.default_rng(0)
PICTURE = np.clip(RNG.normal([180, 120, 180], 25, (64, 64, 3)), 60, 250).astype(np.uint8)


def test_style_is_mean_and_deviation_of_the_stain_amounts():
    amounts = -np.log(PICTURE.reshape(-1, 3) / 255) @ hed_from_rgb
    expected = [*amounts.mean(0), *amounts.std(0, ddof=1)]
    np.testing.assert_allclose(style_vector(PICTURE), expected, rtol=0.02, atol=0.01)


def test_statistics_follow_a_change_of_stain_without_looking_at_pixels():
    matrix = np.diag([1.2, 0.85, 1.1]) + 0.03 * (1 - np.eye(3))
    predicted = StainStatistics.of(PICTURE).restained(matrix).style
    measured = style_vector(restain(PICTURE, matrix))
    np.testing.assert_allclose(measured, predicted, atol=0.01)


def test_restaining_keeps_glass_white_and_does_nothing_with_identity():
    assert (restain(np.full((4, 4, 3), 255, np.uint8), np.diag([2, 0.5, 1])) == 255).all()
    np.testing.assert_array_equal(restain(PICTURE, np.eye(3)), PICTURE)


def test_glass_does_not_count_and_black_is_finite():
    glass = np.full((64, 64, 3), 250, np.uint8)
    np.testing.assert_allclose(
        style_vector(np.concatenate([PICTURE, glass])), style_vector(PICTURE)
    )
    with pytest.raises(SlideError, match="no tissue"):
        style_vector(glass)
    assert np.isfinite(optical_density(np.zeros((1, 3), np.uint8))).all()

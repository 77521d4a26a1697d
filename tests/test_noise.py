import hashlib

import numpy as np
from scipy import stats

from nasdm_wsi.geometry import inside, intersect
from nasdm_wsi.mosaic.noise import noise


def test_a_pixel_has_the_same_noise_in_every_box():
    a, b = (-40, 100, 200, 330), (60, 90, 130, 300)
    common = intersect(a, b)
    np.testing.assert_array_equal(
        noise(a, seed=5)[:, *inside(common, a)], noise(b, seed=5)[:, *inside(common, b)]
    )


def test_noise_is_white_and_gaussian():
    values = noise((0, 0, 384, 384), seed=1).astype(float)
    assert stats.kstest(values.ravel(), "norm").pvalue > 1e-3
    flat = values - values.mean()
    for shift in [(0, 1, 0), (0, 0, 1), (0, 128, 0), (0, 0, 128), (1, 0, 0)]:
        assert abs((flat * np.roll(flat, shift, (0, 1, 2))).mean()) < 0.01


def test_seeds_differ():
    box = (0, 0, 64, 64)
    assert not np.array_equal(noise(box, seed=1), noise(box, seed=2))
    np.testing.assert_array_equal(noise(box, seed=2**64 - 1), noise(box, seed=2**64 - 1))


def test_each_step_has_noise_of_its_own_at_each_place():
    a, b = (-40, 100, 90, 330), (20, 90, 130, 300)
    common = intersect(a, b)
    draws = [noise(a, seed=5, step=step)[:, *inside(common, a)] for step in (None, 0, 1, 999)]
    for step, draw in zip((None, 0, 1, 999), draws, strict=True):
        there = noise(b, seed=5, step=step)[:, *inside(common, b)]
        np.testing.assert_array_equal(draw, there)
    assert np.abs(np.corrcoef([draw.ravel() for draw in draws]) - np.eye(4)).max() < 0.02


def test_noise_is_that_of_earlier_versions():
    """Slides of the same seed stay the same."""
    values = noise((-3, 125, 5, 133), seed=7)
    assert hashlib.sha256(values.tobytes()).hexdigest()[:16] == "3cd6265ea0dcd4b5"
    np.testing.assert_allclose(values[:, 0, 0], [1.80303, 0.104338, -0.621984], atol=1e-6)

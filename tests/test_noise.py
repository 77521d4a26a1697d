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

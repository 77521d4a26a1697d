from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
from skimage.color import hed_from_rgb, rgb2lab, rgb_from_hed
from skimage.io import imread

from nasdm_wsi.errors import SlideError
from nasdm_wsi.slides import stain
from nasdm_wsi.slides.stain import (
    StainStatistics,
    fit_stains,
    normalise,
    optical_density,
    restain,
    staintools_vahadane,
    style_vector,
    vahadane,
)

CONSEP = Path(__file__).parents[2] / "shared" / "data" / "consep-20x" / "images"
RNG = np.random.default_rng(0)
AMOUNTS = np.maximum(RNG.normal([0.5, 0.35, 0.1], [0.15, 0.08, 0.03], (64, 64, 3)), 0)
PICTURE = np.rint(255 * np.exp(-AMOUNTS @ rgb_from_hed)).astype(np.uint8)


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


def stained_pixels(vectors, strengths=(1.0, 0.8), n=20_000, seed=0):
    """Pixels of two stains of which each takes its turn, with a little noise."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(2, 0.3, (n, 2)) * strengths * (rng.random((n, 2)) < 0.6)
    density = amounts @ vectors + rng.normal(0, 0.005, (n, 3))
    return np.clip(np.rint(255 * np.exp(-density)), 0, 255).astype(np.uint8)


def degrees(a, b):
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))


def unit(*rows):
    rows = np.array(rows, float)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


PURPLE_PINK = unit((0.60, 0.72, 0.35), (0.10, 0.95, 0.28))
BLUE_RED = unit((0.75, 0.60, 0.20), (0.20, 0.80, 0.55))


@pytest.mark.parametrize("vectors", [PURPLE_PINK, BLUE_RED])
def test_vahadane_finds_the_stains_that_were_mixed(vectors):
    found = vahadane(stained_pixels(vectors), sparsity=0.02)
    assert degrees(found, vectors).max() < 1
    assert (found >= 0).all() and np.linalg.norm(found, axis=1) == pytest.approx([1, 1])


def test_amounts_are_those_of_a_bounded_solver():
    density = np.random.default_rng(0).gamma(2, 0.3, (200, 3))
    for vectors in (PURPLE_PINK, BLUE_RED):
        found = stain._amounts(density, vectors, 0.1)
        for x, amounts in zip(density, found, strict=True):

            def cost(h, x=x, vectors=vectors):
                return ((x - h @ vectors) ** 2).sum() / 2 + 0.1 * h.sum()

            best = scipy.optimize.minimize(cost, (0.1, 0.1), bounds=[(0, None)] * 2, tol=1e-12)
            assert cost(amounts) <= best.fun + 1e-9


def test_normalising_gives_the_stains_of_the_target_and_keeps_white_and_the_input():
    pixels, target = stained_pixels(PURPLE_PINK), stained_pixels(BLUE_RED, (0.6, 1.1), seed=1)
    pixels[:5], target[:4000] = 255, 0  # white stays, and black is no stain
    before = pixels.copy()
    extract = partial(vahadane, sparsity=0.02)  # more draws the two vectors together
    a, b = (fit_stains(p, extract=extract) for p in (pixels, target))
    repainted = normalise(pixels, source=a, target=b)
    np.testing.assert_array_equal(pixels, before)
    assert (repainted[:5] >= 254).all()
    c = fit_stains(repainted, extract=extract)
    assert degrees(c.vectors, b.vectors).max() < 2
    np.testing.assert_allclose(c.strengths, b.strengths, rtol=0.1)
    with pytest.raises(SlideError, match="no tissue"):
        fit_stains(np.full((100, 100, 3), 250, np.uint8), extract=vahadane)


@pytest.mark.filterwarnings("ignore")
def test_vectors_lie_near_those_of_staintools():
    pytest.importorskip("staintools", exc_type=ImportError)
    for vectors in (PURPLE_PINK, BLUE_RED):
        pixels = stained_pixels(vectors)
        assert degrees(staintools_vahadane(pixels), vahadane(pixels)).max() < 2
    for real in CONSEP.glob("train_[1389].png"):
        pixels = imread(real)[..., :3].reshape(-1, 3)
        pixels = pixels[rgb2lab(pixels)[:, 0] < 79]  # staintools leaves out what is lighter
        assert degrees(staintools_vahadane(pixels), vahadane(pixels)).max() < 2

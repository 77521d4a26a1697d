"""What an edit paints is matched to the slide: stain, sharpness and grain."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from PIL import Image
from scipy import ndimage

from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.editing.edit import plan_edit
from nasdm_wsi.editing.matching import matched, split
from nasdm_wsi.geometry import inside
from nasdm_wsi.model import Painter

SIZE = (260, 300)
BOX = (60, 80, 190, 230)  # that is edited


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A slide with grain, as a file and an array."""
    noise = np.random.default_rng(0).normal(0, 25, (*SIZE, 3))
    grain = ndimage.gaussian_filter(noise, (1, 1, 0))
    picture = np.clip(np.array([215, 160, 200]) + grain, 0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("slide") / "s.png"
    Image.fromarray(picture).save(path)
    return path, picture


@pytest.fixture(scope="module")
def planned(slide, fitting_weights):
    """Plan an edit of a box, of a slide without nuclei or with some."""
    painter = Painter(fitting_weights, steps=1, device="cpu")

    def plan(outlines=(), box=BOX):
        y0, x0, y1, x1 = box
        nuclei = Nuclei.from_polygons(outlines, np.full(len(outlines), 2), mpp=0.5)
        return plan_edit(slide[0], nuclei, shapely.box(x0, y0, x1, y1), painter, mpp=0.5)

    return plan


def soft_and_pale(picture, box=BOX):
    """As networks paint: in a box the picture is blurred, and absorbs 7 % less light."""
    at, out = inside(box, (0, 0, *SIZE)), picture.astype(float)
    soft = ndimage.gaussian_filter(out, (0.6, 0.6, 0))[at]
    out[at] = 256 * ((soft + 1) / 256) ** 0.93 - 1
    return np.rint(np.clip(out, 0, 255)).astype(np.uint8)


def powers(picture):
    """Of the three bands, inside the box."""
    y0, x0, y1, x1 = BOX
    core = np.s_[y0 + 8 : y1 - 8, x0 + 8 : x1 - 8]
    return np.array([(band[core] ** 2).mean() for band in split(picture.astype(float))[:-1]])


def reader(picture):
    return lambda box: picture[inside(box, (0, 0, *SIZE))]


def test_stain_and_sharpness_become_those_of_the_slide(slide, planned):
    _, source = slide
    painted = soft_and_pale(source)
    pixels, match = matched(planned(), reader(painted))
    after = pixels((0, 0, *SIZE))
    assert powers(painted)[0] < 0.7 * powers(source)[0]
    np.testing.assert_allclose(powers(after) / powers(source), 1, atol=0.2)
    at = inside((70, 90, 180, 220), (0, 0, *SIZE))
    off = [np.abs(p[at].mean((0, 1)) - source[at].mean((0, 1))).max() for p in (painted, after)]
    assert off[0] > 4 and off[1] < 0.5 * off[0]
    assert all(factor > 1.02 for factor in (*match.stain, match.bands[0]))


def test_what_is_known_stays_and_every_box_has_the_same_pixels(slide, planned):
    job = planned()
    pixels, _ = matched(job, reader(soft_and_pale(slide[1])))
    whole = pixels((0, 0, *SIZE))
    known = job.known.mask((0, 0, *SIZE))
    np.testing.assert_array_equal(whole[known], slide[1][known])
    for box in ((0, 0, 100, 300), (100, 90, 131, 117), (180, 220, 260, 300), (0, 0, 9, 9)):
        np.testing.assert_array_equal(pixels(box), reader(whole)(box))


def test_removed_nuclei_do_not_stain_the_tissue(slide, planned):
    """The slide shows dark nuclei where the edit shows none: that is no difference in stain."""
    plain = np.full((*SIZE, 3), [225, 160, 200], np.uint8)
    path, before = slide[0].with_name("n.png"), plain.copy()
    outlines = shapely.buffer(shapely.points(np.mgrid[95:220:22, 75:180:22].reshape(2, -1).T), 7)
    job = planned()
    for polygon in outlines:
        x, y = (round(n) for n in (polygon.centroid.x, polygon.centroid.y))
        before[y - 7 : y + 8, x - 7 : x + 8] = [90, 50, 140]
    Image.fromarray(before).save(path)
    nuclei = Nuclei.from_polygons(outlines[:0], [], mpp=0.5)
    job = plan_edit(path, nuclei, shapely.box(80, 60, 230, 190), job.painter, mpp=0.5)
    _, told = matched(job, reader(plain), gone=shapely.buffer(outlines, 3))
    _, untold = matched(job, reader(plain))
    np.testing.assert_allclose(told.stain, 1, atol=0.01)
    assert max(untold.stain) > 1.05


def test_a_small_area_is_trusted_little(slide, planned):
    box = (100, 100, 118, 118)
    _, match = matched(planned(box=box), reader(soft_and_pale(slide[1], box)))
    _, large = matched(planned(), reader(soft_and_pale(slide[1])))
    assert 1 < match.bands[0] < 1 + 0.5 * (large.bands[0] - 1)
    nowhere = planned([shapely.box(80, 80, 140, 140)], box)
    assert set(matched(nowhere, reader(slide[1]))[1].bands) == {1.0}  # nothing but a nucleus

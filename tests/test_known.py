"""Known pixels: they are kept, and the rest is painted to fit them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shapely
import toy
from helpers import tissue

from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Cover
from nasdm_wsi.errors import PlanError
from nasdm_wsi.geometry import inside
from nasdm_wsi.job import PIXELS, PIXELS_KNOWN, Window
from nasdm_wsi.model import Painter
from nasdm_wsi.model.pixels import to_signal
from nasdm_wsi.mosaic.engine import Mosaic
from nasdm_wsi.mosaic.noise import noise
from nasdm_wsi.mosaic.store import open_run
from nasdm_wsi.mosaic.workers import worker_pool
from nasdm_wsi.rendering import plan_render

SIZE = (203, 301)
# Two places that are not known: one across block lines, one small and far away.
AREA = shapely.MultiPolygon([shapely.box(50, 40, 91, 83), shapely.box(265, 180, 274, 187)])


class Picture:
    """A picture in memory that is known outside an area."""

    def __init__(self, pixels, area):
        self.whole, self.cover = pixels, Cover(area)

    def mask(self, box):
        return ~self.cover.mask(box)

    def pixels(self, box):
        padded = np.pad(self.whole, ((64, 64), (64, 64), (0, 0)), constant_values=255)
        return padded[inside(box, (-64, -64, *SIZE))]

    def finished(self, box, painted):
        return np.where(self.mask(box)[..., None], self.pixels(box), painted)

    facts = {"picture": "waves"}


@pytest.fixture(scope="module")
def painter(fitting_weights):
    return Painter(fitting_weights, steps=3, device="cpu")


@pytest.fixture(scope="module")
def job(painter):
    """Nuclei everywhere, on a picture with two holes, in small blocks."""
    centres = np.random.default_rng(0).uniform(0, SIZE[::-1], (80, 2))
    discs = shapely.buffer(shapely.points(centres), 5)
    nuclei = Nuclei.from_polygons(discs, np.arange(80) % 6 + 1, mpp=0.5)
    planned = plan_render(nuclei, painter, size=SIZE, seed=3)
    return replace(toy.cut_up(planned, 64), known=Picture(tissue(*SIZE), AREA))


@pytest.fixture(scope="module")
def edited(job, tmp_path_factory):
    return toy.painted(tmp_path_factory.mktemp("edited") / "run", job)


def test_known_pixels_stay_and_others_are_painted(job, edited):
    known = job.known.mask((0, 0, *SIZE))
    np.testing.assert_array_equal(edited[known], job.known.whole[known])
    away = np.abs(edited[~known].astype(int) - job.known.whole[~known])
    assert away.mean() > 10 and edited[~known].std() > 3


def test_unknown_pixels_are_those_of_the_whole_canvas_in_one_window(job, painter, edited):
    """The oracle knows neither blocks nor what can be left out."""
    box = job.plan.bounds
    unit = noise(box, seed=job.seed)
    state = painter.start(unit)
    planes, all_tissue = job.planes(box), np.ones(unit.shape[1:], bool)
    for steps in job.plan.phases:
        window = Window(box, box, state, planes, all_tissue, lambda step: unit)
        (state,) = painter.solve(steps, [window])
    whole = painter.finish(state)[inside((0, 0, *SIZE), box)]
    assert np.abs(whole.astype(int) - edited).max() <= 1


def test_the_planes_of_known_pixels_are_those_of_training(job):
    box = (30, 40, 110, 120)
    planes = dict(zip(job.painter.planes, job.planes(box), strict=True))
    mask, signal = job.known.mask(box), to_signal(job.known.pixels(box))
    assert 0 < mask.mean() < 1
    np.testing.assert_array_equal(planes[PIXELS_KNOWN], mask)
    for name, channel in zip(PIXELS[1:], signal, strict=True):
        np.testing.assert_array_equal(planes[name], channel * mask)
    plain = dict(zip(job.painter.planes, replace(job, known=None).planes(box), strict=True))
    assert not any(plain[name].any() for name in PIXELS)
    others = [name for name in plain if name not in PIXELS]
    assert all(np.array_equal(plain[name], planes[name]) for name in others)


def test_workers_and_regions_do_not_change_a_byte(job, edited, tmp_path):
    threads = toy.painted(tmp_path / "threads", job, threads=3)
    np.testing.assert_array_equal(threads, edited)
    y0, x0, y1, x1 = region = (60, 20, 100, 170)
    alone = toy.painted(tmp_path / "alone", replace(job, region=region))
    np.testing.assert_array_equal(alone, edited[y0:y1, x0:x1])


def test_what_is_known_is_not_computed(job, tmp_path):
    """Two blocks a side hold the large hole and one the small one; windows are as small."""
    windows = []

    class Watching(Painter):
        def solve(self, steps, given):
            windows.extend((steps, window.box) for window in given)
            return super().solve(steps, given)

    watching = Watching(job.painter.weights, steps=3, device="cpu")
    with open_run(tmp_path / "run", {"run": "test"}) as store:
        mosaic = Mosaic(replace(job, painter=watching), store)
        with worker_pool(mosaic, workers=1) as pool:
            mosaic.paint(pool)
        blocks = len(list((store.folder / "pixels").glob("*/*")))
    assert blocks == 4 + 1 and len(windows) == 3 * blocks
    small = [box for _, box in windows if box[1] > 200]
    margin = job.plan.margin
    grid = job.plan.grid
    assert all(y1 - y0 <= 2 * margin + 2 * grid + 7 for y0, _, y1, _ in small)


def test_a_picture_all_of_which_is_known_stays_and_nothing_is_an_error(job, tmp_path):
    nowhere = Picture(job.known.whole, shapely.box(400, 400, 410, 410))
    same = toy.painted(tmp_path / "run", replace(job, known=nowhere))
    np.testing.assert_array_equal(same, job.known.whole)


def test_what_is_known_is_part_of_the_identity(job):
    assert job.facts["known"] == {"picture": "waves"}
    assert "known" not in replace(job, known=None).facts


def test_weights_that_take_no_known_pixels_are_refused(job, weights):
    other = plan_render(job.nuclei, Painter(weights, device="cpu"), size=SIZE)
    with pytest.raises(PlanError, match="pixels known"):
        replace(other, known=job.known)

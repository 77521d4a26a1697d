from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdm_wsi.errors import PlanError
from nasdm_wsi.geometry import (
    Plan,
    cells_in,
    grow,
    inside,
    intersect,
    shape,
    square_box,
    squares_of,
)

sizes = st.tuples(st.integers(1, 90), st.integers(1, 90))
plans = st.one_of(
    st.builds(
        lambda size, margin: Plan(size, 24, 8 * margin, 0, 1, ((0, 1),), grid=8),
        sizes,
        st.integers(0, 3),
    ),
    st.builds(
        lambda size, margin, windows: Plan(size, 12, margin, margin, windows, ((0, 1),)),
        sizes,
        st.integers(1, 6),
        st.integers(1, 3),
    ),
)


corners = st.integers(-70, 70)
boxes = st.tuples(corners, corners, st.integers(1, 60), st.integers(1, 60)).map(
    lambda n: (n[0], n[1], n[0] + n[2], n[1] + n[3])
)


@given(boxes, st.integers(1, 40))
def test_the_squares_of_a_box_cover_it_once_and_none_lies_beside_it(box, side):
    seen = np.zeros(shape(box), int)
    for place in cells_in(squares_of(box, side)):
        part = intersect(square_box(place, side), box)
        assert min(shape(part)) > 0
        seen[inside(part, box)] += 1
    assert (seen == 1).all()


def all_blocks(plan):
    return cells_in((0, 0, *plan.blocks))


@given(plans)
def test_weights_of_all_windows_sum_to_one(plan):
    total = np.zeros(shape(plan.bounds))
    for block in all_blocks(plan):
        for core in plan.cores(block):
            window = plan.window(core)
            total[inside(window, plan.bounds)] += plan.weight(core)
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(plans)
def test_every_slide_pixel_is_owned_once_and_every_part_lies_within_its_windows(plan):
    owned = np.zeros(plan.size, int)
    for block in all_blocks(plan):
        y0, x0, y1, x1 = plan.owned(block)
        owned[y0:y1, x0:x1] += 1
        part, view = plan.part(block), plan.view(block)
        assert intersect(part, view) == part
    assert (owned == 1).all()


@given(plans)
def test_sources_are_the_blocks_whose_parts_meet_the_box(plan):
    for block in all_blocks(plan):
        box = plan.view(block)
        meets = [b for b in all_blocks(plan) if min(shape(intersect(plan.part(b), box))) > 0]
        assert cells_in(plan.sources(box)) == meets
        assert len(meets) <= 9


@given(plans)
def test_windows_keep_to_the_grid_and_tapered_ones_to_one_size(plan):
    windows = [plan.window(c) for b in all_blocks(plan) for c in plan.cores(b)]
    assert all(n % plan.grid == 0 for window in windows for n in window)
    if plan.taper:
        assert {shape(w) for w in windows} == {(12 + 2 * plan.margin,) * 2}


@given(plans, st.data())
def test_blocks_of_a_region_are_those_that_own_its_pixels(plan, data):
    y = sorted(data.draw(st.lists(st.integers(0, plan.size[0]), min_size=2, max_size=2)))
    x = sorted(data.draw(st.lists(st.integers(0, plan.size[1]), min_size=2, max_size=2)))
    region = (y[0], x[0], y[1], x[1])
    if min(shape(region)) == 0:
        return
    owners = [b for b in all_blocks(plan) if min(shape(intersect(plan.owned(b), region))) > 0]
    assert cells_in(plan.blocks_of(region)) == owners


@given(plans, st.data())
def test_needed_are_the_blocks_within_reach_of_the_region(plan, data):
    """Phase by phase outwards, a pixel's value depends on pixels up to `reach` away."""
    y, x = data.draw(st.integers(0, plan.size[0] - 1)), data.draw(st.integers(0, plan.size[1] - 1))
    plan = replace(plan, phases=((0, 1),) * 4)
    if not plan.taper:
        plan = replace(plan, reach=data.draw(st.integers(0, plan.margin)))
    box = (y, x, y + 1, x + 1)
    for cells in reversed(plan.needed(box)):
        meets = [b for b in all_blocks(plan) if min(shape(intersect(plan.part(b), box))) > 0]
        assert cells_in(cells) == meets
        if plan.taper:  # all that the blocks' windows see
            views = np.array([plan.view(block) for block in meets])
            box = (*views[:, :2].min(0).tolist(), *views[:, 2:].max(0).tolist())
        else:
            box = intersect(grow(box, plan.reach), plan.bounds)


@pytest.mark.parametrize(
    "change", [{"size": (0, 5)}, {"taper": 3}, {"stride": 20}, {"margin": 64}, {"margin": 4}]
)
def test_impossible_plans_are_refused(change):
    plan = {"size": (64, 64), "stride": 24, "margin": 8, "taper": 0, "windows": 1, "grid": 8}
    with pytest.raises(PlanError):
        Plan(**{**plan, **change}, phases=((0, 1),))

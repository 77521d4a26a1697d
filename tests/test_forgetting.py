"""Conditions that are told in part, and what is forgotten of them."""

import pytest
import torch

from nasdm_wsi.annotations.types import PLANES
from nasdm_wsi.model.diffusion import Condition
from nasdm_wsi.model.planes import ALL_PLANES, PIXELS, REGIONS, REGIONS_KNOWN
from nasdm_wsi.model.training.forgetting import known_pixels, random_boxes, told_regions

SIDE, COUNT = 32, 400


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_boxes_are_rectangles_of_many_sizes(generator):
    boxes = random_boxes(COUNT, SIDE, generator)[:, 0]
    rows, columns = boxes.amax(2), boxes.amax(1)
    assert torch.equal(boxes, rows[:, :, None] * columns[:, None, :])
    for side in (rows, columns):
        assert (side.diff(dim=1).abs().sum(1) <= 2).all()  # in one piece
        assert side.sum(1).min() < 8 and side.sum(1).max() > 24


def test_regions_are_told_as_they_are_or_not_at_all(generator):
    """All pictures together: none, whole, by class and in boxes, and the last plane says where."""
    classes = torch.randint(len(REGIONS) + 1, (COUNT, 1, SIDE, SIDE), generator=generator)
    regions = torch.cat([classes == k + 1 for k in range(len(REGIONS))], dim=1).float()
    told = told_regions(regions, generator)
    shown, known = told[:, :-1], told[:, -1:]
    assert torch.equal(shown.sum(1, keepdim=True), known)
    assert torch.equal(shown, regions * known)
    share = known.mean((1, 2, 3)) / regions.sum(1).mean((1, 2))
    assert 0.25 < (share == 0).float().mean() < 0.5
    assert 0.2 < (share == 1).float().mean() < 0.45


def test_known_pixels_are_the_picture_where_they_are_known(generator):
    pixels = torch.randn(COUNT, 3, SIDE, SIDE, generator=generator)
    planes = known_pixels(pixels, generator)
    known = planes[:, :1]
    assert torch.equal(planes[:, 1:], pixels * known)
    given = known.amax((1, 2, 3)) > 0
    assert 0.15 < given.float().mean() < 0.35
    assert 0.1 < known[given].mean() < 0.9


def test_forgetting_keeps_known_pixels_and_widening_leaves_the_rest_unknown():
    """A sample that is forgotten shows its known pixels and its style, and nothing else."""
    planes = torch.rand(2, len(PLANES), 4, 4)
    condition = Condition(planes, torch.rand(2, 6)).widened(ALL_PLANES)
    assert torch.equal(condition.pick(*PLANES), planes)
    assert not condition.pick(*REGIONS, REGIONS_KNOWN, *PIXELS).any()

    everything = Condition(torch.rand(2, len(ALL_PLANES), 4, 4) + 1, condition.style, ALL_PLANES)
    left = everything.drop(torch.tensor([True, False]))
    names = ALL_PLANES[: -len(PIXELS)]
    assert not left.pick(*names)[0].any() and torch.equal(left.planes[1], everything.planes[1])
    assert torch.equal(left.pick(*PIXELS), everything.pick(*PIXELS))
    null = everything.null()
    assert torch.equal(null.pick(*PIXELS), everything.pick(*PIXELS)) and not null.pick(*names).any()
    assert torch.equal(null.style, everything.style)

"""The weights in the package, as a user meets them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.errors import CheckpointError
from nasdm_wsi.model import Painter
from nasdm_wsi.model.evaluation.agreement import Agreement, Reading
from nasdm_wsi.model.evaluation.segmenter import load
from nasdm_wsi.model.training.critic import grid_pattern
from nasdm_wsi.rendering import plan_render, read_annotations, render_region
from nasdm_wsi.slides.reading import find_style
from nasdm_wsi.slides.stain import STYLES, style_vector

EXAMPLE = Path(__file__).parents[1] / "examples" / "annotations.geojson"
SIZE = (256, 320)


@pytest.fixture(scope="module")
def nuclei():
    """Crypts and the stroma between them."""
    moved = read_annotations(EXAMPLE, mpp=0.5).shifted(-640, -700)
    return moved.within((0, 0, *SIZE))


def painted(nuclei, *, seed=0, **painting):
    painter = Painter(device="cpu", **painting)
    return render_region(plan_render(nuclei, painter, size=SIZE, seed=seed))


def test_nuclei_stand_where_the_annotations_say_and_hardly_elsewhere(nuclei):
    """Over four seeds, whose spots that are nuclei lie between 0.69 and 0.82, 0.75 in the mean."""
    instances, types = Conditioning(nuclei, SIZE).labels((0, 0, *SIZE))
    agreement, elsewhere, reading = Agreement(), Agreement(), Reading(load())
    for seed in range(4):
        picture = painted(nuclei, seed=seed)
        agreement.add(picture, instances, types)
        reading.add(picture, instances, types)
        elsewhere.add(np.roll(picture, 60, axis=(0, 1)), instances, types)
    assert agreement.figures()["nuclei that are dark"] > 0.95
    assert agreement.figures()["dark spots that are nuclei"] > 0.7
    assert elsewhere.figures()["nuclei that are dark"] < 0.6
    assert reading.figures()["detection F1"] > 0.7
    assert reading.figures()["detected nuclei of the right type"] > 0.7


def test_each_step_of_the_shipped_model_is_one_evaluation(nuclei):
    painter, calls = Painter(device="cpu"), []
    painter.network.register_forward_hook(lambda *_: calls.append(1))
    render_region(plan_render(nuclei, painter, size=SIZE))
    assert len(calls) == painter.facts["steps"] == 4


@pytest.mark.parametrize("name", ["small", "medium"])
def test_weights_go_by_name_and_leave_no_pixel_lattice(nuclei, name):
    instances, types = Conditioning(nuclei, SIZE).labels((0, 0, *SIZE))
    agreement, picture = Agreement(), painted(nuclei, weights=name)
    agreement.add(picture, instances, types)
    assert Painter(name, device="cpu").facts["steps"] == 4
    assert agreement.figures()["nuclei that are dark"] > 0.95
    assert agreement.figures()["dark spots that are nuclei"] > 0.7
    # Weights without layers at full resolution had more than 0.05.
    assert neighbour_differences(picture).std() < 0.03


def neighbour_differences(picture):
    """Mean difference of neighbours across x by the column modulo 8, over its mean: (8,)."""
    steps = np.abs(np.diff(picture.astype(float), axis=1)).mean(axis=(0, 2))
    by_column = steps[: len(steps) // 8 * 8].reshape(-1, 8).mean(axis=0)
    return by_column / by_column.mean()


def test_weights_that_are_neither_a_file_nor_a_name_are_refused_with_the_names():
    assert Painter("small", device="cpu").facts == Painter(device="cpu").facts
    with pytest.raises(CheckpointError, match="nothing does not exist.*small"):
        Painter("nothing")


def test_another_seed_is_another_picture_of_the_same_nuclei(nuclei):
    a, b = (painted(nuclei, seed=seed) for seed in (1, 2))
    assert np.abs(a.astype(int) - b).mean() > 5


@pytest.mark.parametrize("name", ["pale", "deep", "pink", "purple"])
def test_the_style_asked_for_is_the_style_of_the_picture(nuclei, name):
    """Mean haematoxylin and eosin are nearer to the style asked for than to any other."""
    got = style_vector(painted(nuclei, style=find_style(name)))[:2]
    apart = {other: np.abs(got - find_style(other)[:2]).sum() for other in STYLES}
    assert min(apart, key=apart.__getitem__) == name, apart


def test_no_pattern_follows_the_grid_of_the_network():
    """In grey levels, in the mean of five places, where it shows best: in a deep stain."""
    example = read_annotations(EXAMPLE, mpp=0.5)
    pictures = [
        painted(example.shifted(-y, -x).within((0, 0, *SIZE)), style=find_style("deep"))
        for y, x in ((700, 640), (400, 300), (300, 900), (950, 500), (800, 100))
    ]
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    for cell, most in ((2, 0.5), (8, 0.9)):
        assert mean_pattern(batch, cell) < most**2
        lattice = torch.zeros(cell, cell)
        lattice[: cell // 2] = 2.5
        assert (
            mean_pattern(batch + lattice.repeat(SIZE[0] // cell, SIZE[1] // cell), cell) > most**2
        )


def mean_pattern(batch, cell):
    """Variance that repeats with the cells, in the mean of the pictures (n, 3, h, w)."""
    return torch.stack([grid_pattern(picture[None], cell) for picture in batch]).mean()


def test_the_shipped_weights_load_when_a_nucleus_type_is_added():
    code = (
        "from nasdm_wsi.annotations import types as t; t.TYPES += ('mast',); "
        "t.PLANES = (*t.TYPES[1:], t.EDGE, t.NUCLEI_KNOWN); "
        "from nasdm_wsi.model.checkpoint import SHIPPED, load_weights; "
        "_, header = load_weights(SHIPPED); assert header.planes[:8] == t.PLANES[:6] + t.PLANES[7:]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

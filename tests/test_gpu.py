"""On a GPU: the same contract as on a CPU, and nearly the same pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import toy

from nasdm_wsi.model import Painter
from nasdm_wsi.rendering import plan_render, read_annotations, render_region

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SIZE = (300, 411)


@pytest.fixture(scope="module")
def nuclei(annotations):
    return read_annotations(annotations, mpp=0.25)


def job_of(nuclei, device, *, precision=None, **options):
    painter = Painter(steps=3, device=device, precision=precision)
    job = plan_render(nuclei, painter, size=SIZE, seed=11, **options)
    return toy.cut_up(job, 96)


def test_workers_and_region_do_not_change_a_byte(nuclei):
    whole = render_region(job_of(nuclei, "cuda"), workers=1)
    np.testing.assert_array_equal(render_region(job_of(nuclei, "cuda"), workers=3), whole)
    part = render_region(job_of(nuclei, "cuda", region=(40, 70, 230, 390)))
    np.testing.assert_array_equal(part, whole[40:230, 70:390])


def test_float32_pixels_are_those_of_the_cpu_but_for_rounding(nuclei):
    pixels = [
        render_region(job_of(nuclei, device, precision="float32")).astype(int)
        for device in ("cuda", "cpu")
    ]
    difference = np.abs(pixels[0] - pixels[1])
    assert difference.mean() < 0.1 and difference.max() <= 8


def test_windows_of_the_papers_network_run_in_batches_of_one_size(nuclei, tmp_path):
    from nasdm_wsi.model.checkpoint import save_weights
    from nasdm_wsi.model.config import PRESETS
    from nasdm_wsi.model.families import build

    torch.manual_seed(0)
    save_weights(tmp_path / "a.safetensors", build(PRESETS["nasdm-tiny"].network))
    painter = Painter(tmp_path / "a.safetensors", steps=5, device="cuda")
    assert painter.batch > 1
    job = plan_render(nuclei, painter, size=SIZE, seed=11)
    whole = render_region(job)
    part = render_region(replace(job, region=(40, 70, 230, 390)))
    np.testing.assert_array_equal(part, whole[40:230, 70:390])

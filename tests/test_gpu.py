"""On a GPU: the same contract as on a CPU, and nearly the same pixels."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
import toy

from nasdm_wsi.job import GPU_THREADS, default_workers
from nasdm_wsi.model import Painter
from nasdm_wsi.rendering import plan_render, read_annotations, render, render_region

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


def test_threads_share_a_gpu_by_turns_and_write_the_slide_of_one_thread(nuclei, tmp_path):
    """A new painter: one thread moves it to the GPU and computes, the others prepare and encode."""
    job = job_of(nuclei, "cuda")
    painter, turns = job.painter, Turns()
    painter._on_device = lambda: turns.counted(type(painter)._on_device(painter))
    assert job.threads == min(GPU_THREADS, default_workers())
    render(job, tmp_path / "a.ome.tif", lossless=True)
    whole = render_region(job_of(nuclei, "cuda"), workers=1)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.ome.tif"), whole)
    assert turns.most == 1 and turns.threads > 1 and turns.moved == 1


class Turns:
    """Counts threads that evaluate a network at the same time, and all that ever do."""

    def __init__(self):
        self.inside, self.most, self.moved, self.seen = 0, 0, 0, set()

    @property
    def threads(self):
        return len(self.seen)

    def counted(self, denoise):
        self.moved += 1

        def evaluate(*arguments):
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.seen.add(threading.get_ident())
            try:
                return denoise(*arguments)
            finally:
                self.inside -= 1

        return evaluate


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

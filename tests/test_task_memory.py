"""The memory of the process that gives out tasks, in bytes for each task."""

import tracemalloc

import pytest
from toy import ToyPainter, no_nuclei

from nasdm_wsi.mosaic.engine import Mosaic
from nasdm_wsi.mosaic.store import RunStore
from nasdm_wsi.rendering import plan_render
from nasdm_wsi.slides.pyramid import Pyramid


@pytest.mark.parametrize("side", [512, 1024])
def test_a_task_costs_the_client_a_few_bytes(side, tmp_path):
    """Ten gigapixels in blocks of 512 are a third of a million tasks."""
    job = plan_render(no_nuclei(), ToyPainter(), size=(side, side))
    tracemalloc.start()
    try:
        mosaic = Mosaic(job, RunStore(tmp_path), Pyramid((side, side, 3), tile=64))
        ledger = mosaic.ledger()
        tasks = ledger.left
        while task := ledger.next():
            ledger.finish(task)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tasks > 0.003 * side**2 and peak < 300 * tasks

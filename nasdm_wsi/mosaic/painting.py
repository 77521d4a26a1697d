"""The painting of a job in a run folder, from the first task to the last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..job import Job
from ..slides.pyramid import Pyramid
from .engine import Mosaic
from .store import open_run
from .watch import Progress, Watch
from .workers import Threads, worker_pool

if TYPE_CHECKING:
    from distributed import Client


def run_facts(job: Job, pyramid: Pyramid | None = None) -> dict[str, Any]:
    """Return the facts that determine the bytes in the run folder of a job."""
    return {**job.facts, "encoding": pyramid.encoding if pyramid else "pixels"}


@contextmanager
def painted(
    job: Job,
    folder: Path,
    *,
    pyramid: Pyramid | None = None,
    workers: int | Threads | None = None,
    client: Client | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Iterator[Mosaic]:
    """Paint a job and yield its mosaic; the run ``folder`` is locked while the mosaic is used.

    Complete parts of the same job in the folder are kept, and the remaining tasks are run. The
    other arguments are those of `rendering.render`.

    Raises:
        OutputError: the folder belongs to another job and ``overwrite`` is not given, another
            render is running in it, the disk is full, or the cluster was lost.
    """
    with open_run(folder, run_facts(job, pyramid), overwrite=overwrite) as store:
        store.drop_damaged()
        mosaic = Mosaic(job, store, pyramid)
        with worker_pool(mosaic, workers=workers, client=client) as pool:
            mosaic.paint(pool, progress=Watch(mosaic, progress))
        yield mosaic

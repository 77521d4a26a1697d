"""A job painted from its first task to its last, in a run folder."""

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
from .workers import worker_pool

if TYPE_CHECKING:
    from distributed import Client


def run_facts(job: Job, pyramid: Pyramid | None = None) -> dict[str, Any]:
    """What decides the bytes in the run folder of a job."""
    return {**job.facts, "encoding": pyramid.encoding if pyramid else "pixels"}


@contextmanager
def painted(
    job: Job,
    folder: Path,
    *,
    pyramid: Pyramid | None = None,
    workers: int | None = None,
    client: Client | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Iterator[Mosaic]:
    """The mosaic of a job when all is done; the run ``folder`` is locked as long as it is used.

    What the folder holds of the same job is kept if it is whole, and the rest is done. The other
    arguments are those of `rendering.render`.

    Raises:
        OutputError: the folder belongs to another job and ``overwrite`` is not given, another
            render is at work in it, the disk is full, or the cluster was lost.
    """
    with open_run(folder, run_facts(job, pyramid), overwrite=overwrite) as store:
        store.drop_damaged()
        mosaic = Mosaic(job, store, pyramid)
        with worker_pool(mosaic, workers=workers, client=client) as pool:
            mosaic.paint(pool, progress=Watch(mosaic, progress))
        yield mosaic

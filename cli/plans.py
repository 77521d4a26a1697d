"""From the options of `render` to a job: the painter, the annotations and the workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..errors import PlanError

if TYPE_CHECKING:
    from distributed import Client

    from ..annotations.nuclei import Nuclei
    from ..job import Job
    from ..model.painter import Painter

Given = Mapping[str, Any]  # the values of the options, by the names of their parameters
PainterOf = Callable[[Given], "Painter"]

READING = (
    *("mpp", "like", "regions", "class_map", "ignore_classes", "tissue_classes"),
    *("class_property", "contours", "max_pixels"),
)


def read(annotations: Path, given: Given) -> Nuclei:
    """Read annotations as the options say."""
    from ..rendering import read_annotations

    if given["like"] and given["size"]:
        raise PlanError(f"{given['like']} states the size: give `like` or `size`, not both")
    return read_annotations(annotations, **{name: given[name] for name in READING})


def plan(nuclei: Nuclei, given: Given, painter: Painter) -> Job:
    """Plan a slide as the options say."""
    from ..rendering import plan_render, slide_mpp
    from ..slides.reading import size_like

    size, region, like = given["size"], given["region"], given["like"]
    if like:
        mpp = slide_mpp(given["mpp_out"], painter.mpp)
        height, width = size_like(like, mpp, slide_mpp=given["mpp"])
    elif size:
        width, height = size
    return plan_render(
        nuclei,
        painter,
        size=(height, width) if like or size else None,
        region=region and _box(*region),
        **{name: given[name] for name in ("seed", "max_canvas", "mpp_out")},
    )


def _box(x: int, y: int, width: int, height: int) -> tuple[int, int, int, int]:
    """The box (y0, x0, y1, x1) of a region, as the core takes it."""
    return y, x, y + height, x + width


def painters(device: str, client: Client | None) -> PainterOf:
    """Return what makes the painter of given options; each network is loaded once."""
    from ..model.arithmetic import describe
    from ..model.painter import Painter

    there: dict[str, Any] = {"device": device}
    if client:
        there |= client.submit(describe, device).result()

    @cache
    def unstyled(**settings: Any) -> Painter:
        return Painter(**settings, **there)

    @cache
    def styled(style: str | None, **settings: Any) -> Painter:
        painter = unstyled(**settings)
        return painter.restyled(style) if style else painter

    one_at_a_time = Lock()

    def painter_of(given: Given) -> Painter:
        named = ("weights", "steps", "guidance")
        settings = {name: given[name] for name in named if given[name] is not None}
        with one_at_a_time:
            return styled(given["style"], **settings)

    return painter_of


def described(out: Path, job: Job) -> str:
    """Describe a slide: its name, size and pixel size, and at which it was painted."""
    y0, x0, y1, x1 = job.shown
    painted = f" (painted at {job.painter.mpp})" if job.output else ""
    return f"{out}: {x1 - x0} x {y1 - y0} pixels at {job.mpp} mpp{painted}"


@contextmanager
def workers_of(scheduler: str | None, workers: int | None, device: str) -> Iterator[Client | None]:
    """Yield a client of the requested workers, or None for threads of this process."""
    from ..model.devices import gpus

    count = gpus(device)
    if not scheduler and not workers and count <= 1:
        yield None
        return
    from ..mosaic.cluster import connect, local

    logging.getLogger("distributed").setLevel(logging.ERROR)  # set to INFO when it is imported
    logging.getLogger("tornado.application").addFilter(_of_no_cancelled_task)
    started = connect(scheduler) if scheduler else local(workers or count, gpus=count > 0)
    with started as client:
        yield client


def _of_no_cancelled_task(record: logging.LogRecord) -> bool:
    """Return False for what dask logs as errors when Ctrl-C cancels tasks."""
    return not (record.exc_info and isinstance(record.exc_info[1], CancelledError))

"""Many slides by one call: a queue that survives failures, and resumes where it was stopped."""

from __future__ import annotations

import csv
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from typing import TYPE_CHECKING, Any

from ..annotations.formats import is_annotation
from ..delivery import is_delivered, pyramid_of
from ..errors import AnnotationError, NasdmError, OutputError, PlanError
from ..job import Job
from ..mosaic.workers import Threads
from ..rendering import Progress, render
from ..slides.formats import format_of, stem

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

ANNOTATIONS, OUT = "annotations", "out"  # columns of a manifest
SEPARATORS = ",;\t"  # of its columns
BUSY = 2  # blocks for each worker; while fewer are left to paint, one more slide is begun
SECONDS = 1.0  # after which the queue looks up, so that Ctrl-C is heard on every system

# The name of the slide that this thread renders, for whoever shows its warnings.
SLIDE: ContextVar[str] = ContextVar("SLIDE", default="")


@dataclass(frozen=True)
class Order:
    """A slide to render.

    Attributes:
        out: the slide; its suffix determines the format.
        plan: returns the job. It is called when the turn of the slide comes, so that annotations
            are not all in memory at once.
        name: how reports call the slide; by default the name of ``out``.
        encoding: the arguments ``quality`` and ``lossless`` of `rendering.render`.
    """

    out: Path
    plan: Callable[[], Job]
    name: str = ""
    encoding: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of an order.

    Attributes:
        failure: why there is no slide, in one line; "" if there is one.
        painted: how many pixels were painted by this call; None if the slide was complete before.
        job: the job of the slide; None if it could not be planned.
    """

    order: Order
    failure: str = ""
    painted: int | None = None
    job: Job | None = None


def render_many(
    orders: Iterable[Order],
    *,
    workers: int | None = None,
    client: Client | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    finished: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Render slides with the same workers; a slide that fails does not stop the others.

    Slides that are complete, of the same job and encoding, are left as they are, and those that
    were stopped are resumed, so after an interruption the same call resumes. Each slide has the
    bytes that `rendering.render` gives it. Several small slides are painted at a time, so that all
    workers are busy, and large ones one after another.

    The other arguments are those of `rendering.render`.

    Args:
        progress: called as ``progress("rendering", done, total)``, in hundredths of a slide.
        finished: called with each outcome, in the order in which the slides end.

    Returns:
        The outcomes in the order of ``orders``.

    Raises:
        OutputError: two slides have the same name.
    """
    orders = list(orders)
    _check_outputs(orders)
    with ExitStack() as stack:
        threads = None if client else stack.enter_context(Threads(workers))
        count = threads.count if threads else sum(client.nthreads().values()) if client else 1
        queue = stack.enter_context(_open_queue(max(BUSY * count, 1)))
        settings: dict[str, Any] = {"client": client, "overwrite": overwrite, "workers": threads}
        return queue.run(orders, partial(_outcome, settings), progress, finished)


def _check_outputs(orders: Sequence[Order]) -> None:
    """Refuse two slides of one name, also where names differ in case alone."""
    seen: dict[str, Order] = {}
    for order in orders:
        key = str(order.out.absolute()).lower()
        if other := seen.get(key):
            raise OutputError(
                f"{other.name or other.out} and {order.name or order.out} would both become "
                f"{order.out}: rename one of them"
            )
        seen[key] = order


class _StoppedError(BaseException):
    """Raised in the threads of slides when the queue was stopped."""


def _outcome(
    settings: dict[str, Any], order: Order, share: Callable[[int, float], None]
) -> Outcome:
    """Render a slide and return what became of it.

    ``share(blocks, done)`` is told how many blocks the slide has and which share of it is done.
    """
    SLIDE.set(order.name or order.out.name)
    job: Job | None = None

    def progress(what: str, done: int, total: int) -> None:
        share(blocks, done / total if what == "painting" else 1.0)

    try:
        job = order.plan()
        blocks = len(job.blocks)
        share(blocks, 0.0)
        if is_delivered(job, order.out, pyramid_of(job, order.out, **order.encoding)):
            return Outcome(order, job=job)
        painted = render(job, order.out, progress=progress, **settings, **order.encoding)
        return Outcome(order, painted=painted, job=job)
    except (NasdmError, OSError) as error:
        return Outcome(order, " ".join(str(error).split()) or type(error).__name__, job=job)
    except Exception as error:  # an error in one slide must not cost a night of the others
        log.debug("%s failed", order.out, exc_info=True)
        return Outcome(order, " ".join(f"{type(error).__name__}: {error}".split()), job=job)


class _Queue:
    """The slides that wait and those that are rendered, each in a thread of its own.

    ``most`` blocks may be left to paint when one more slide is begun.
    """

    def __init__(self, slides: ThreadPoolExecutor, most: int):
        self.slides, self.most, self.stopped = slides, most, Event()
        self.told: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.left: dict[int, float | None] = {}  # blocks; None while a slide is planned
        self.share: dict[int, float] = {}

    def run(
        self,
        orders: Sequence[Order],
        render_one: Callable[[Order, Callable[[int, float], None]], Outcome],
        progress: Progress | None,
        finished: Callable[[Outcome], None] | None,
    ) -> list[Outcome]:
        """Render all and return the outcomes; callbacks are called in this thread."""
        waiting, outcomes = deque(range(len(orders))), dict[int, Outcome]()

        def end(number: int, future: Future[Outcome]) -> None:
            self.left.pop(number)
            self.share[number] = 1.0
            outcomes[number] = future.result()
            if finished:
                finished(outcomes[number])

        while waiting or self.left:
            while waiting and self._has_room():
                number = waiting.popleft()
                self.left[number] = None
                told = partial(self._tell, number)
                future = self.slides.submit(render_one, orders[number], told)
                ended = partial(end, number)
                future.add_done_callback(lambda f, ended=ended: self.told.put(partial(ended, f)))  # type: ignore[misc]
            for event in self._events():
                event()
            if progress:
                done = sum(self.share.values())
                progress("rendering", int(100 * done), 100 * len(orders))
        return [outcomes[number] for number in range(len(orders))]

    def _has_room(self) -> bool:
        known = [blocks for blocks in self.left.values() if blocks is not None]
        return len(known) == len(self.left) and sum(known) < self.most

    def _tell(self, number: int, blocks: int, share: float) -> None:
        """Note how far a slide is; called in its own thread."""
        if self.stopped.is_set():
            raise _StoppedError
        self.told.put(partial(self._note, number, blocks, share))

    def _note(self, number: int, blocks: int, share: float) -> None:
        if number in self.left:
            # A slide that is being written still needs its memory.
            self.left[number], self.share[number] = max(blocks * (1 - share), 1.0), share

    def _events(self) -> Iterator[Callable[[], None]]:
        """Yield what the threads have told, after waiting a second for the first."""
        try:
            yield self.told.get(timeout=SECONDS)
            while True:
                yield self.told.get_nowait()
        except Empty:
            pass


@contextmanager
def _open_queue(most: int) -> Iterator[_Queue]:
    """Yield a queue; if it is left by an exception, slides stop at their next task."""
    with ThreadPoolExecutor(most, thread_name_prefix="slide") as slides:
        queue = _Queue(slides, most)
        try:
            yield queue
        except BaseException:
            queue.stopped.set()
            raise


# Where orders come from


def annotations_in(folder: str | Path) -> list[Path]:
    """Return the annotation files of a folder, sorted; a warning names what is left out.

    Raises:
        PlanError: there are none.
    """
    found: list[Path] = []
    others: list[Path] = []
    for path in sorted(Path(folder).iterdir()):
        if path.name.startswith("."):
            continue
        try:
            known = is_annotation(path)
        except AnnotationError:
            known = False
        (found if known else others).append(path)
    if not found:
        raise PlanError(f"{folder}: this folder contains no annotations: give another one")
    if others:
        few = ", ".join(path.name for path in others[:3])
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        log.warning("%s: no annotations, left out: %s%s", folder, few, more)
    return found


def outputs_of(annotations: Sequence[Path], folder: str | Path, *, suffix: str) -> list[Path]:
    """Return the slide of each annotation file, NAME + ``suffix`` in ``folder``.

    Raises:
        OutputError: no format has the suffix, or the folder is that of the annotations, whose
            GeoJSON the nuclei beside the slides would replace.
    """
    folder = Path(folder)
    format_of(f"slide{suffix}")
    if folder.is_dir() and any(folder.samefile(path.parent) for path in annotations):
        raise OutputError(f"{folder} is the folder of the annotations: choose another `out`")
    return [folder / f"{_name(path)}{suffix}" for path in annotations]


def _name(path: Path) -> str:
    """The name of an annotation file without its suffixes: nuclei for nuclei.geojson.gz."""
    name = stem(path)
    return stem(name) if path.suffix.lower() in (".gz", ".zip") else name


def is_manifest(path: str | Path) -> bool:
    """Return whether a file is a CSV, of any of `SEPARATORS`, with the column annotations."""
    path = Path(path)
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return _separator(file.readline()) is not None


def _separator(header: str) -> str | None:
    """Return the separator of the columns of a manifest; None if there is no column annotations."""
    rows = ((mark, next(csv.reader([header], delimiter=mark), [])) for mark in SEPARATORS)
    return next((mark for mark, row in rows if ANNOTATIONS in row), None)


def read_manifest(path: str | Path) -> list[dict[str, str]]:
    """Return the rows of a manifest: columns to cells, without those that are empty.

    Raises:
        PlanError: it has no rows, is no text in UTF-8, or a row has no annotations.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = _separator(file.readline()) or ","
            file.seek(0)
            rows = list(csv.DictReader(file, delimiter=separator, restkey="", restval=""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise PlanError(f"{path}: not a table: save it as CSV in UTF-8") from error
    if not rows:
        raise PlanError(f"{path}: no rows: add one for each slide")
    for number, row in enumerate(rows, 1):
        if "" in row:
            raise PlanError(f"{path}, row {number}: more cells than columns: quote {separator!r}")
        if not row[ANNOTATIONS].strip():
            raise PlanError(f"{path}, row {number}: annotations is empty: give their path")
    return [{name: cell.strip() for name, cell in row.items() if cell.strip()} for row in rows]

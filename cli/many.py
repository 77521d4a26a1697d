"""nasdm-wsi render with many slides: a folder of annotations, or a manifest."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..errors import NasdmError, OutputError, PlanError
from . import options, plans
from .messages import in_options

if TYPE_CHECKING:
    from ..job import Job
    from ..tools.many import Outcome

OF_ALL = ("out", "suffix", "device", "workers", "scheduler", "overwrite", "dry_run", "quiet")
PATHS = ("style", "weights")  # which may also be names
YES, NO = ("1", "yes", "true"), ("0", "no", "false")


@dataclass(frozen=True)
class Row:
    """A slide of many: its annotations, output and options, or why these are wrong."""

    name: str
    annotations: Path
    out: Path
    given: plans.Given
    mistake: str = ""

    def plan(self, painter_of: plans.PainterOf) -> Job:
        """Read the annotations and plan the slide."""
        if self.mistake:
            raise PlanError(self.mistake)
        nuclei = plans.read(self.annotations, self.given)
        return plans.plan(nuclei, self.given, painter_of(self.given))


def is_many(annotations: Path) -> bool:
    """Return whether a path is a manifest or a folder of annotations, and not a label store."""
    from ..annotations.formats import is_annotation
    from ..tools.many import is_manifest

    return is_manifest(annotations) or annotations.is_dir() and not is_annotation(annotations)


def render_all(
    context: click.Context,
    annotations: Path,
    out: Path,
    given: dict[str, Any],
    *,
    suffix: str,
    device: str,
    workers: int | None,
    scheduler: str | None,
    dry_run: bool,
) -> None:
    """Render all slides of a folder or manifest, print what became of each, and exit with 1 if any
    failed.
    """
    from ..tools.many import Order, render_many

    command = context.command
    rows = _rows(command, annotations, out, given, suffix)
    with nullcontext() if dry_run else plans.workers_of(scheduler, workers, device) as client:
        painter_of = plans.painters(device, client)
        if dry_run:
            with _named_warnings():
                planned = [_plan_is_printed(command, row, painter_of, workers) for row in rows]
            context.exit(0 if all(planned) else 1)
        orders = [
            Order(
                row.out,
                partial(row.plan, painter_of),
                name=row.name,
                encoding={name: row.given[name] for name in ("quality", "lossless")},
            )
            for row in rows
        ]
        out.mkdir(exist_ok=True)
        with _named_warnings(), options.bars("%") as progress:
            outcomes = render_many(
                orders,
                client=client,
                overwrite=given["overwrite"],
                progress=progress,
                finished=_tell,
            )
    failed = [
        (row, outcome.failure)
        for row, outcome in zip(rows, outcomes, strict=True)
        if outcome.failure
    ]
    before = sum(not o.failure and o.painted is None for o in outcomes)
    options.say(
        f"{len(outcomes)} slides: {len(outcomes) - len(failed) - before} rendered, {before} "
        f"complete before, {len(failed)} failed"
    )
    for row, failure in failed:
        _fail(command, row, failure)
    context.exit(1 if failed else 0)


def _fail(command: click.Command, row: Row, reason: str) -> None:
    """Print why there is no slide; the annotations are named once."""
    reason = in_options(reason.removeprefix(f"{row.annotations}: "), command)
    click.echo(f"Error: {row.name}: {reason}", err=True)


def _tell(outcome: Outcome) -> None:
    """Print a slide that is complete."""
    if outcome.job and not outcome.failure:
        before = ", complete before" if outcome.painted is None else ""
        options.say(f"{plans.described(outcome.order.out, outcome.job)}{before}")


def _plan_is_printed(
    command: click.Command, row: Row, painter_of: plans.PainterOf, workers: int | None
) -> bool:
    """Print the plan of a slide, or why there is none, and return whether there is one."""
    from ..tools.many import SLIDE

    SLIDE.set(row.name)
    try:
        lines = row.plan(painter_of).report(workers=workers)
    except (NasdmError, OSError) as error:
        _fail(command, row, str(error))
        return False
    click.echo("\n".join([f"{row.name}, {row.out}", *lines]))
    return True


@contextmanager
def _named_warnings() -> Iterator[None]:
    """Begin each warning with the name of the slide that it is about."""
    from ..tools.many import SLIDE

    def name(record: logging.LogRecord) -> bool:
        text, slide = record.getMessage(), SLIDE.get()
        if slide and slide not in text:
            record.msg, record.args = f"{slide}: {text}", ()
        return True

    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(name)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(name)


# Rows


def _rows(
    command: click.Command, annotations: Path, out: Path, given: plans.Given, suffix: str
) -> list[Row]:
    """Return the slides of a folder or manifest.

    Raises:
        PlanError: there are none, or a column is no option.
        OutputError: ``out`` is a file, or no folder in which a folder can be made.
    """
    from ..tools.many import annotations_in, outputs_of, read_manifest

    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file: many slides need a folder as `out`")
    if not out.parent.is_dir():
        raise OutputError(f"{out.parent} is not a folder: create it first")
    if annotations.is_dir():
        found = annotations_in(annotations)
        outs = outputs_of(found, out, suffix=suffix)
        rows = [Row(a.name, a, o, given) for a, o in zip(found, outs, strict=True)]
    else:
        cells = read_manifest(annotations)
        rows = [_row(command, annotations.parent, out, suffix, given, cell) for cell in cells]
    return rows


def _row(
    command: click.Command,
    folder: Path,
    out: Path,
    suffix: str,
    given: plans.Given,
    cells: dict[str, str],
) -> Row:
    """Return the slide of a row of a manifest in ``folder``; its cells go before ``given``.

    Raises:
        PlanError: the slide would not lie in ``out``, or a column is no option.
    """
    from ..tools.many import ANNOTATIONS, OUT, outputs_of

    name, chosen = cells.pop(ANNOTATIONS), cells.pop(OUT, "")
    if Path(chosen).is_absolute() or ".." in Path(chosen).parts:
        raise PlanError(f"{name}: the slide {chosen} would not lie in {out}: give a name in `out`")
    annotations = folder / name
    (by_name,) = outputs_of([annotations], out, suffix=suffix)
    row = partial(Row, name, annotations, out / chosen if chosen else by_name)
    words = [
        word for column, cell in cells.items() for word in _words(command, column, cell, folder)
    ]
    try:
        context = command.make_context(command.name, [str(annotations), "-o", str(out), *words])
    except click.UsageError as error:
        return row(given, error.format_message())
    told = {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    return row({**given, **told})


def _words(command: click.Command, column: str, cell: str, folder: Path) -> list[str]:
    """Return a cell as words of the command line.

    Raises:
        PlanError: the column is no option, or one that holds for all slides.
    """
    wanted = "--" + column.strip().lstrip("-").replace("_", "-")
    option = next((p for p in command.params if wanted in p.opts), None)
    if not isinstance(option, click.Option):
        raise PlanError(
            f"column {column!r} is not an option of {command.name}: rename or remove it"
        )
    if option.name in OF_ALL:
        raise PlanError(
            f"column {column!r}: {wanted} applies to all slides: give it on the command line"
        )
    if option.is_flag:
        if cell.lower() not in YES + NO:
            raise PlanError(f"column {column!r}: {cell!r} is neither yes nor no")
        return [wanted] if cell.lower() in YES else []
    if option.multiple:
        return [word for part in cell.split(";") for word in (wanted, part.strip())]
    if option.nargs > 1:
        return [wanted, *cell.split()]
    is_path = isinstance(option.type, click.Path) or option.name in PATHS
    here = folder / cell
    return [wanted, str(here) if is_path and here.exists() else cell]

"""nasdm-wsi seams"""

from __future__ import annotations

from pathlib import Path

import click

from . import options

FOUND = 3  # the exit code; 1 is a mistake and 2 wrong usage


@click.command()
@click.argument("slide", type=options.EXISTING)
@click.option(
    "--stride",
    type=click.IntRange(1),
    help="Look for lines every so many pixels; default: where SLIDE says it was joined.",
)
@options.seed
@click.pass_context
def seams(context: click.Context, slide: Path, **settings) -> None:
    """Say whether SLIDE shows where its windows and blocks were joined.

    The interval of a gradient ratio is its own (95 %, bootstrap; without seams it holds 1); that of
    other measures is where they lie without seams. Exit code 0: none found; 3: seams found.
    """
    from ..tools.seams import measure_seams

    findings = measure_seams(slide, **settings)
    found = any(f.found for f in findings)
    click.echo(f"{'measure':<40}{'value':>9}  {'interval':>19}  {'p':>6}  verdict")
    for f in findings:
        span = f"{f.low:#.3g} to {f.high:#.3g}"
        verdict = "SEAM" if f.found else "none"
        click.echo(f"{f.name:<40}{f.value:>#9.3g}  {span:>19}  {f.p:>6.4f}  {verdict}")
    click.echo(f"seams: {'FOUND' if found else 'none found'}")
    context.exit(FOUND if found else 0)

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
    help="Distance in pixels between the lines to test; default: the lines that SLIDE records.",
)
@options.seed
@click.pass_context
def seams(context: click.Context, slide: Path, **settings) -> None:
    """Test whether SLIDE has visible seams where windows and blocks meet.

    For gradient ratios, the interval is a 95 % bootstrap interval of the ratio, which contains 1 if
    there is no seam. For the other measures, it is the range of values expected without seams. Exit
    code 0: no seams; 3: seams found.
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

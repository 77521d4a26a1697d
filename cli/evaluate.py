"""nasdm-wsi evaluate"""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command()
@click.argument("dataset", type=options.EXISTING)
@click.option(
    "-o", "--out", type=options.NEW, help="Folder for the table, the pictures and the plot."
)
@options.weights
@click.option(
    "--inception",
    type=options.EXISTING,
    help="File inception-2015-12-05.pt for Inception distances; default: EfficientNet-Lite0.",
)
@click.option(
    "--ablate",
    type=click.Choice(["guidance", "steps", "magnification"]),
    help="Setting to vary in an ablation.",
)
@options.steps
@options.guidance
@options.seed
@options.device
@options.quiet
def evaluate(
    dataset: Path, out: Path | None, inception: Path | None, ablate: str | None, **given
) -> None:
    """Compare what a model renders from the held-out masks of DATASET with the real pixels.

    The command prints distances between real and rendered patches, and how often dark spots and
    annotated nuclei agree.
    """
    from ..model.evaluation import evaluate as measures
    from ..model.evaluation import report

    if out is not None:
        report.check_report(out, dataset, given["weights"], inception)
    features = measures.inception(inception) if inception else measures.efficientnet()
    painting = {k: v for k, v in given.items() if v is not None}
    settings = measures.ABLATIONS[ablate] if ablate else [{}]
    rows: list[dict] = []
    with options.bars("region") as progress:
        for row in measures.ablate(
            dataset,
            settings,
            features=features,
            progress=lambda done, total: progress(f"painting {len(rows) + 1}", done, total),
            **{k: v for k, v in painting.items() if k != ablate},
        ):
            rows.append(row)
    for name in rows[0]:
        if name not in report.NO_FIGURES:
            click.echo("  ".join([f"{name:<72}", *(f"{row[name]:>9.4g}" for row in rows)]))
    if out is not None:
        report.write_report(out, rows)
        options.say(f"{out}: table.csv and pictures")

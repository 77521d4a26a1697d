"""nasdm-wsi train"""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command()
@click.argument("dataset", type=options.EXISTING)
@click.option("-o", "--out", type=options.NEW, required=True, help="The run folder.")
@click.option("--preset", default="small", show_default=True, help="Network and training settings.")
@click.option(
    "--images",
    type=click.IntRange(1),
    help="Number of crops to train on; default: that of the preset.",
)
@options.seed
@options.device
@click.option("--init", type=options.EXISTING, help="Weights from which a new run starts.")
@click.option("--compile", is_flag=True, help="Compile the network with torch.compile.")
@options.quiet
def train(dataset: Path, out: Path, device: str, **settings) -> None:
    """Train a preset on DATASET, which prepare has made.

    To resume training, run the same command again. OUT receives weights.safetensors for render,
    last.safetensors for resuming, and logs for TensorBoard. To use several GPUs, run the command
    under torchrun.
    """
    from ..model.devices import choose_device
    from ..model.training.train import train as train_network

    with options.bars("image") as progress:
        weights = train_network(
            dataset,
            out,
            **settings,
            device=str(choose_device(device)),
            progress=lambda done, total, loss: progress(
                "training", done, total, loss=f"{loss:.3f}"
            ),
        )
    options.say(f"{weights}: give it to render with --weights")

"""nasdm-wsi prepare"""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command()
@click.argument("sources", type=options.EXISTING, nargs=-1, required=True)
@click.option("-o", "--out", type=options.NEW, required=True, help="The dataset folder.")
@click.option(
    "--held-out",
    type=click.FloatRange(0, 0.9),
    default=0.075,
    show_default=True,
    help="Share of each picture's area that is held out from training.",
)
@click.option(
    "--held-out-patient",
    "held_out_patients",
    metavar="NAME",
    multiple=True,
    help="Hold out all pictures of the patient NAME of a table; repeatable.",
)
@click.option(
    "--mpp",
    type=click.FloatRange(0, 100, min_open=True),
    default=0.5,
    show_default=True,
    help="Pixel size of the dataset in micrometres; pictures of a table are resampled to it.",
)
@click.option(
    "--exclude", metavar="NAME", multiple=True, help="Leave out the picture NAME; repeatable."
)
@click.option(
    "--fold",
    "folds",
    type=int,
    multiple=True,
    help="Take only the pictures of this fold of Lizard's info.csv; repeatable.",
)
@options.class_map
@options.ignore_classes
@click.option(
    "--normalise-to",
    type=options.EXISTING,
    help="Normalise the stains of all pictures to this slide or image (Vahadane, 2016).",
)
@click.option(
    "--stain-backend",
    type=click.Choice(["vahadane", "staintools"]),
    default="vahadane",
    show_default=True,
    help="Method that estimates the stains; staintools needs the extra of that name.",
)
@options.max_pixels
@options.seed
@options.quiet
def prepare(sources: tuple[Path, ...], out: Path, **settings) -> None:
    """Turn SOURCES into one dataset for training.

    A source is one of three kinds of folder: Lizard's layout, with images/NAME.png and
    labels/NAME.mat (the .mat may be of HoVer-Net or CoNSeP); Lizard as it is downloaded
    (Lizard_Images1, Lizard_Images2, Lizard_Labels); or NAME.png with NAME_classes.png (0
    background, 1 to 6 types, 255 ignored). A source may also be a table of pictures, as CSV or
    JSON, with the columns image, name, mpp, nuclei, points, regions, pseudo, patient, collection
    and same_as.
    """
    from ..tools.prepare import prepare as prepare_dataset

    with options.bars("region") as progress:
        rows = prepare_dataset(
            list(sources),
            out,
            **settings,
            progress=progress,
        )
    nuclei = sum(sum(row["nuclei"].values()) for row in rows)
    options.say(f"{out}: {len(rows)} regions, {nuclei:,} nuclei")

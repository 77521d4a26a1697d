"""From Lizard (or a folder laid out like it) to a trained model, and a slide that it painted.

    python examples/lizard_to_model.py LIZARD runs/mine

LIZARD holds images/NAME.png and labels/NAME.mat. The commands `nasdm-wsi prepare`, `train` and
`render` do the same. If it is stopped, the same command goes on where it was.
"""

import argparse
from pathlib import Path

from nasdm_wsi import plan_render, read_annotations, render
from nasdm_wsi.model import Painter
from nasdm_wsi.model.devices import choose_device
from nasdm_wsi.model.training.train import train
from nasdm_wsi.tools.prepare import prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lizard", type=Path)
    parser.add_argument("run", type=Path, help="receives the dataset, the weights and the slide")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--images", type=int, help="crops to train on; default: the preset's")
    options = parser.parse_args()
    dataset, slide = options.run / "dataset", options.run / "slide.ome.tif"
    options.run.mkdir(parents=True, exist_ok=True)
    if not dataset.exists():
        prepare([options.lizard], dataset)
    device = choose_device("auto").type
    weights = train(
        dataset, options.run, preset=options.preset, images=options.images, device=device
    )
    # The nuclei of the first picture, painted anew.
    labels = sorted((options.lizard / "labels").glob("*.mat"))[0]
    nuclei = read_annotations(labels, mpp=0.5)
    render(plan_render(nuclei, Painter(weights)), slide, overwrite=True)
    print(weights, slide, sep="\n")


if __name__ == "__main__":
    main()

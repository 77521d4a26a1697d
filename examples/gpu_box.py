"""Render on all GPUs of this machine, one worker process on each (or on some CPU processes).

    python examples/gpu_box.py annotations.geojson slide.ome.tif --mpp 0.5

`nasdm-wsi render` does the same with --workers; this is how to do it from Python, for many slides
with the workers started once. Needs dask-cuda where there is a GPU.
"""

import argparse
from pathlib import Path

from nasdm_wsi import plan_render, read_annotations, render
from nasdm_wsi.model import Painter
from nasdm_wsi.model.checkpoint import SHIPPED
from nasdm_wsi.model.devices import gpus, place
from nasdm_wsi.mosaic.cluster import local


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", type=Path)
    parser.add_argument("slide", type=Path, nargs="+", help="one for each seed 0, 1, ...")
    parser.add_argument("--mpp", type=float, required=True)
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--cpu-workers", type=int, default=2, help="where there is no GPU")
    options = parser.parse_args()
    nuclei = read_annotations(options.annotations, mpp=options.mpp)
    with local(gpus("auto") or options.cpu_workers, gpus=gpus("auto") > 0) as client:
        device, precision = client.submit(place, "auto").result()
        painter = Painter(options.weights, device=device, precision=precision)
        for seed, slide in enumerate(options.slide):
            render(plan_render(nuclei, painter, seed=seed), slide, client=client)
            print(slide)


if __name__ == "__main__":
    main()

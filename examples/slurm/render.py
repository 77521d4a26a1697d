"""Render on a Slurm cluster: dask-jobqueue starts the workers as jobs and replaces those that end.

    pip install dask-jobqueue
    python examples/slurm/render.py annotations.geojson /shared/slide.ome.tif --mpp 0.5 --jobs 16

Run it where sbatch is (in tmux, or as a job itself), with the slide on storage that all nodes see.
If it is stopped, the same command goes on. Each job is one worker with one GPU, or with one core
and --device cpu.
"""

import argparse
from pathlib import Path

from dask_jobqueue import SLURMCluster
from distributed import Client
from tqdm import tqdm

from nasdm_wsi import plan_render, read_annotations, render
from nasdm_wsi.model import Painter
from nasdm_wsi.model.checkpoint import SHIPPED
from nasdm_wsi.model.devices import place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", type=Path)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--mpp", type=float, required=True)
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--memory", default="16GB", help="of a job")
    parser.add_argument("--walltime", default="04:00:00")
    parser.add_argument("--partition")
    options = parser.parse_args()
    cluster = SLURMCluster(
        queue=options.partition,
        cores=1,
        processes=1,
        memory=options.memory,
        walltime=options.walltime,
        job_extra_directives=["--gres=gpu:1"] * (options.device == "cuda"),
    )
    with cluster, Client(cluster) as client, tqdm(unit="task") as bar:
        cluster.adapt(minimum_jobs=options.jobs, maximum_jobs=options.jobs)  # replaces lost ones
        client.wait_for_workers(1)
        device, precision = client.submit(place, options.device).result()
        painter = Painter(options.weights, device=device, precision=precision)
        nuclei = read_annotations(options.annotations, mpp=options.mpp)

        def progress(what: str, done: int, total: int) -> None:
            bar.total, bar.desc = total, what
            bar.update(done - bar.n)

        render(plan_render(nuclei, painter), options.slide, client=client, progress=progress)


if __name__ == "__main__":
    main()

"""The examples run, and the annotations in the repository are those that the script draws."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import shapely
from PIL import Image

from nasdm_wsi.model.checkpoint import network_of, save_weights
from nasdm_wsi.model.config import PRESETS
from nasdm_wsi.nuclei import PALETTE, TYPES
from nasdm_wsi.rendering import read_annotations

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script, *arguments, **environment):
    command = [sys.executable, EXAMPLES / script, *arguments]
    subprocess.run(
        [str(part) for part in command], check=True, env={**os.environ, **environment}, timeout=300
    )


def test_the_annotations_are_a_slide_of_all_types_and_drawn_by_the_script(tmp_path):
    run("make_annotations.py", "-o", tmp_path / "again.geojson")
    shipped = read_annotations(EXAMPLES / "annotations.geojson", mpp=0.5)
    again = read_annotations(tmp_path / "again.geojson", mpp=0.5)
    assert len(shipped) > 2000 and min(shipped.counts().values()) > 0
    y0, *rest = shipped.extent()
    assert rest == [0, 1536, 1536] and y0 > 0  # above the tissue there is glass
    # Other versions of GEOS and numpy may differ in the last digit of a coordinate.
    np.testing.assert_array_equal(again.types, shipped.types)
    np.testing.assert_allclose(again.coords, shipped.coords, atol=0.11)


def test_nuclei_of_the_annotations_do_not_overlap():
    polygons = read_annotations(EXAMPLES / "annotations.geojson", mpp=0.5).polygons()
    first, second = shapely.STRtree(polygons).query(polygons, predicate="overlaps")
    assert not len(first) and not len(second)


def test_the_papers_sampler_paints_patches_with_a_network_of_its_kind(dataset, tmp_path):
    network = network_of(PRESETS["nasdm-tiny"].header)
    save_weights(tmp_path / "nasdm.safetensors", network, {})
    out = tmp_path / "samples.png"
    command = ("paper_sampling.py", dataset, tmp_path / "nasdm.safetensors", "-o", out)
    run(*command, "--side", 32, "--count", 2, "--steps", 4, "--device", "cpu")
    # An untrained network says there is no noise: what it gives is noise, not grey.
    samples = np.array(Image.open(out))[64:]
    assert samples.shape == (32, 64, 3) and samples.std() > 10


def test_held_out_rectangles_are_painted_beside_the_real_pixels(dataset, weights, tmp_path):
    out = tmp_path / "grid.png"
    run("held_out.py", dataset, "-o", out, "--weights", weights, "--side", 32, "--columns", 3)
    grid = np.array(Image.open(out))
    assert grid.shape == (3 * 32 + 2 * 4, 3 * 32 + 2 * 4, 3)
    real, painted = grid[:32], grid[-32:]
    assert real.std() > 10 and painted.std() > 1 and (real != painted).mean() > 0.9


def test_slides_are_rendered_by_processes_and_by_slurm_jobs(annotations, weights, tmp_path):
    """Slurm is played by a script that runs at once what it is given."""
    common = ("--mpp", 0.25, "--weights", weights)
    names = [tmp_path / f"{k}.ome.tif" for k in "abc"]
    run("gpu_box.py", annotations, *names[:2], *common)
    (tmp_path / "bin").mkdir()
    for name, script in {
        "sbatch": 'bash "$1" > /dev/null 2>&1 & echo "Submitted batch job $!"',
        "scancel": "kill $1",
    }.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    run("slurm/render.py", annotations, names[2], *common, "--device", "cpu", PATH=path)
    assert names[2].read_bytes() == names[0].read_bytes() != names[1].read_bytes()


def test_the_qupath_script_has_our_types_in_our_colours():
    text = (EXAMPLES / "qupath" / "make_project.groovy").read_text()
    found = re.findall(r"(\w+): \[(\d+), (\d+), (\d+)\]", text)
    assert {name.lower(): [int(n) for n in rgb] for name, *rgb in found} == dict(
        zip(TYPES[1:], PALETTE[1:].tolist(), strict=True)
    )

"""The examples run, and the annotations in the repository are those that the script draws."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shapely
from helpers import PATIENCE
from PIL import Image
from scipy.spatial import cKDTree

from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.annotations.regions import PALETTE as REGION_PALETTE
from nasdm_wsi.annotations.regions import REGIONS
from nasdm_wsi.annotations.types import PALETTE, TYPES
from nasdm_wsi.model.checkpoint import checksum, save_weights
from nasdm_wsi.model.config import PRESETS
from nasdm_wsi.model.families import build
from nasdm_wsi.rendering import read_annotations
from nasdm_wsi.slides import ome_tiff
from nasdm_wsi.slides.reading import open_slide

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script, *arguments, **environment):
    command = [sys.executable, EXAMPLES / script, *arguments]
    environment = os.environ | environment
    subprocess.run(list(map(str, command)), check=True, env=environment, timeout=PATIENCE)


def test_the_annotations_are_a_slide_of_all_types_and_drawn_by_the_script(tmp_path):
    """Nearly: numpy's logarithm differs in the last bit between kinds of processors.

    A nucleus that fits on one may then overlap on the other, and those after it lie elsewhere.
    """
    run("make_annotations.py", "-o", tmp_path / "again.geojson")
    shipped = read_annotations(EXAMPLES / "annotations.geojson", mpp=0.5)
    again = read_annotations(tmp_path / "again.geojson", mpp=0.5)
    assert len(shipped) > 2000 and min(shipped.counts().values()) > 0
    assert shipped.extent() == again.extent() == (0, 0, 1536, 1536)
    assert shipped.boxes()[:, 0].min() > 40  # above the tissue there is glass
    assert {"lumen", "epithelium", "stroma", "mucus"} <= set(shipped.regions.counts())
    assert again.counts() == pytest.approx(shipped.counts(), rel=0.03)
    drawn = (Conditioning(n, (1536, 1536)).regions((0, 0, 1536, 1536)) for n in (shipped, again))
    assert np.equal(*drawn).mean() > 0.999
    centres = (shapely.get_coordinates(shapely.centroid(n.polygons())) for n in (shipped, again))
    apart = cKDTree(next(centres)).query(next(centres))[0]
    assert (apart < 0.1).mean() > 0.5


def test_nuclei_of_the_annotations_do_not_overlap():
    polygons = read_annotations(EXAMPLES / "annotations.geojson", mpp=0.5).polygons()
    first, second = shapely.STRtree(polygons).query(polygons, predicate="overlaps")
    assert not len(first) and not len(second)


def test_a_drawing_has_all_regions_and_is_shown_above_its_slide(tmp_path):
    run("draw_regions.py", tmp_path / "slide.geojson")
    nuclei = read_annotations(tmp_path / "slide.geojson", mpp=0.5)
    assert tuple(nuclei.regions.counts()) == REGIONS and min(nuclei.counts().values()) > 0
    pixels = np.full((680, 1120, 3), (200, 100, 180), np.uint8)
    ome_tiff.write(tmp_path / "slide.ome.tif", pixels, mpp=0.5, description="", lossless=True)
    run("region_picture.py", tmp_path / "slide.ome.tif", tmp_path / "picture.png")
    picture = np.array(Image.open(tmp_path / "picture.png"))
    assert (picture[-680:] == pixels).all()
    drawn = Conditioning(nuclei, (680, 1120)).regions((0, 0, 680, 1120))
    bare = Conditioning(nuclei, (680, 1120)).labels((0, 0, 680, 1120))[1] == 0
    assert (picture[:680][bare] == REGION_PALETTE[drawn][bare]).all()


def test_the_papers_sampler_paints_patches_with_a_network_of_its_kind(dataset, tmp_path):
    network = build(PRESETS["nasdm-tiny"].network)
    save_weights(tmp_path / "nasdm.safetensors", network)
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


@pytest.mark.slow
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


def test_drawn_nuclei_become_a_slide_and_pairs_of_pictures_and_masks(weights, tmp_path):
    slide, pairs = tmp_path / "crypt.ome.tif", tmp_path / "set"
    run("draw_and_render.py", "-o", slide, "--weights", weights)
    drawn = read_annotations(tmp_path / "crypt.geojson", mpp=0.5)
    assert drawn.counts()["epithelial"] == 32 and drawn.counts()["connective"] > 20
    run("training_set.py", pairs, slide, "--tile", 200)
    names = [f"crypt_x{x}_y{y}" for x in (0, 192) for y in (0, 192)]
    both = {f"{name}{end}.png" for name in names for end in ("", "_masks")}
    assert {p.name for p in pairs.iterdir()} == {*both, "tiles.csv"}
    for name in names:
        x, y = (int(n) for n in re.findall(r"\d+", name))
        image, mask = (np.array(Image.open(pairs / f"{name}{s}.png")) for s in ("", "_masks"))
        with open_slide(slide) as opened:
            np.testing.assert_array_equal(image, opened.read((y, x, y + 192, x + 192), mpp=0.5))
        there = Conditioning(drawn, (384, 384)).labels((y, x, y + 192, x + 192))[0]
        np.testing.assert_array_equal(mask > 0, there > 0)


def test_lizard_becomes_a_model_that_paints(lizard_source, tmp_path):
    run("lizard_to_model.py", lizard_source, tmp_path, "--preset", "tiny", "--images", 32)
    with open_slide(tmp_path / "slide.ome.tif") as slide:
        made_by = f"weights.safetensors {checksum(tmp_path / 'weights.safetensors')}"
        assert made_by in slide.description
    labels = read_annotations(lizard_source / "labels" / "a.mat", mpp=0.5)
    assert read_annotations(tmp_path / "slide.geojson", mpp=0.5).counts() == labels.counts()


def test_the_pictures_are_the_slide_and_a_part_of_it(tmp_path):
    y, x = np.mgrid[:300, :400]
    image = np.stack([x % 256, y % 256, (x + y) % 256], axis=2).astype(np.uint8)
    ome_tiff.write(tmp_path / "s.tif", image, mpp=0.5, description="", lossless=True)
    pictures = tmp_path / "whole.png", tmp_path / "part.png"
    where = ("--at", 9, 50, "--size", 40, 30, "--side", 99)
    run("thumbnails.py", tmp_path / "s.tif", *pictures, *where)
    whole, part = (np.array(Image.open(path)) for path in pictures)
    assert whole.shape == (74, 99, 3)
    np.testing.assert_array_equal(part, image[50:80, 9:49])


def test_the_qupath_script_has_our_types_in_our_colours():
    text = (EXAMPLES / "qupath" / "make_project.groovy").read_text()
    found = re.findall(r"(\w+): \[(\d+), (\d+), (\d+)\]", text)
    assert {name.lower(): [int(n) for n in rgb] for name, *rgb in found} == dict(
        zip(TYPES[1:], PALETTE[1:].tolist(), strict=True)
    )


def test_a_large_slide_repeats_a_patch_without_a_seam_with_all_its_nuclei(tmp_path):
    names = ("a.svs", "c.ome.zarr")  # tiles, and rows of pixels
    run("large_slide.py", *(tmp_path / name for name in names), "--side", 1100, "--patch", 128)
    for name in names:
        with open_slide(tmp_path / name) as slide:
            assert slide.levels == ((1100, 1100), (550, 550), (275, 275)), name
            picture = slide.read((0, 0, 1100, 1100), mpp=0.5).astype(int)
            coarse = slide.read((0, 0, 275, 275), mpp=2.0).astype(int)
        np.testing.assert_array_equal(picture[:512, :512], picture[512:1024, 512:1024])
        means = picture.reshape(275, 4, 275, 4, 3).mean((1, 3))
        assert np.abs(means - coarse).mean() < 8
        assert picture[:128, :128].std() > 30  # tissue, and no seam between one patch and the next
        jumps = np.abs(np.diff(picture[:1024, :1024], axis=1)).mean((0, 2))
        assert jumps[127::128].mean() < np.percentile(jumps, 95)
    nuclei = read_annotations(tmp_path / "a.geojson", mpp=0.5)
    y0, x0, y1, x1 = nuclei.extent()
    assert max(y0, x0) < 30 and min(y1, x1) > 1000 and len(nuclei) > 300
    labels = Conditioning(nuclei, (1100, 1100)).labels((0, 0, 1100, 1100))[1] > 0
    with open_slide(tmp_path / "c.ome.zarr") as slide:
        picture = slide.read((0, 0, 1100, 1100), mpp=0.5)
    assert picture[labels].mean() < picture[~labels].mean() - 30  # they lie where nuclei are dark

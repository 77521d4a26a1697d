"""The whole road with a tiny network: annotations in, slide out."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
import toy
from helpers import wait_for
from openslide import OpenSlide
from tiffslide import TiffSlide

from nasdm_wsi.annotations.geojson import read_geojson
from nasdm_wsi.errors import OutputError, PlanError
from nasdm_wsi.geometry import cells_in
from nasdm_wsi.job import Window
from nasdm_wsi.model import Painter
from nasdm_wsi.model.checkpoint import save_weights
from nasdm_wsi.model.config import PRESETS
from nasdm_wsi.model.families import build
from nasdm_wsi.mosaic.noise import noise
from nasdm_wsi.rendering import plan_render, read_annotations, render, render_region

SIZE = (150, 203)


@pytest.fixture(scope="module")
def nuclei(annotations):
    return read_annotations(annotations, mpp=0.25)


def job_of(nuclei, weights, *, stride=64, **options):
    painter = Painter(weights, steps=3, guidance=1.0, device="cpu")
    job = plan_render(nuclei, painter, size=SIZE, seed=11, **options)
    return toy.cut_up(job, stride)


@pytest.fixture(scope="module")
def slide(nuclei, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("slide") / "slide.ome.tif"
    render(job_of(nuclei, weights), out, lossless=True, workers=1)
    return out


def test_the_mosaic_equals_one_evaluation_on_the_whole_canvas(nuclei, weights):
    """In float32, step by step, as the sampler would do it without any mosaic."""
    job = job_of(nuclei, weights)
    exact = Painter(weights, steps=3, guidance=1.0, device="cpu", precision="float32")
    job = replace(job, painter=exact)
    plan, whole = job.plan, job.painter.start(noise(job.plan.bounds, seed=11))

    def after_phase(steps, state, box):
        return job.painter.solve(
            steps, [Window(box, box, state, job.planes(box), job.tissue(box), None)]
        )[0]

    for steps in plan.phases:
        parts = np.zeros_like(whole)
        for block in cells_in((0, 0, *plan.blocks)):
            view, core = plan.view(block), plan.core(block)
            y, x = slice(view[0], view[2]), slice(view[1], view[3])
            after = after_phase(steps, whole[:, y, x], view)
            parts[:, core[0] : core[2], core[1] : core[3]] = after[
                :, core[0] - view[0] : core[2] - view[0], core[1] - view[1] : core[3] - view[1]
            ]
        whole = after_phase(steps, whole, plan.bounds)
        assert np.abs(parts - whole).max() < 1e-4 * max(1, np.abs(whole).max())


@pytest.mark.parametrize("together", [2, 3])
def test_several_steps_a_phase_paint_the_same_picture(nuclei, weights, tmp_path, together):
    """Whoever paints, and a region alone has the same bytes; other phases differ by rounding."""
    exact = Painter(weights, steps=3, guidance=1.0, device="cpu", precision="float32")
    job = replace(job_of(nuclei, weights), painter=exact)
    each_step = render_region(job)
    job = toy.cut_up(job, 96, together=together)
    assert len(job.plan.phases) == -(-3 // together)
    picture = render_region(job, workers=1)
    assert np.abs(picture.astype(int) - each_step).max() <= 1
    np.testing.assert_array_equal(render_region(job, workers=3), picture)
    y0, x0, y1, x1 = region = (30, 90, 101, 180)
    alone = render_region(replace(job, region=region))
    np.testing.assert_array_equal(alone, picture[y0:y1, x0:x1])


def test_all_readers_agree_on_levels_and_resolution(slide):
    with OpenSlide(slide) as a, TiffSlide(slide) as b, tifffile.TiffFile(slide) as c:
        assert a.dimensions == b.dimensions == SIZE[::-1]
        assert a.level_count == b.level_count == len(c.series[0].levels)
        for reader, name in ((a, "openslide"), (b, "tiffslide")):
            assert float(reader.properties[f"{name}.mpp-x"]) == pytest.approx(0.5)
        text = c.pages[0].description
        assert 'PhysicalSizeX="0.5"' in text and "not for diagnosis" in text
        facts = json.loads(text[text.index("{") : text.rindex("}") + 1])
        assert facts["seed"] == 11 and facts["steps"] == 3 and "tiny" in facts["weights"]


def test_labels_lie_beside_the_slide_in_its_pixels(slide, nuclei):
    labels = read_geojson(slide.with_name("slide.geojson"), mpp=0.5)
    expected = nuclei.scaled(0.5)
    assert len(labels) == len(expected)
    np.testing.assert_allclose(labels.coords, expected.coords, atol=0.0051)
    np.testing.assert_array_equal(labels.types, expected.types)


def test_outside_the_tissue_the_slide_is_glass(slide):
    pixels = tifffile.imread(slide)
    assert (pixels[122:] == 245).all()
    assert pixels[:118].std() > 1


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_do_not_change_a_byte(slide, nuclei, weights, tmp_path, workers):
    render(job_of(nuclei, weights), tmp_path / "b.ome.tif", lossless=True, workers=workers)
    assert (tmp_path / "b.ome.tif").read_bytes() == slide.read_bytes()
    assert (tmp_path / "b.geojson").read_bytes() == slide.with_name("slide.geojson").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.geojson", "b.ome.tif"]


def test_a_region_alone_equals_the_same_pixels_of_the_whole(slide, nuclei, weights, tmp_path):
    job = job_of(nuclei, weights, region=(40, 70, 130, 190))
    render(job, tmp_path / "b.ome.tif", lossless=True)
    whole = tifffile.imread(slide)[40:130, 70:190]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.ome.tif"), whole)
    np.testing.assert_array_equal(render_region(job), whole)
    labels = read_geojson(tmp_path / "b.geojson", mpp=0.5)
    shifted = nuclei.scaled(0.5).shifted(-40, -70).within((0, 0, 90, 120))
    np.testing.assert_allclose(labels.coords, shifted.coords, atol=0.0051)


def test_a_killed_render_goes_on_to_the_same_bytes(annotations, weights, tmp_path):
    def command(name):
        return [
            *(sys.executable, "-m", "nasdm_wsi.cli", "render", str(annotations)),
            *("-o", str(tmp_path / name), "--mpp", "0.05", "--size", "1100", "700"),
            *("--weights", str(weights), "--steps", "6", "--device", "cpu"),
        ]

    subprocess.run(command("a.ome.tif"), check=True, capture_output=True)
    process = subprocess.Popen(command("b.ome.tif"), stderr=subprocess.DEVNULL)
    wait_for(lambda: list(tmp_path.glob("b.ome.tif.run/*/*/*")), process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "b.ome.tif").exists()
    subprocess.run(command("b.ome.tif"), check=True, capture_output=True)
    assert (tmp_path / "a.ome.tif").read_bytes() == (tmp_path / "b.ome.tif").read_bytes()
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".geojson", ".geojson", ".tif", ".tif"]


def test_a_render_stopped_while_it_writes_goes_on(slide, nuclei, weights, tmp_path):
    def stop(what, done, total):
        if what == "writing":
            raise KeyboardInterrupt

    out = tmp_path / "slide.ome.tif"
    with pytest.raises(KeyboardInterrupt):
        render(job_of(nuclei, weights), out, lossless=True, progress=stop)
    assert not out.exists() and out.with_name("slide.geojson").exists()
    render(job_of(nuclei, weights), out, lossless=True)
    assert out.read_bytes() == slide.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["slide.geojson", "slide.ome.tif"]


def test_a_semantic_network_paints_the_same_bytes_however_the_work_is_cut(nuclei, tmp_path):
    """Windows of 128 that overlap, three phases of the five steps; the style is not its own."""
    torch.manual_seed(0)
    network = build(PRESETS["nasdm-tiny"].network)
    for parameter in network.parameters():
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.02)
    save_weights(tmp_path / "nasdm.safetensors", network)
    painter = Painter(tmp_path / "nasdm.safetensors", steps=5, guidance=0, device="cpu")

    def painted(name, workers, **options):
        job = plan_render(nuclei, painter, size=(130, 150), seed=11, **options)
        assert job.plan.phases == ((0, 2), (2, 4), (4, 5))
        job = replace(job, plan=replace(job.plan, windows=1))  # several blocks
        render(job, tmp_path / name, lossless=True, workers=workers)
        return tifffile.imread(tmp_path / name)

    whole = painted("a.tif", 1)
    np.testing.assert_array_equal(painted("b.tif", 4), whole)
    part = painted("c.tif", 2, region=(40, 70, 110, 150))
    np.testing.assert_array_equal(part, whole[40:110, 70:150])
    assert (whole[122:] == 245).all() and whole[:118].std() > 1  # glass below the tissue
    with pytest.raises(PlanError, match="no style"):
        Painter(tmp_path / "nasdm.safetensors", style=np.zeros(6))


def test_without_a_size_the_canvas_is_the_bounding_box(nuclei, weights):
    painter = Painter(weights, steps=2, device="cpu")
    far = nuclei.shifted(5000, 9000)
    job = plan_render(far, painter)
    # 240 x 400 of tissue at 0.25 mpp, 16 pixels round it; a nucleus sticks out to the right.
    assert job.plan.size == plan_render(nuclei, painter).plan.size == (152, 233)
    y0, x0, y1, x1 = job.nuclei.extent()
    assert (y0, x0, y1) == pytest.approx((16, 16, 136)) and 216 < x1 <= 217


def test_seed_steps_guidance_and_style_change_the_picture(slide, nuclei, weights, tmp_path):
    reference = tifffile.imread(slide)
    base = {"steps": 3, "guidance": 1.0}
    styles = np.array([0.9, 0.1, 0, 0.1, 0.1, 0.1])
    for i, change in enumerate([{"steps": 4}, {"guidance": 0}, {"style": styles}]):
        job = job_of(nuclei, weights)
        job = replace(job, painter=Painter(weights, device="cpu", **{**base, **change}))
        job = toy.cut_up(replace(job, plan=job.painter.plan(SIZE)), 64)
        render(job, tmp_path / f"{i}.tif", lossless=True)
        assert not np.array_equal(tifffile.imread(tmp_path / f"{i}.tif"), reference)
    render(replace(job_of(nuclei, weights), seed=12), tmp_path / "seed.tif", lossless=True)
    assert not np.array_equal(tifffile.imread(tmp_path / "seed.tif"), reference)


def test_what_cannot_be_planned_is_refused(nuclei, weights):
    for bad in ((0, 0, 151, 10), (-1, 0, 10, 10), (5, 5, 5, 9)):
        with pytest.raises(PlanError, match="does not lie within"):
            job_of(nuclei, weights, region=bad)
    with pytest.raises(PlanError, match="steps"):
        Painter(weights, steps=0)
    with pytest.raises(PlanError, match="style"):
        Painter(weights, style=np.array([1.0, np.nan, 0, 0, 0, 0]))
    with pytest.raises(PlanError, match="'cuda:77' is not available"):
        Painter(weights, device="cuda:77")


def test_a_disk_that_is_too_small_is_told_before_anything_happens(
    nuclei, weights, tmp_path, monkeypatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"0.0 GB free, but the render may need \d"):
        render(job_of(nuclei, weights), tmp_path / "a.ome.tif")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of sixteen megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)])
    if made.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing(nuclei, weights, slide, small_disk):
    filler = small_disk / "filler"

    def fill(what, done, total):
        if done == 4:
            with open(filler, "wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))

    out = small_disk / "slide.ome.tif"
    with pytest.raises(OutputError, match="disk .* is full: make room and run the same command"):
        render(job_of(nuclei, weights), out, lossless=True, progress=fill)
    filler.unlink()
    render(job_of(nuclei, weights), out, lossless=True)
    assert out.read_bytes() == slide.read_bytes()


def test_another_configuration_in_the_run_folder_is_refused(nuclei, weights, tmp_path):
    class Stop(Exception):
        pass

    def stop(what, done, total):
        if done == 5:
            raise Stop

    out = tmp_path / "a.ome.tif"
    with pytest.raises(Stop):
        render(job_of(nuclei, weights), out, progress=stop)
    with pytest.raises(OutputError, match="a different seed"):
        render(replace(job_of(nuclei, weights), seed=12), out)
    with pytest.raises(Stop):
        render(replace(job_of(nuclei, weights), seed=12), out, overwrite=True, progress=stop)
    seen = []  # the same command again goes on, and does not start anew
    render(
        replace(job_of(nuclei, weights), seed=12),
        out,
        overwrite=True,
        progress=lambda what, done, total: seen.append((what, total)),
    )
    assert json.loads(_description(out))["seed"] == 12
    assert dict(seen)["painting"] < 4 * len(job_of(nuclei, weights).blocks)


def _description(path):
    with tifffile.TiffFile(path) as tiff:
        text = tiff.pages[0].description
    return text[text.index("{") : text.rindex("}") + 1]

"""The manners of a command: progress, quiet, JSON, provenance, rates, the order of boxes."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
import tifffile
import torch
from click.testing import CliRunner
from helpers import Terminal, labelled_tissue
from PIL import Image
from scipy.io import loadmat

from nasdm_wsi import plan_render, read_annotations, render
from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import PlanError
from nasdm_wsi.job import Job
from nasdm_wsi.model import Painter
from nasdm_wsi.model.config import PRESETS
from nasdm_wsi.model.families import build
from nasdm_wsi.provenance import WARNING, facts_of, is_synthetic, legible_facts, provenance
from nasdm_wsi.slides import ome_tiff
from nasdm_wsi.tools.info import describe, examine


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def job(annotations, weights) -> Job:
    painter = Painter(weights, steps=2, device="cpu")
    return plan_render(read_annotations(annotations, mpp=0.25), painter, size=(150, 203), seed=7)


@pytest.fixture(scope="module")
def rendered(job, tmp_path_factory):
    """A folder with the same slide in both formats."""
    folder = tmp_path_factory.mktemp("rendered")
    for name in ("slide.ome.tif", "other.ome.zarr"):
        render(job, folder / name, workers=1)
    return folder


@pytest.fixture
def command(annotations, weights, tmp_path):
    given = ("--mpp", 0.25, "--size", 203, 150, "--steps", 2, "--weights", weights)
    return ("render", annotations, "-o", tmp_path / "a.tif", "--device", "cpu", *given)


# Progress


@pytest.mark.skipif(os.name == "nt", reason="has no terminals that a test can open")
@pytest.mark.parametrize("quiet", [False, True])
def test_bars_are_for_terminals(command, quiet):
    words = [sys.executable, "-m", "nasdm_wsi", *map(str, command)]
    if quiet:
        words.append("-q")
    with closing(Terminal()) as terminal:
        subprocess.run(words, stderr=terminal.inner, stdout=subprocess.DEVNULL, check=True)
        shown = terminal.shown()
    assert ("painting: 100%" in shown) is not quiet and bool(shown) is not quiet


def test_there_is_no_bar_in_a_log(command):
    words = [sys.executable, "-m", "nasdm_wsi", *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == "" and len(done.stdout.splitlines()) == 1


def test_quiet_prints_results_and_mistakes_only(command, lizard_source, rendered, tmp_path):
    checkpoint, data, trained = tmp_path / "a.pt", tmp_path / "data", tmp_path / "run"
    torch.save(build(PRESETS["nasdm-tiny"].network).state_dict(), checkpoint)
    training = ("--preset", "tiny", "--images", 4, "--device", "cpu")
    export = ("export", rendered / "slide.ome.tif", "--format", "masks", "-o", tmp_path / "tiles")
    for words in (
        command,
        export,
        ("prepare", lizard_source, "-o", data),
        ("train", data, "-o", trained, *training),
        ("convert", checkpoint, "-o", tmp_path / "b.safetensors"),
        ("layout", "-o", tmp_path / "made.geojson", "--size", 99, 99, "--nuclei", "rules"),
    ):
        assert run(*words, "-q") == "", words
    assert run("-q", *command, "--overwrite") == ""
    assert "--overwrite" in run(*command, "-q", code=1)
    assert "held-out" in run("evaluate", data, "-q", "--weights", command[-1], code=1)
    assert "kind" in run("-q", "info", data)


# What a slide says of itself


@pytest.mark.parametrize("name", ["slide.ome.tif", "other.ome.zarr"])
def test_info_tells_the_provenance_of_a_rendered_slide(rendered, job, name):
    rows = dict(describe(rendered / name))
    assert rows["synthetic"].startswith("yes") and rows["seed"] == "7"
    assert rows["weights"] == job.facts["weights"] and rows["canvas"] == "203 x 150 pixels"
    told = json.loads(run("info", "--json", rendered / name))
    assert told["synthetic"] is True and told["width"] == 203 and told["height"] == 150
    assert told["levels"][0] == {"width": 203, "height": 150} and told["mpp"] == 0.5
    assert {name: told["provenance"][name] for name in job.facts} == job.facts


def test_info_says_nothing_of_the_kind_about_other_slides(tmp_path):
    image, *_ = labelled_tissue((90, 80), seed=1)
    ome_tiff.write(tmp_path / "a.tif", image, mpp=0.5, description="synthetic?")
    assert "synthetic" not in dict(describe(tmp_path / "a.tif"))
    told = examine(tmp_path / "a.tif")
    assert told["synthetic"] is False and told["provenance"] == {}


def test_info_of_everything_is_json(rendered, dataset, weights):
    for path, kind in ((dataset, "dataset"), (weights, "weights")):
        told = json.loads(run("info", path, "--json"))
        assert told["kind"] == kind
        for name, value in told.items():  # the text says the same
            if isinstance(value, float | str) and name not in ("kind", "sha256"):
                assert str(value) in run("info", path)
    told = json.loads(run("info", rendered / "slide.geojson", "--json"))
    counts = {row["read_as"]: row["count"] for row in told["classes"]}
    assert counts.pop("tissue outline") == 1 and told["tissue"] is True
    assert told["nuclei"] == sum(told["types"].values()) == sum(counts.values())


@pytest.mark.parametrize("text", ["", "a scan", WARNING, f"{WARNING} {{", f"{WARNING} [1]"])
def test_damaged_provenance_is_none(text):
    assert facts_of(text) == {} and legible_facts(text) == []
    assert is_synthetic(text) is (WARNING in text)


# What is made of a rendered slide


FORMS = ("lizard", "coco", "masks", "tiatoolbox", "types", "instances")


@pytest.fixture(scope="module", params=["rendered", "scanned"])
def exported(request, rendered, tmp_path_factory):
    """All formats, made of a rendered slide and of another one; whether it was rendered."""
    folder, slide = tmp_path_factory.mktemp("exported"), rendered / "slide.ome.tif"
    if request.param == "scanned":
        slide = folder / "slide.ome.tif"
        pixels = tifffile.imread(rendered / "slide.ome.tif")
        ome_tiff.write(slide, pixels, mpp=0.5, description="a scan")
    suffix = {"tiatoolbox": ".db", "types": ".ome.tif", "instances": ".ome.zarr"}
    labels = rendered / "slide.geojson"
    for form in FORMS:
        out = folder / f"{form}{suffix.get(form, '')}"
        run("export", slide, "--labels", labels, "--format", form, "-o", out)
    return folder, request.param == "rendered"


def test_tiles_say_that_they_are_synthetic(exported):
    folder, synthetic = exported
    pictures = [p for form in FORMS[:3] for p in (folder / form).rglob("*.png")]
    assert len(pictures) == 4
    for path in pictures:
        with Image.open(path) as picture:
            text = picture.text.get("Description", "")
        assert is_synthetic(text) is synthetic
        assert not synthetic or facts_of(text)["seed"] == 7
    coco = json.loads((folder / "coco" / "annotations.json").read_text())
    assert is_synthetic(coco["info"]["description"]) is synthetic
    (mat,) = (folder / "lizard" / "labels").glob("*.mat")
    assert ("provenance" in loadmat(mat)) is synthetic


def test_stores_and_pyramids_say_so_too(exported):
    folder, synthetic = exported
    with closing(sqlite3.connect(folder / "tiatoolbox.db")) as store:
        told = dict(store.execute("SELECT key, value FROM metadata"))
    assert ("Synthetic" in told.get("provenance", "")) is synthetic
    for name in ("types.ome.tif", "instances.ome.zarr"):
        if name.endswith("tif"):
            with tifffile.TiffFile(folder / name) as file:
                text = file.pages[0].description
        else:
            header = json.loads((folder / name / "zarr.json").read_text())
            text = header["attributes"]["description"]
        assert (WARNING in text) is synthetic and "Nuclei of slide.ome.tif" in text


# Rates and boxes


def test_only_pixels_that_were_painted_count(job, tmp_path):
    out = tmp_path / "a.tif"
    whole = render(job, tmp_path / "whole.tif", workers=1)
    assert whole == 150 * 203

    class Stop(Exception):
        pass

    def stop(what, done, total):
        if what == "writing":
            raise Stop

    with pytest.raises(Stop):
        render(job, out, workers=1, progress=stop)
    assert render(job, out, workers=1) == 0  # all was painted by the first


def test_boxes_are_told_in_the_order_in_which_they_were_given(job, command):
    said = run(*command, "--region", 3, 5, 9999, 7, code=1)
    assert "region 3 5 9999 7 (x, y, width, height)" in said and "203 x 150 pixels" in said
    with pytest.raises(PlanError, match=r"region -1 2 10 20 \(x, y, width, height\)"):
        plan_render(job.nuclei, job.painter, size=(50, 60), region=(2, -1, 22, 9))
    text = provenance({"region": [1, 2, 31, 42], "canvas": [60, 50], "other": [1, 2]})
    assert dict(legible_facts(text)) == {
        "region": "2 1 40 30 (x, y, width, height)",
        "canvas": "50 x 60 pixels",
        "other": "1, 2",
    }
    assert re.search(r"^region +0 0 203 150 ", "\n".join(map("  ".join, legible_rows(job))), re.M)


def legible_rows(job):
    return legible_facts(job.provenance)


def test_glass_is_not_painted(annotations, weights, tmp_path):
    painter = Painter(weights, steps=2, device="cpu")
    nuclei = read_annotations(annotations, mpp=0.25)  # tissue ends at 120 pixels
    job = plan_render(nuclei, painter, size=(1300, 64))
    painted = render(job, tmp_path / "a.tif", workers=1)
    assert 120 <= job.plan.stride < 1300 and painted == job.plan.stride * 64

"""The command line as a user meets it: help, exit codes, one line for each mistake."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import closing, redirect_stderr
from pathlib import Path

import click
import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner
from helpers import Terminal
from skimage.io import imsave

from nasdm_wsi.cli.main import main
from nasdm_wsi.cli.options import bars
from nasdm_wsi.model.config import PRESETS
from nasdm_wsi.model.families import build
from nasdm_wsi.model.painter import Painter

README = Path(__file__).parents[1] / "README.md"


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def failed(result):
    """The message of a user's mistake: one line, exit code 1, no traceback."""
    assert result.exit_code == 1, result.output
    last = result.output.strip().splitlines()[-1]
    assert last.startswith("Error: ") and "Traceback" not in result.output
    return last


@pytest.fixture
def options(weights, tmp_path):
    return (
        *("-o", tmp_path / "slide.ome.tif", "--weights", weights),
        *("--steps", 2, "--device", "cpu"),
    )


def test_every_command_and_option_has_help_and_every_command_stands_in_the_readme():
    assert "not for diagnosis" in run("--help").output
    text = README.read_text()
    for name, command in main.commands.items():
        assert command.help and f"nasdm-wsi {name}" in text
        options = [p for p in command.params if isinstance(p, click.Option)]
        assert all(p.help or p.name in ("overwrite", "seed", "quality") for p in options)


def test_help_answers_without_loading_torch():
    code = "import sys; from nasdm_wsi.cli.main import main; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_render_and_info(annotations, options, tmp_path):
    result = run("render", annotations, *options, "--mpp", 0.25, "--size", 203, 150)
    assert result.exit_code == 0, result.output
    last = result.output.strip().splitlines()[-1]
    assert "203 x 150 pixels at 0.5 mpp" in last and "pixels/s" in last and "QuPath" in last
    assert tifffile.imread(tmp_path / "slide.ome.tif").shape == (150, 203, 3)
    told = run("info", tmp_path / "slide.ome.tif").output
    assert re.search(r"size +203 x 150 pixels\nmpp +0.5\n", told)
    told = run("info", tmp_path / "slide.geojson").output
    assert re.search(r"nuclei +50\nneutrophil +9\n", told)


def test_render_of_lizard_labels(lizard_source, options, tmp_path):
    labels = lizard_source / "labels" / "a.mat"
    assert run("render", labels, *options, "--size", 200, 160).exit_code == 0
    assert len(json.loads((tmp_path / "slide.geojson").read_text())["features"]) == 63


def test_style_from_a_picture_and_by_name(annotations, options, tmp_path, lizard_source):
    common = (annotations, "--mpp", 0.25, "--size", 96, 96, *options[2:])
    picture = lizard_source / "images" / "a.png"
    for name, style in (("a", picture), ("b", "pale")):
        assert (
            run("render", *common, "-o", tmp_path / f"{name}.tif", "--style", style).exit_code == 0
        )
    assert "neither a file nor one of" in failed(
        run("render", *common, "-o", tmp_path / "c.tif", "--style", "nowhere")
    )


def test_dry_run_prints_the_plan_and_touches_nothing(annotations, options, tmp_path):
    result = run("render", annotations, *options, "--mpp", 0.25, "--size", 1300, 700, "--dry-run")
    assert result.exit_code == 0, result.output
    told = dict(line.split(maxsplit=1) for line in result.output.splitlines())
    assert told["slide"] == "1300 x 700 pixels at 0.5 mpp, 50 nuclei"
    plan = Painter(options[3], steps=2, device="cpu").plan((700, 1300))
    assert told["phases"] == str(len(plan.phases))
    assert told["blocks"].startswith(f"{plan.blocks[0] * plan.blocks[1]} of {plan.stride}")
    assert {"memory", "disk", "time"} <= set(told)
    assert not list(tmp_path.iterdir())


def test_prepare_train_and_info(lizard_source, region_source, tmp_path):
    result = run("prepare", lizard_source, region_source, "-o", tmp_path / "data")
    assert result.exit_code == 0 and "3 regions" in result.output
    assert "held out" in run("info", tmp_path / "data").output
    result = run(
        *("train", tmp_path / "data", "-o", tmp_path / "run", "--preset", "tiny"),
        *("--images", 16, "--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    told = run("info", tmp_path / "run" / "weights.safetensors").output
    assert "weights" in told and "tiny" in told
    assert "training checkpoint" in run("info", tmp_path / "run" / "last.safetensors").output


def test_convert_and_its_mistakes(tmp_path):
    network = build(PRESETS["nasdm-tiny"].network)
    torch.save(network.state_dict(), tmp_path / "ema.pt")
    out = tmp_path / "nasdm.safetensors"
    result = run("convert", tmp_path / "ema.pt", "-o", out)
    assert result.exit_code == 0 and "widths 32, 32, 64" in result.output
    assert re.search("family +semantic", run("info", out).output)
    assert "--overwrite" in failed(run("convert", tmp_path / "ema.pt", "-o", out))
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.pt")
    command = ("convert", tmp_path / "other.pt", "-o", tmp_path / "x.safetensors")
    assert "661 tensors differ: time_embed.0.weight is missing" in failed(run(*command))


def mistakes():
    """(name, spoil(folder, annotations) -> path, options, what the line must say)."""

    def written(text):
        def spoil(folder, annotations):
            path = folder / "bad.geojson"
            path.write_text(text if isinstance(text, str) else text(annotations.read_text()))
            return path

        return spoil

    def same(folder, annotations):
        return annotations

    def other_class(text):
        return text.replace("Epithelial", "Necrosis")

    collection = '{"type": "FeatureCollection", "features": []}'
    mpp = ("--mpp", "0.25")
    return [
        ("not JSON", written("hello"), mpp, "bad.geojson"),
        ("truncated", written(lambda text: text[: len(text) // 2]), mpp, "bad.geojson"),
        ("empty file", written(""), mpp, "bad.geojson"),
        ("no nuclei", written(collection), mpp, "nuclei"),
        ("unknown class", written(other_class), mpp, "Necrosis.*--class-map.*--ignore-class"),
        ("mpp missing", same, (), "--mpp"),
        ("mpp absurd", same, ("--mpp", "-1"), "mpp"),
        ("region outside", same, (*mpp, "--region", "0", "0", "9999", "5"), "does not lie within"),
        ("wrong suffix", same, (*mpp, "-o", "slide.png"), "must end in"),
        ("no such folder", same, (*mpp, "-o", "nowhere/slide.tif"), "nowhere is not a folder"),
        ("no such device", same, (*mpp, "--device", "cuda:99"), "not available"),
    ]


@pytest.mark.parametrize(
    "spoil, extra, message", [pytest.param(*m[1:], id=m[0].replace(" ", "-")) for m in mistakes()]
)
def test_a_mistake_ends_in_one_line_and_leaves_nothing(
    annotations, options, tmp_path, spoil, extra, message
):
    (tmp_path / "in").mkdir()
    path = spoil(tmp_path / "in", annotations)
    assert re.search(message, failed(run("render", path, *options, *extra)))
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_existing_outputs_are_kept_unless_told_otherwise(annotations, options, tmp_path):
    out = tmp_path / "slide.ome.tif"
    out.write_text("precious")
    command = ("render", annotations, *options, "--mpp", 0.25, "--size", 64, 64)
    assert "--overwrite" in failed(run(*command))
    assert out.read_text() == "precious"
    assert run(*command, "--overwrite").exit_code == 0
    assert tifffile.imread(out).shape == (64, 64, 3)


def test_bad_weights_slides_and_datasets_are_named(annotations, options, tmp_path, dataset):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"x" * 100)
    command = ("render", annotations, *options, "--mpp", 0.25)
    assert "bad.safetensors" in failed(run(*command, "--weights", bad))
    assert "bad.safetensors" in failed(run("info", bad))
    assert failed(run(*command, "--weights", "huge")).endswith("or a name, medium or small")
    assert "choose other --weights" in failed(run(*command, "--weights", "layout-nuclei"))
    slide = tmp_path / "bad.svs"
    slide.write_bytes(b"x" * 100)
    assert "bad.svs" in failed(run("info", slide))
    glass = tmp_path / "glass.png"
    imsave(glass, np.full((300, 300, 3), 250, np.uint8), check_contrast=False)
    assert "no tissue" in failed(run(*command, "--style", glass))
    copy = shutil.copytree(dataset, tmp_path / "data")
    (copy / "manifest.json").unlink()
    assert "not a prepared dataset" in failed(run("train", copy, "-o", tmp_path / "run"))
    assert "choose one of tiny" in failed(
        run("train", dataset, "-o", tmp_path / "run", "--preset", "huge")
    )


@pytest.mark.skipif(os.name == "nt", reason="has no terminals that a test can open")
def test_bars_count_what_is_done():
    with closing(Terminal()) as terminal:
        file = open(terminal.inner, "w", closefd=False)
        with file, redirect_stderr(file), bars("task") as progress:
            for done in (4, 7, 10):
                progress("painting", done, 10, loss=0.5)
            progress("writing", 1, 2)
        lines = terminal.shown().strip().split("\n")
    painting, writing = (line.split("\r")[-1] for line in lines)
    assert painting.startswith("painting: 100%") and "10/10" in painting and "loss=0.5" in painting
    assert writing.startswith("writing:  50%") and "1/2" in writing


@pytest.mark.skipif(os.name == "nt", reason="allows no such name")
def test_a_message_is_one_line_whatever_it_quotes(tmp_path):
    strange = tmp_path / "two\nlines.geojson"
    strange.write_text("hello")
    line, *more = run("info", strange).output.strip().splitlines()
    assert line.startswith("Error: ") and "two lines.geojson" in line and not more


def test_a_class_name_may_hold_an_equals_sign(annotations, tmp_path):
    path = tmp_path / "a.geojson"
    path.write_text(annotations.read_text().replace("Epithelial", "CK=pos"))
    told = run("info", path, "--class-map", "CK=pos=epithelial").output
    assert re.search(r"^CK=pos +epithelial +\d+$", told, re.M)


def test_wrong_usage_is_exit_code_2(annotations, tmp_path):
    assert run("render", annotations).exit_code == 2
    assert run("render", annotations, "-o", tmp_path / "a.tif", "--class-map", "x").exit_code == 2
    assert run("render", tmp_path / "nowhere.geojson", "-o", tmp_path / "a.tif").exit_code == 2


def test_render_loads_no_library_that_it_may_not_need():
    code = (
        "import sys; from nasdm_wsi.cli.main import main; from nasdm_wsi.model import Painter; "
        "import nasdm_wsi.rendering, nasdm_wsi.tools.many; "
        "print({'zarr', 'tiffslide', 'scipy.ndimage', 'scipy.linalg', 'distributed', 'pydicom'}"
        " & sys.modules.keys())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"

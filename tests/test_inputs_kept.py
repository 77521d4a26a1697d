"""No output takes the place of an input, by whatever name, whatever `overwrite` says."""

import os
import re
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import labelled_tissue
from skimage.io import imsave

from nasdm_wsi import plan_render, read_annotations, render
from nasdm_wsi.annotations.geojson import write_geojson
from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import OutputError
from nasdm_wsi.model import Painter
from nasdm_wsi.model.config import PRESETS
from nasdm_wsi.model.convert import convert
from nasdm_wsi.model.evaluation.report import write_report
from nasdm_wsi.model.families import build
from nasdm_wsi.model.training.train import train
from nasdm_wsi.output import keep_inputs
from nasdm_wsi.slides import ome_tiff, ome_zarr
from nasdm_wsi.tools.export import export
from nasdm_wsi.tools.prepare import prepare

SIZE = ("--size", 64, 64)


def contents(folder):
    """Every file and link below a folder, with its bytes."""
    return {p: os.readlink(p) if p.is_symlink() else p.read_bytes() for p in files(folder)}


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_symlink() or p.is_file())


def refused(folder, *arguments):
    """The command ends in one line about an input, and no file has changed."""
    before = contents(folder)
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 1, result.output
    (line,) = result.output.strip().splitlines()
    assert re.match("Error: .*input.*choose another --out$", line), line
    assert contents(folder) == before
    return line


def as_named(path, how):
    """Another name for the same file or folder."""
    other = path.with_name(f"{how}-{path.name}")
    if how == "symbolic":
        other.symlink_to(path)
    elif how == "hard":
        os.link(path, other)
    elif how == "dots":
        return path.parent / ".." / path.parent.name / path.name
    else:
        return path
    return other


NAMES = ["same", "symbolic", "hard", "dots"]


@pytest.fixture
def case(annotations, weights, tmp_path):
    """A folder with everything that a render may read."""
    folder = tmp_path / "case"
    folder.mkdir()
    shutil.copy(annotations, folder / "case1.geojson")
    shutil.copy(weights, folder / "weights.safetensors")
    pixels, _, types = labelled_tissue((300, 400), seed=1)
    ome_tiff.write(folder / "slide.ome.tif", pixels, mpp=0.25, description="")
    ome_tiff.write(folder / "labels.tif", types, mpp=0.5, description="")
    ome_zarr.write(folder / "slide.ome.zarr", pixels, mpp=0.25, description="")
    return folder


@pytest.fixture
def render_of(case):
    def command(out, *options, annotations=case / "case1.geojson"):
        given = ("--weights", case / "weights.safetensors", "--device", "cpu", *options)
        return ("render", annotations, "-o", out, "--steps", 2, *given)

    return command


# Rendering


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_annotations_named_as_their_slide(case, render_of, overwrite):
    command = render_of(case / "case1.ome.tif", "--mpp", 0.25, *SIZE, *overwrite)
    assert "case1.geojson is an input" in refused(case, *command)


@pytest.mark.parametrize("how", NAMES)
@pytest.mark.parametrize("option", ["--like", "--style", "ANNOTATIONS"])
def test_render_onto_what_it_reads(case, render_of, option, how):
    slide = case / ("labels.tif" if option == "ANNOTATIONS" else "slide.ome.tif")
    out = as_named(slide, how)
    if option == "--like":
        command = render_of(out, "--like", slide, "--overwrite")
    elif option == "--style":
        command = render_of(out, "--style", slide, "--mpp", 0.25, *SIZE, "--overwrite")
    else:
        command = render_of(out, "--mpp", 0.5, "--overwrite", annotations=slide)
    refused(case, *command)


def test_render_whose_nuclei_would_go_onto_weights(case, render_of):
    (case / "weights.safetensors").rename(case / "a.geojson")
    options = ("--mpp", 0.25, *SIZE, "--weights", case / "a.geojson", "--overwrite")
    refused(case, *render_of(case / "a.ome.tif", *options))


def test_render_into_a_folder_that_holds_an_input(case, render_of):
    for folder in (case / "slide.ome.zarr", case / "new.ome.tif.run"):
        folder.mkdir(exist_ok=True)
        annotations = shutil.copy(case / "case1.geojson", folder / "mine.geojson")
        out = folder.with_name(folder.name.removesuffix(".run"))
        options = ("--mpp", 0.25, *SIZE, "--overwrite")
        refused(case, *render_of(out, *options, annotations=annotations))


def test_render_onto_a_part_of_an_input(case, render_of):
    out = case / "slide.ome.zarr" / "part.tif"
    out.write_text("a part")
    refused(case, *render_of(out, "--like", case / "slide.ome.zarr", "--overwrite"))


def test_a_link_to_another_output_is_no_input(case, render_of):
    (case / "out.ome.tif").symlink_to(case / "nowhere.ome.tif")
    command = render_of(case / "out.ome.tif", "--mpp", 0.25, *SIZE, "--overwrite")
    assert CliRunner().invoke(main, [str(a) for a in command]).exit_code == 0


@pytest.mark.parametrize("which", ["annotations", "like", "style", "weights"])
def test_render_in_python_knows_its_inputs(case, which):
    weights, nuclei = case / "weights.safetensors", case / "case1.geojson"
    slide = case / "slide.ome.tif"
    like = {"like": slide} if which == "like" else {"mpp": 0.25}
    if which == "weights":
        weights = weights.rename(case / "network.geojson")
    style = slide if which == "style" else None
    read = read_annotations(nuclei, **like)
    painter = Painter(weights, steps=2, device="cpu", style=style)
    job = plan_render(read, painter, size=(64, 64), region=(8, 8, 40, 40))
    out = {
        "annotations": case / "case1.ome.zarr",
        "weights": case / "network.tif",
    }.get(which, slide)
    before = contents(case)
    with pytest.raises(OutputError, match="is an input, and the output .* would replace it"):
        render(job, out, overwrite=True)
    assert contents(case) == before


# Other commands


@pytest.fixture
def slide(case):
    nuclei = read_annotations(case / "case1.geojson", mpp=0.25)
    write_geojson(case / "slide.geojson", nuclei)
    return case / "slide.ome.tif"


@pytest.mark.parametrize("how", NAMES)
@pytest.mark.parametrize("form", ["types", "tiatoolbox"])
@pytest.mark.parametrize("read", ["slide", "labels", "labels beside"])
def test_export_onto_what_it_reads(case, slide, read, form, how):
    labels, given = case / "slide.geojson", ()
    if read == "labels":
        labels = labels.rename(case / "other.tif")
        given = ("--labels", labels)
    out = as_named(slide if read == "slide" else labels, how)
    command = ("export", slide, *given, "-o", out, "--format", form)
    refused(case, *command, "--overwrite")
    with pytest.raises(OutputError, match="input"):
        export(slide, out, form=form, labels=labels, overwrite=True)


@pytest.mark.parametrize("how", ["same", "symbolic", "dots"])
def test_prepare_onto_a_source(lizard_source, tmp_path, how):
    source = shutil.copytree(lizard_source, tmp_path / "source")
    out = as_named(source, how)
    refused(tmp_path, "prepare", lizard_source, source, "-o", out)
    refused(tmp_path, "prepare", source / "images", "-o", source)  # never "remove it"
    picture = source / "images" / "a.png"
    refused(tmp_path, "prepare", lizard_source, "-o", picture, "--normalise-to", picture)
    with pytest.raises(OutputError, match="input"):
        prepare([source], out)


def test_a_dataset_beside_its_sources_is_fine(lizard_source, tmp_path):
    source = shutil.copytree(lizard_source, tmp_path / "source")
    assert len(prepare([source], source / "dataset")) == 2


@pytest.mark.parametrize("how", NAMES)
def test_convert_onto_its_checkpoint(tmp_path, how):
    checkpoint = tmp_path / "ema.safetensors"
    torch.save(build(PRESETS["nasdm-tiny"].network).state_dict(), checkpoint)
    out = as_named(checkpoint, how)
    refused(tmp_path, "convert", checkpoint, "-o", out, "--overwrite")
    with pytest.raises(OutputError, match="input"):
        convert(checkpoint, out, overwrite=True)


TRAINING = ("--preset", "tiny", "--images", 8, "--device", "cpu")


@pytest.mark.parametrize("how", ["same", "symbolic", "dots"])
def test_train_into_its_dataset(dataset, tmp_path, how):
    data = shutil.copytree(dataset, tmp_path / "data")
    out = as_named(data, how)
    refused(tmp_path, "train", data, "-o", out, *TRAINING)
    with pytest.raises(OutputError, match="input"):
        train(data, out, preset="tiny", images=8)


@pytest.mark.parametrize("name", ["weights.safetensors", "last.safetensors"])
@pytest.mark.parametrize("how", ["same", "symbolic", "hard"])
def test_train_onto_the_weights_it_starts_from(dataset, weights, tmp_path, how, name):
    (tmp_path / "run").mkdir()
    init = shutil.copy(weights, tmp_path / "run" / name)
    init = as_named(init, how)
    refused(tmp_path, "train", dataset, "-o", tmp_path / "run", "--init", init, *TRAINING)


@pytest.mark.parametrize("how", ["same", "symbolic", "dots"])
def test_a_report_onto_what_is_evaluated(dataset, weights, tmp_path, how):
    data = shutil.copytree(dataset, tmp_path / "data")
    refused(tmp_path, "evaluate", data, "-o", as_named(data, how))
    (tmp_path / "report").mkdir()
    own = shutil.copy(weights, tmp_path / "report" / "grid.png")
    for option in ("--weights", "--inception"):
        refused(tmp_path, "evaluate", data, "-o", tmp_path / "report", option, own)
    row = {"inputs": (data, tmp_path / "none"), "patches": [], "worst": []}
    with pytest.raises(OutputError, match="input"):
        write_report(data, [row])


# The function itself


def test_what_does_not_exist_is_kept_by_nothing(tmp_path):
    keep_inputs([tmp_path / "a"], [tmp_path / "a", None])
    (tmp_path / "b").write_text("b")
    keep_inputs([tmp_path / "a", tmp_path / "b" / "c"], [tmp_path / "b"])


def test_an_input_behind_a_link_in_a_folder_that_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "real" / "a").write_text("a")
    (tmp_path / "out" / "link").symlink_to(tmp_path / "real" / "a")
    for given in (tmp_path / "out" / "link", tmp_path / "real" / "a"):
        for output in (tmp_path / "out", tmp_path / "real"):
            if given.parent == output or output.name == "real":
                with pytest.raises(OutputError, match="lies in the output"):
                    keep_inputs([output], [given])


def test_pictures_are_inputs_too(tmp_path):
    imsave(tmp_path / "a.png", np.full((9, 9, 3), 9, np.uint8), check_contrast=False)
    with pytest.raises(OutputError, match="a.png is an input"):
        keep_inputs([tmp_path / "a.png"], [str(tmp_path / "a.png")])

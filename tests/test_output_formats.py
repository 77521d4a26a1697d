"""Output formats: what each entry of the registry promises, and that one more is one entry."""

import sys
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import OutputError
from nasdm_wsi.slides import formats
from nasdm_wsi.slides.formats import FORMATS, OutputFormat, find_format, format_of, labels_path
from nasdm_wsi.slides.reading import open_slide

RENDER = ("--mpp", 0.25, "--size", 90, 70, "--steps", 2, "--device", "cpu")


def run(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_slide_and_its_labels_go_the_whole_way(form, annotations, weights, tmp_path):
    out = tmp_path / f"slide{form.suffixes[0]}"
    said = run("render", annotations, "-o", out, *RENDER, "--weights", weights)
    assert form.next_step.format(labels="slide.geojson") in said
    with open_slide(out) as slide:
        assert slide.size == (70, 90) and slide.mpp == pytest.approx(0.5)
        assert slide.read((0, 0, 70, 90), mpp=0.5).std() > 10
        assert '"seed": 0' in slide.description or form.reader
    assert "size 90 x 70 pixels" in " ".join(run("info", out).split())
    like = ("--like", out, "--weights", weights, "--steps", 2, "--dry-run")
    assert "90 x 70" in run("render", annotations, "-o", tmp_path / "b.ome.tif", *like)
    run("render", annotations, "-o", out, *RENDER, "--weights", weights, "--overwrite")


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_labels_are_exported_where_the_format_can_hold_them(form, annotations, tmp_path):
    slide, out = tmp_path / "slide.png", tmp_path / f"types{form.suffixes[0]}"
    Image.new("RGB", (400, 300)).save(slide)
    arguments = ["export", slide, "-o", out, "--labels", annotations, "--mpp", 0.25]
    result = CliRunner().invoke(main, [str(a) for a in (*arguments, "--format", "types")])
    assert result.exit_code == (not form.labels) and out.exists() == form.labels
    if not form.labels:
        assert f"types{form.suffixes[0]}: the output must end in .ome.tif, " in result.output


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_suffixes_decide_whatever_their_case(form, tmp_path):
    for suffix in form.suffixes:
        for name in (f"a.b{suffix}", f"a.b{suffix.upper()}"):
            assert format_of(tmp_path / name) is find_format(name) is form
            assert labels_path(tmp_path / name) == tmp_path / "a.b.geojson"


def test_other_names_are_refused_and_have_labels_beside_them_all_the_same(tmp_path):
    assert find_format("a.mrxs") is None
    assert labels_path(tmp_path / "a.b.mrxs") == tmp_path / "a.b.geojson"
    with pytest.raises(OutputError, match="a.mrxs: .* end in .ome.tif, .* or .ome.zarr"):
        format_of("a.mrxs")


def test_one_more_format_is_a_module_and_an_entry(annotations, weights, tmp_path, monkeypatch):
    def write(path, pixels, *, mpp, description, progress=None):
        Image.fromarray(np.asarray(pixels[:])).save(path, "PNG", dpi=(25400 / mpp,) * 2)

    module = ModuleType("nasdm_wsi.slides.plain")
    module.write = write
    form = OutputFormat("plain", (".plain",), module="plain", next_step="look at it")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, form))

    out = tmp_path / "slide.plain"
    assert "look at it" in run("render", annotations, "-o", out, *RENDER, "--weights", weights)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["slide.geojson", "slide.plain"]
    assert "90 x 70 pixels" in run("info", out)
    run("export", out, "-o", tmp_path / "types.plain", "--format", "types", "--mpp", 0.5)
    assert set(np.unique(Image.open(tmp_path / "types.plain"))) == set(range(7))
    assert "NAME.ome.zarr or NAME.plain" in formats.names()

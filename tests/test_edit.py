"""Edits of slides: from the command to what is in the slide, in the labels and in the mask."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from helpers import PATIENCE, tissue
from PIL import Image
from scipy import ndimage
from shapely import affinity

from nasdm_wsi import edit_region, read_annotations
from nasdm_wsi.annotations.geojson import write_geojson
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.regions import Regions
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.cli.interrupts import CODE
from nasdm_wsi.cli.main import main
from nasdm_wsi.editing import mask as masks
from nasdm_wsi.editing import presets
from nasdm_wsi.editing.areas import read_area, widened
from nasdm_wsi.editing.changes import ADDED, CHANGED, PAINTED, SAME, changes
from nasdm_wsi.editing.edit import edited, plan_edit
from nasdm_wsi.editing.outlines import axis
from nasdm_wsi.editing.source import EditedSlide
from nasdm_wsi.errors import PlanError
from nasdm_wsi.layouts.outlines import AREAS
from nasdm_wsi.model import Painter
from nasdm_wsi.mosaic.store import RunStore
from nasdm_wsi.provenance import facts_of
from nasdm_wsi.rendering import render_region
from nasdm_wsi.slides import ome_tiff
from nasdm_wsi.slides.formats import format_of
from nasdm_wsi.slides.reading import open_slide

SIZE = (320, 400)


def discs(count=60, *, types=None, seed=0, size=SIZE):
    """Nuclei on a grid with some room between them, at 0.5 mpp."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[20 : size[0] - 15 : 36, 20 : size[1] - 15 : 36].reshape(2, -1)[:, :count]
    outlines = shapely.buffer(shapely.points(x, y), rng.uniform(4, 7, len(x)))
    kinds = np.arange(len(x)) % 6 + 1 if types is None else np.full(len(x), types)
    return Nuclei.from_polygons(outlines, kinds, mpp=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A slide with JPEG tiles, the same picture without loss, and its nuclei."""
    folder = tmp_path_factory.mktemp("source")
    noise = np.random.default_rng(0).normal(0, 6, (*SIZE, 3))
    picture = np.clip(tissue(*SIZE) + noise, 0, 255).astype(np.uint8)
    ome_tiff.write(folder / "s.ome.tif", picture, mpp=0.5, description="real", tile=128)
    Image.fromarray(picture).save(folder / "s.png")
    write_geojson(folder / "n.geojson", discs())
    return folder


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def edit(folder, fitting_weights, tmp_path):
    """Run the command on the slide with JPEG tiles; returns what it prints."""

    def command(*options, out="e.ome.tif", slide="s.ome.tif", nuclei=folder / "n.geojson", code=0):
        fixed = ("--weights", fitting_weights, "--device", "cpu", "--steps", 2)
        out = tmp_path / out
        return run("edit", folder / slide, nuclei, "-o", out, *fixed, *options, code=code)

    return command


def pixels(path, mpp=None):
    with open_slide(path) as slide:
        return slide.read((0, 0, *slide.size), mpp=mpp or slide.mpp or 0.5)


def mask_of(path):
    """Bool (h, w), from a mask that the command wrote."""
    return pixels(path)[..., 0] > 0


def features(path):
    return json.loads(path.read_text(encoding="utf-8"))["features"]


def test_outside_the_mask_every_pixel_is_that_of_the_slide(edit, folder, tmp_path):
    """Inside it, most pixels differ; the mask, the area and the provenance say the same."""
    edit("--remove", "lymphocyte=3", "--mask", tmp_path / "m.ome.tif")
    before, after = pixels(folder / "s.ome.tif"), pixels(tmp_path / "e.ome.tif")
    mask = mask_of(tmp_path / "m.ome.tif")
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert 0.01 < mask.mean() < 0.2 and (after[mask] != before[mask]).any(axis=1).mean() > 0.5
    written = features(tmp_path / "e.geojson")
    area = [f for f in written if f["properties"].get("name") == "synthetic"]
    polygons = shapely.union_all([shapely.geometry.shape(f["geometry"]) for f in area])
    assert polygons.area == mask.sum()
    with open_slide(tmp_path / "e.ome.tif") as slide:
        facts = facts_of(slide.description)
        assert slide.description.startswith("real")
    source = (folder / "s.ome.tif").read_bytes()
    assert facts["known"]["SHA-256"] == hashlib.sha256(source).hexdigest()
    assert facts["known"]["source"] == "s.ome.tif" and facts["seed"] == 0
    told = run("info", tmp_path / "e.ome.tif")
    assert re.search("^edit: source +s.ome.tif$", told, re.M)
    y0, x0, y1, x1 = facts["known"]["boxes"][0]
    first = " ".join(f"{n:g}" for n in (x0, y0, x1 - x0, y1 - y0))
    assert re.search(rf"^edit: boxes +{re.escape(first)}[;\s]", told, re.M)
    assert max(map(len, told.splitlines())) < 250
    assert re.search("synthetic +in part", told)


def test_the_slide_fades_into_what_is_painted(folder):
    """Over four pixels inside the border of the area; outside it keeps its pixels."""
    slide = np.array(Image.open(folder / "s.png"))[80:180, 80:180]
    area = shapely.box(100, 100, 160, 160)
    known = EditedSlide(folder / "s.png", 0.5, None, (0, 0), area, None, "", SIZE)
    got = known.finished((80, 80, 180, 180), np.zeros_like(slide))
    outside = np.ones(slide.shape[:2], bool)
    outside[20:80, 20:80] = False
    np.testing.assert_array_equal(got[outside], slide[outside])
    for depth in range(1, 6):
        row = 19 + depth
        np.testing.assert_allclose(got[row, 30:70], slide[row, 30:70] * (1 - depth / 5), atol=0.51)
    assert not got[24:76, 24:76].any()


def test_at_the_edge_of_the_slide_nothing_of_it_is_left(folder, fitting_weights):
    """What lies beyond the slide is no border: it is neither known nor faded into."""
    source, (height, width) = pixels(folder / "s.png"), SIZE
    painter = Painter(fitting_weights, steps=2, device="cpu")
    corner = shapely.box(width - 60, height - 50, width, height)
    job = plan_edit(folder / "s.png", discs(), corner, painter, mpp=0.5)
    beyond = (height, width, height + 20, width + 20)
    assert not job.known.mask(beyond).any()
    assert job.known.mask((0, 0, 20, 20)).all() and job.known.mask((-20, -20, 0, 0)).all()
    box = (height - 40, width - 50, height, width)
    black = job.known.finished(box, np.zeros((40, 50, 3), np.uint8))
    assert not black.any()
    after = render_region(replace(job, region=(height - 60, width - 70, height, width)))
    before = source[-60:, -70:]
    away = np.abs(after.astype(int) - before).mean(axis=2)
    assert not away[:10].any() and not away[:, :10].any()
    assert away[-1, 20:].mean() > 0.5 * away[30:50, 30:60].mean()
    assert away[20:, -1].mean() > 0.5 * away[30:50, 30:60].mean()


def test_regions_inside_the_area_are_painted(edit, folder, tmp_path):
    """As they are in a file of their own; they are written with the nuclei."""
    square = shapely.box(100, 100, 180, 180)
    (tmp_path / "area.geojson").write_text(shapely.to_geojson(square))
    lumen = Regions.from_polygons([square.buffer(-8)], ["lumen"], mpp=0.5)
    write_geojson(tmp_path / "r.geojson", replace(discs(1), regions=lumen))
    edit("--area", tmp_path / "area.geojson", out="a.ome.tif")
    edit("--area", tmp_path / "area.geojson", "--regions", tmp_path / "r.geojson", out="b.ome.tif")
    without, told = (pixels(tmp_path / name) for name in ("a.ome.tif", "b.ome.tif"))
    differs = (without != told).any(axis=2)
    assert differs[108:172, 108:172].mean() > 0.3 and not differs[:90].any()
    written = read_annotations(tmp_path / "b.geojson", mpp=0.5)
    assert written.regions.counts() == lumen.counts()


def test_labels_say_what_has_become_of_each_nucleus(edit, folder, tmp_path):
    edit("--insert", "plasma=2", "--remove", "lymphocyte=3", "--swap", "connective=neutrophil")
    written = features(tmp_path / "e.geojson")
    names = [f["properties"].get("name", "") for f in written]
    assert names.count("added") == 2 and names.count("removed lymphocyte") == 3
    assert names.count("changed") == discs().counts()["connective"]
    now = read_annotations(tmp_path / "e.geojson", mpp=0.5)
    before = discs().counts()
    assert now.counts() == before | {
        "plasma": before["plasma"] + 2,
        "lymphocyte": before["lymphocyte"] - 3,
        "connective": 0,
        "neutrophil": before["neutrophil"] + before["connective"],
    }


def test_the_same_command_gives_the_same_bytes_and_another_seed_others(edit, tmp_path):
    for name, options in {
        "a": (),
        "b": ("--workers", 3),
        "c": ("--seed", 1),
        "d": ("--style", "deep"),
        "f": ("--guidance", 3),
        "g": ("--margin", 9),
    }.items():
        edit("--thin", 0.1, *options, out=f"{name}.ome.tif")
    content = {name: (tmp_path / f"{name}.ome.tif").read_bytes() for name in "abcdfg"}
    assert content["a"] == content["b"] and len(set(content.values())) == 5


def test_an_edit_resumes_and_existing_outputs_are_kept(edit, tmp_path, monkeypatch):
    edit("--thin", 0.2, out="whole.ome.tif")
    from nasdm_wsi.slides import patched

    def fails(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(patched, "change", fails)
        assert "No space left" in edit("--thin", 0.2, code=1)
    assert not (tmp_path / "e.ome.tif").exists()
    calls = []
    solve = Painter.solve
    monkeypatch.setattr(Painter, "solve", lambda *given: calls.append(given) or solve(*given))
    edit("--thin", 0.2)
    assert not calls  # all was painted before
    assert (tmp_path / "e.ome.tif").read_bytes() == (tmp_path / "whole.ome.tif").read_bytes()
    assert not (tmp_path / "e.ome.tif.run").exists()
    assert "exists" in edit("--thin", 0.2, code=1)
    edit("--thin", 0.2, "--overwrite")


def test_an_edit_that_was_stopped_before_its_mask_resumes(edit, tmp_path, monkeypatch):
    mask = tmp_path / "m.ome.tif"

    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(masks, "Rows", fails)
        edit("--thin", 0.2, "--mask", mask, code=1)
    before = (tmp_path / "e.ome.tif").stat().st_mtime_ns
    assert not mask.exists()
    assert "e.ome.tif exists" in edit("--thin", 0.3, "--mask", mask, code=1)
    edit("--thin", 0.2, "--mask", mask)
    assert 0 < mask_of(mask).mean() < 1
    assert (tmp_path / "e.ome.tif").stat().st_mtime_ns == before
    assert "exists" in edit("--thin", 0.2, "--mask", mask, code=1)


def test_an_edit_that_was_killed_in_the_clean_up_ends_well(edit, tmp_path, monkeypatch):
    def stop(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "clear", stop)
        edit("--thin", 0.2, code=CODE)
    before = (tmp_path / "e.ome.tif").stat().st_mtime_ns
    assert (tmp_path / "e.ome.tif.run").exists()
    edit("--thin", 0.2)
    assert (tmp_path / "e.ome.tif").stat().st_mtime_ns == before
    assert not (tmp_path / "e.ome.tif.run").exists()


def test_other_formats_are_written_anew_without_loss(edit, folder, tmp_path):
    edit("--thin", 0.1, "--mpp", 0.5, "--mask", tmp_path / "m.ome.tif", slide="s.png")
    before, after = pixels(folder / "s.png"), pixels(tmp_path / "e.ome.tif")
    mask = mask_of(tmp_path / "m.ome.tif")
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert (after[mask] != before[mask]).any() and 0 < mask.mean() < 0.3
    with open_slide(tmp_path / "e.ome.tif") as slide:
        assert slide.mpp == pytest.approx(0.5) and len(slide.levels) > 0


@pytest.mark.parametrize("suffix", [".dcm", ".ome.zarr"])
def test_slides_that_are_folders_are_edited_in_their_own_format(edit, folder, tmp_path, suffix):
    source, picture = tmp_path / f"s{suffix}", np.asarray(Image.open(folder / "s.png"))
    format_of(source).write(source, picture, mpp=0.5, description="")
    inside = source / "inside.ome.tif"
    if source.is_dir():
        assert "lies in" in edit("--thin", 0.1, slide=source, out=inside, code=1)
        output = edit("--thin", 0.1, "--mask", inside, slide=source, out="x.ome.tif", code=1)
        assert "lies in" in output and not inside.exists()
    out, mask = f"e{suffix}", tmp_path / "m.ome.tif"
    edit("--thin", 0.1, "--mask", mask, slide=source, out=out)
    before, after, mask = pixels(source), pixels(tmp_path / out), mask_of(mask)
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert (after[mask] != before[mask]).any() and 0 < mask.mean() < 0.3


def test_a_40x_slide_is_edited_at_the_pixel_size_of_the_weights(edit, folder, tmp_path, caplog):
    large = np.asarray(Image.open(folder / "s.png").resize((800, 640), Image.Resampling.BICUBIC))
    ome_tiff.write(tmp_path / "40x.ome.tif", large, mpp=0.25, description="")
    nuclei = tmp_path / "40x.geojson"
    write_geojson(nuclei, discs().scaled(0.25))
    output = edit("--thin", 0.1, slide=tmp_path / "40x.ome.tif", nuclei=nuclei)
    assert "at 0.5 mpp" in output
    assert "edited at 0.5 mpp" in caplog.text and "the slide has 0.25" in caplog.text
    with open_slide(tmp_path / "e.ome.tif") as slide:
        assert slide.mpp == pytest.approx(0.5) and slide.size == SIZE
        known = facts_of(slide.description)["known"]
    assert known["brought to mpp"] == 0.5 and known["from mpp"] == 0.25
    told = run("info", tmp_path / "e.ome.tif")
    assert re.search("brought to mpp +0.5", told)
    after, before = pixels(tmp_path / "e.ome.tif"), pixels(tmp_path / "40x.ome.tif", mpp=0.5)
    before = before[: SIZE[0], : SIZE[1]]
    assert 0.5 < (after == before).all(axis=2).mean() < 1
    areas = [
        np.median(n.areas()) for n in (discs(), read_annotations(tmp_path / "e.geojson", mpp=0.5))
    ]
    assert areas[0] == pytest.approx(areas[1], rel=0.1)


def test_what_is_painted_follows_the_area_and_the_difference(edit, folder, tmp_path):
    """Drawn in a file of its own, as an annotation of the class Edit, or by the nuclei before."""
    box = [[[96, 96], [160, 96], [160, 160], [96, 160], [96, 96]]]
    drawn = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": box}}
    drawn["properties"] = {"objectType": "annotation", "classification": {"name": "Edit"}}
    (tmp_path / "area.geojson").write_text(json.dumps(drawn))
    collection = {"type": "FeatureCollection", "features": [*features(folder / "n.geojson"), drawn]}
    (tmp_path / "both.geojson").write_text(json.dumps(collection))
    square = np.zeros(SIZE, bool)
    square[96:160, 96:160] = True
    edit("--area", tmp_path / "area.geojson", out="a.ome.tif")
    edit(out="b.ome.tif", nuclei=tmp_path / "both.geojson")
    assert (tmp_path / "a.ome.tif").read_bytes() == (tmp_path / "b.ome.tif").read_bytes()
    (tmp_path / "both.geojson.gz").write_bytes(
        gzip.compress((tmp_path / "both.geojson").read_bytes())
    )
    edit(out="c.ome.tif", nuclei=tmp_path / "both.geojson.gz")
    assert (tmp_path / "a.ome.tif").read_bytes() == (tmp_path / "c.ome.tif").read_bytes()
    before = pixels(folder / "s.ome.tif")
    changed = (pixels(tmp_path / "a.ome.tif") != before).any(axis=2)
    assert (
        changed[square].mean() > 0.8
        and not changed[~ndimage.binary_dilation(square, np.ones((3, 3)))].any()
    )
    names = [f["properties"].get("name") for f in features(tmp_path / "a.geojson")]
    assert names.count("painted anew") >= 3
    nuclei = read_annotations(folder / "n.geojson", mpp=0.5)
    write_geojson(tmp_path / "fewer.geojson", nuclei.take(np.arange(1, len(nuclei))))
    edit("--before", folder / "n.geojson", out="d.ome.tif", nuclei=tmp_path / "fewer.geojson")
    changed = (pixels(tmp_path / "d.ome.tif") != before).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert changed.any() and max(rows.max(), columns.max()) < 20 + 7 + 8 + 17


def test_an_area_is_in_pixels_of_the_slide(edit, tmp_path):
    """Also if the nuclei are not, as those of HoVer-Net at 40x on a slide at 20x."""
    (tmp_path / "area.geojson").write_text(shapely.to_geojson(shapely.box(96, 96, 160, 160)))
    rings = [2 * shapely.get_coordinates(polygon) for polygon in discs().polygons()]
    found = {f"{k}": {"contour": ring.tolist(), "type": 1} for k, ring in enumerate(rings)}
    (tmp_path / "n.json").write_text(json.dumps({"mag": 40, "nuc": found}))
    reading = ("--class-map", "1=plasma", "--contours", "corner")
    mask = tmp_path / "mask.ome.tif"
    edit("--area", tmp_path / "area.geojson", *reading, "--mask", mask, nuclei=tmp_path / "n.json")
    rows, columns = np.nonzero(mask_of(mask))
    assert {rows.min(), columns.min()} == {95} and {rows.max(), columns.max()} == {160}


def test_an_edit_of_a_region_in_python(folder, fitting_weights):
    """It has the pixels that the command would paint, where chroma is not mixed by JPEG."""
    painter = Painter(fitting_weights, steps=2, device="cpu")
    nuclei = discs()
    box = (100, 120, 164, 200)
    array = edit_region(folder / "s.png", box, nuclei, painter, seed=4)
    again = edit_region(folder / "s.png", box, nuclei, painter, seed=4)
    assert array.shape == (64, 80, 3) and array.dtype == np.uint8
    np.testing.assert_array_equal(array, again)
    source = pixels(folder / "s.png")[100:164, 120:200]
    away = np.abs(array.astype(int) - source).mean(axis=2)
    # The slide fades into what is painted.
    assert away[0].mean() < away[3].mean() < away[8:-8].mean()


def test_an_edit_in_memory_is_the_edit_in_the_file(edit, folder, fitting_weights, tmp_path):
    square = shapely.box(100, 110, 200, 190)
    (tmp_path / "area.geojson").write_text(shapely.to_geojson(square))
    edit("--area", tmp_path / "area.geojson", "--mpp", 0.5, slide="s.png")
    nuclei = read_annotations(folder / "n.geojson", mpp=0.5)
    painter = Painter(fitting_weights, steps=2, device="cpu")
    job = plan_edit(folder / "s.png", nuclei, square, painter, mpp=0.5)
    written = pixels(tmp_path / "e.ome.tif")
    np.testing.assert_array_equal(edited(job), written)
    assert (written != render_region(job)).any()  # which is not matched to the slide
    with open_slide(tmp_path / "e.ome.tif") as slide:
        match = facts_of(slide.description)["matched"]
    assert any(factor != 1 for factor in (*match["stain"], *match["bands"]))
    box = edit_region(folder / "s.png", (110, 100, 190, 200), nuclei, painter)
    np.testing.assert_array_equal(box, written[110:190, 100:200])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "there is nothing to repaint: give --area, --before, --insert"),
        (("--insert", "eosin=3"), "'eosin' is not a nucleus type: choose one of neutrophil"),
        (("--insert", "plasma"), "'plasma' is not TYPE=NUMBER"),
        (("--remove", "plasma=few"), "'few' is not a number"),
        (("--insert", "plasma=-1"), "Invalid value for '--insert': '-1'"),
        (("--insert", "plasma=300"), "ask for fewer"),
        (("--remove", "plasma=300"), "300 plasma nuclei are asked for, of 10: ask for fewer"),
        (("--remove", "plasma=1.5"), "'1.5' is not a share"),
        (("--thin", 0.1, "--mpp", 0.25), "states the pixel size: leave out --mpp"),
        (("--thin", 0.1, "--margin", "nan"), "Invalid value for '--margin': nan"),
        (("--thin", "nan"), "Invalid value for '--thin': nan"),
    ],
)
def test_mistakes_end_in_one_line(edit, tmp_path, options, said):
    wrong = ("is not TYPE", "not a number", "not a share", "Invalid value")
    output = edit(*options, code=2 if any(part in said for part in wrong) else 1)
    assert said in " ".join(output.split())
    assert not list(tmp_path.glob("e.*"))


@pytest.mark.parametrize(
    ("geometry", "said"),
    [
        ('{"type": "LineString", "coordinates": [[0, 0], [90, 90]]}', "has no polygons"),
        ('{"type": "FeatureCollection", "features": []}', "has no polygons"),
        (
            '{"type": "Polygon", "coordinates": [[[NaN, 0], [9, 9], [9, 0], [NaN, 0]]]}',
            "not a polygon with finite",
        ),
        (
            '{"type": "Polygon", "coordinates": [[[1e999, 0], [9, 9], [9, 0], [1, 0]]]}',
            "not a polygon with finite",
        ),
        ("\x89PNG", "not GeoJSON"),
    ],
)
def test_an_area_that_is_no_area_is_named(edit, tmp_path, geometry, said):
    (tmp_path / "area.geojson").write_text(geometry)
    output = edit("--area", tmp_path / "area.geojson", code=1)
    assert "area.geojson" in output and said in output and len(output.splitlines()) == 1


def test_all_nuclei_can_be_removed(edit, folder, tmp_path):
    """By --thin, and by an empty file with the nuclei before; and nuclei come where none were."""
    none = tmp_path / "none.geojson"
    none.write_text('{"type": "FeatureCollection", "features": []}')
    edit("--thin", 1, out="a.ome.tif")
    edit("--before", folder / "n.geojson", nuclei=none, out="b.ome.tif")
    for name in ("a", "b"):
        names = [f["properties"].get("name", "") for f in features(tmp_path / f"{name}.geojson")]
        assert sum("removed" in name for name in names) == len(names) - names.count("synthetic") > 0
    np.testing.assert_array_equal(pixels(tmp_path / "a.ome.tif"), pixels(tmp_path / "b.ome.tif"))
    edit("--before", none, out="c.ome.tif")
    names = [f["properties"].get("name", "") for f in features(tmp_path / "c.geojson")]
    assert names.count("added") == len(discs())
    (tmp_path / "area.geojson").write_text(shapely.to_geojson(shapely.box(90, 90, 130, 130)))
    edit("--area", tmp_path / "area.geojson", nuclei=none, out="d.ome.tif")
    changed = pixels(tmp_path / "d.ome.tif") != pixels(folder / "s.ome.tif")
    assert changed[90:130, 90:130].any()
    none.write_text('{"no": "annotations"}')
    assert "no GeoJSON" in edit("--before", folder / "n.geojson", nuclei=none, code=1)


def test_a_mask_replaces_nothing(edit, folder, fitting_weights, tmp_path):
    """Neither an input nor an output of the edit, nor another file without --overwrite."""
    kept = tmp_path / "kept.ome.tif"
    kept.write_bytes(b"mine")
    link = tmp_path / "link.ome.tif"
    link.hardlink_to(folder / "s.ome.tif")
    beside = [f"e.ome.tif{part}" for part in ("", ".run", ".run/m.ome.tif")]
    assert "choose another --mask" in edit("--thin", 0.1, "--mask", link, code=1)
    for mask in (kept, link, *(tmp_path / name for name in beside), tmp_path / "e.geojson"):
        edit("--thin", 0.1, "--mask", mask, code=1)
    assert "must end in" in edit("--thin", 0.1, "--mask", tmp_path / "m.jpg", code=1)
    assert kept.read_bytes() == b"mine" and not list(tmp_path.glob("e.*"))
    edit("--thin", 0.1, "--mask", kept, "--overwrite")
    assert 0 < mask_of(kept).mean() < 1
    out = tmp_path / "e.ome.tif"
    assert "another output" in edit("--thin", 0.1, "--mask", out, "--overwrite", code=1)


def test_regions_and_tissue_are_edited_in_a_slide_of_almost_the_pixel_size(
    edit, folder, fitting_weights, tmp_path
):
    picture = np.asarray(Image.open(folder / "s.png"))
    slide, drawn = tmp_path / "s.ome.tif", tmp_path / "drawn.geojson"
    ome_tiff.write(slide, picture, mpp=0.499, description="", tile=128)
    square = shapely.box(100, 100, 180, 180)
    regions = Regions.from_polygons([square], ["lumen"], mpp=0.5)
    tissue = shapely.box(0, 0, 300, 300)
    nuclei = replace(discs(), tissue=tissue, regions=regions).scaled(0.499)
    job = plan_edit(slide, nuclei, square, Painter(fitting_weights, steps=2, device="cpu"))
    for table in (job.nuclei, job.nuclei.regions):
        assert table.mpp == 0.5  # of the painter; in pixels of the slide
    np.testing.assert_array_equal(job.nuclei.coords, nuclei.coords)
    np.testing.assert_array_equal(job.nuclei.regions.coords, nuclei.regions.coords)
    write_geojson(drawn, nuclei)
    edit("--thin", 0.1, slide=slide, nuclei=drawn)
    written = read_annotations(tmp_path / "e.geojson", mpp=0.499)
    assert shapely.equals_exact(written.regions.polygons(), nuclei.regions.polygons(), 0.01).all()
    assert (written.tissue ^ nuclei.tissue).area < 0.001 * nuclei.tissue.area


def test_what_cannot_be_edited_is_refused(edit, weights, folder, tmp_path):
    assert "cannot fit" in edit("--thin", 0.1, "--weights", weights, code=1)
    far = shapely.box(5000, 5000, 5100, 5100)
    (tmp_path / "far.geojson").write_text(shapely.to_geojson(far))
    assert "no part of the slide" in edit("--area", tmp_path / "far.geojson", code=1)
    for out in ("e.ome.tif", "e.ome.zarr"):  # with JPEG blocks, and without
        (tmp_path / "tiny.geojson").write_text(shapely.to_geojson(shapely.box(9, 9, 9.3, 9.3)))
        output = edit("--area", tmp_path / "tiny.geojson", out=out, code=1)
        assert "not one whole pixel" in " ".join(output.split())
    output = run(
        "edit", folder / "s.ome.tif", folder / "n.geojson", "-o", folder / "s.ome.tif", code=1
    )
    assert "is an input" in output


def test_annotations_are_read_as_the_options_say(edit, folder, tmp_path):
    """Each option by what it makes of the labels, or by the mistake that follows from it."""
    odd = tmp_path / "odd.geojson"
    text = (folder / "n.geojson").read_text().replace('"name":"Plasma"', '"name":"Strange"')
    odd.write_text(text)
    edit("--thin", 0.1, "--class-map", "Strange=plasma", out="a.ome.tif", nuclei=odd)
    assert read_annotations(tmp_path / "a.geojson", mpp=0.5).counts()["plasma"] > 0
    edit("--thin", 0.1, "--ignore-class", "Strange", out="b.ome.tif", nuclei=odd)
    assert read_annotations(tmp_path / "b.geojson", mpp=0.5).counts()["plasma"] == 0
    edit("--thin", 0.1, "--tissue-class", "Strange", out="c.ome.tif", nuclei=odd)
    assert read_annotations(tmp_path / "c.geojson", mpp=0.5).counts()["plasma"] == 0
    other = tmp_path / "other.geojson"
    other.write_text(text.replace('"classification":', '"own":').replace("Strange", "Plasma"))
    edit("--thin", 0.1, "--class-property", "own", out="d.ome.tif", nuclei=other)
    assert len(read_annotations(tmp_path / "d.geojson", mpp=0.5)) > 40
    edit("--thin", 0.1, "--contours", "cv2", out="e.ome.tif")
    edit("--thin", 0.1, "--contours", "corner", out="f.ome.tif")
    assert (tmp_path / "e.geojson").read_bytes() != (tmp_path / "f.geojson").read_bytes()
    packed = tmp_path / "n.geojson.gz"
    packed.write_bytes(gzip.compress((folder / "n.geojson").read_bytes() + b" " * 40_000_000))
    few = ("--max-pixels", 1)
    assert "--max-pixels" in edit("--thin", 0.1, *few, out="g.ome.tif", nuclei=packed, code=1)
    edit("--thin", 0.1, out="g.ome.tif", nuclei=packed)


def test_steps_device_and_workers_are_those_of_the_options(edit, tmp_path, monkeypatch):
    from nasdm_wsi.mosaic import painting

    counts, pool = [], painting.worker_pool

    def counted(mosaic, *, workers, client):
        counts.append(workers)
        return pool(mosaic, workers=workers, client=client)

    monkeypatch.setattr(painting, "worker_pool", counted)
    assert edit("--thin", 0.1, "--workers", 3, "--steps", 3, "--quiet") == ""
    with open_slide(tmp_path / "e.ome.tif") as slide:
        assert facts_of(slide.description)["steps"] == 3
    assert counts == [3]
    assert "cuda:99" in edit("--thin", 0.1, "--device", "cuda:99", out="f.ome.tif", code=1)


def test_a_stain_that_is_none_of_the_slide_is_told(edit, tmp_path, caplog):
    Image.fromarray(np.full((200, 240, 3), 255, np.uint8)).save(tmp_path / "white.png")
    (tmp_path / "area.geojson").write_text(shapely.to_geojson(shapely.box(20, 20, 60, 60)))
    request = ("--area", tmp_path / "area.geojson", "--mpp", 0.5)
    edit(*request, slide=tmp_path / "white.png")
    assert "white.png: no tissue near the edit shows a stain" in caplog.text
    caplog.clear()
    edit(*request, "--style", "deep", slide=tmp_path / "white.png", out="f.ome.tif")
    edit(*request, slide="s.png", out="g.ome.tif")
    assert "shows a stain" not in caplog.text


def test_the_example_makes_pairs_that_differ_by_one_nucleus(folder, fitting_weights, tmp_path):
    example = Path(__file__).parents[1] / "examples" / "counterfactual_pairs.py"
    given = [folder / "s.ome.tif", folder / "n.geojson", tmp_path / "pairs", "--pairs", 3]
    command = [sys.executable, example, *given, "--to", "plasma", "--weights", fitting_weights]
    subprocess.run([str(part) for part in command], check=True, timeout=PATIENCE)
    rows = (tmp_path / "pairs" / "pairs.csv").read_text().splitlines()
    assert len(rows) == 4 and all(row.endswith(",plasma") for row in rows[1:])
    for number in range(3):
        names = (f"{number:03}-{when}.png" for when in ("before", "after"))
        before, after = (np.asarray(Image.open(tmp_path / "pairs" / name)) for name in names)
        y, x = np.nonzero((before != after).any(axis=2))
        assert len(y) > 50 and max(np.ptp(y), np.ptp(x)) <= 2 * (7 + 8) + 2


# Changes


def test_changes_are_told_by_outline_and_id():
    before = discs(12)
    ids = tuple(f"{k}" for k in range(12))
    named = replace(before, ids=ids)
    moved = named.coords.copy()
    first, last = named.ring_offsets[:2]
    moved[first:last] += 1.5
    types = named.types.copy()
    types[1] = types[1] % 6 + 1
    after = replace(named, coords=moved, types=types).take(
        np.array([0, 1, 2, 3, 4, 6, 7, 8, 9, 11])
    )
    found = changes(named, after)
    assert found.states.tolist() == [CHANGED, CHANGED] + [SAME] * 8
    assert len(found.removed) == 2 and len(found.earlier) == 1
    # Without ids, a moved nucleus is another one.
    bare = changes(before, replace(after, ids=None))
    assert bare.states.tolist() == [ADDED, CHANGED] + [SAME] * 8 and len(bare.removed) == 3
    area = found.area(2.0)  # micrometres, that is four pixels
    touched = [before.polygons()[k] for k in (0, 1, 5, 10)]
    assert all(area.covers(shapely.buffer(outline, 3.9)) for outline in touched)
    assert not any(area.intersects(before.polygons()[k]) for k in (3, 8, 11))
    painted = found.painted_in(before.polygons()[4])
    assert painted.states[4] == PAINTED and painted.states[0] == CHANGED


def test_the_ring_may_begin_anywhere():
    before = discs(3)
    rings = [np.roll(np.asarray(p.exterior.coords)[:-1], 2, axis=0) for p in before.polygons()]
    after = Nuclei.from_polygons([shapely.Polygon(r) for r in rings], before.types, mpp=0.5)
    assert changes(before, after).counts() == {ADDED: 0, CHANGED: 0, PAINTED: 0, "removed": 0}


# Presets


def rng():
    return np.random.default_rng(3)


def test_inserted_nuclei_lie_near_their_company_and_touch_nobody():
    nuclei = discs(60)
    after = presets.insert(nuclei, "eosinophil", 12, rng=rng())
    new = after.polygons()[60:]
    assert len(new) == 12 and (after.types[60:] == TYPES.index("eosinophil")).all()
    others = after.polygons()
    gaps = shapely.distance(new[:, None], others[None]) + 1e9 * (new[:, None] == others[None])
    assert gaps.min() >= presets.GAP / nuclei.mpp - 1e-9
    company = nuclei.polygons()[np.isin(nuclei.types, [1, 3, 4, 5, 6])]
    nearest = shapely.distance(shapely.centroid(new)[:, None], shapely.centroid(company)[None])
    assert (nearest.min(axis=1) <= presets.FAR / nuclei.mpp).all()
    areas = nuclei.areas()[nuclei.types == TYPES.index("eosinophil")]
    assert np.isin(after.areas()[60:].round(6), areas.round(6)).all()
    again = presets.insert(nuclei, "eosinophil", 12, rng=rng())
    np.testing.assert_array_equal(after.coords, again.coords)


def test_a_place_that_does_not_fit_is_left_free():
    nuclei = discs(60)
    right = presets.insert(
        nuclei, "plasma", 5, rng=rng(), fits=lambda outline: outline.bounds[0] > 200
    )
    assert all(p.bounds[0] > 200 for p in right.polygons()[60:])
    with pytest.raises(PlanError, match="room for only 0 of 5"):
        presets.insert(nuclei, "plasma", 5, rng=rng(), fits=lambda outline: False)


def test_removing_swapping_and_thinning():
    nuclei = discs(60)
    fewer = presets.remove(nuclei, "plasma", 4, rng=rng())
    assert fewer.counts() == nuclei.counts() | {"plasma": 6}
    assert presets.remove(nuclei, "plasma", 0.5, rng=rng()).counts()["plasma"] == 5
    assert len(presets.thin(nuclei, 0.5, rng=rng())) == 30
    assert len(presets.thin(nuclei, 1, rng=rng())) == 0
    assert presets.remove(nuclei, "plasma", 1.0, rng=rng()).counts()["plasma"] == 0
    assert presets.remove(nuclei, "plasma", 1, rng=rng()).counts()["plasma"] == 9
    for amount, said in ((11, "ask for fewer"), (1.5, "not a share")):
        with pytest.raises(PlanError, match=said):
            presets.remove(nuclei, "plasma", amount, rng=rng())
    swapped = presets.swap(nuclei, "plasma", "lymphocyte", rng=rng())
    assert swapped.counts() == nuclei.counts() | {"plasma": 0, "lymphocyte": 20}
    assert (
        len(swapped) == 60
        and (swapped.types[nuclei.types != 4] == nuclei.types[nuclei.types != 4]).all()
    )


def test_a_nucleus_of_another_type_gets_an_outline_of_that_type():
    """At its place, in its direction, of usual size, and beside no other nucleus."""
    rng_, ellipse = rng(), affinity.scale(shapely.Point(0, 0).buffer(1), 16, 8)
    places = np.mgrid[40:400:40, 40:400:40].reshape(2, -1).T
    turned = [affinity.rotate(ellipse, angle) for angle in rng_.uniform(0, 180, len(places))]
    outlines = [affinity.translate(e, *at) for e, at in zip(turned, places, strict=True)]
    nuclei = Nuclei.from_polygons(np.array(outlines, object), np.full(len(places), 2), mpp=0.5)
    swapped = presets.swap(nuclei, "epithelial", "neutrophil", rng=rng_)
    low, high = 4 * AREAS[0, [3, 5]]  # of real neutrophils, in pixels
    assert ((swapped.areas() > 0.95 * low) & (swapped.areas() < 1.05 * high)).all()
    old, new = nuclei.polygons(), swapped.polygons()
    assert shapely.distance(shapely.centroid(old), shapely.centroid(new)).max() < 1e-6
    # Outlines that the slide has are preferred, and keep the direction.
    types = np.full(len(nuclei), 2)
    types[:10] = 6
    narrow = affinity.scale(shapely.Point(0, 0).buffer(1), 14, 3)
    new = np.array([affinity.translate(narrow, *at) for at in places[:10]], object)
    mixed = Nuclei.from_polygons(np.array([*new, *outlines[10:]], object), types, mpp=0.5)
    swapped = presets.swap(mixed, "epithelial", "connective", rng=rng_)
    np.testing.assert_allclose(swapped.areas()[10:], narrow.area, rtol=1e-6)
    turns = [axis(p) - axis(q) for p, q in zip(swapped.polygons()[10:], old[10:], strict=True)]
    assert np.abs(np.sin(turns)).max() < 1e-6


def test_a_nucleus_grows_into_no_other():
    """Between lymphocytes 12 pixels apart there is hardly room for larger outlines."""
    places = np.mgrid[40:100:12, 40:100:12].reshape(2, -1).T
    close = Nuclei.from_polygons(shapely.buffer(shapely.points(places), 5), np.full(25, 3), mpp=0.5)
    swapped = presets.swap(close, "lymphocyte", "epithelial", rng=rng())
    assert (swapped.types == 2).all()
    assert shapely.union_all(swapped.polygons()).area == pytest.approx(swapped.areas().sum())


# Areas


def test_areas_are_widened_to_cells_that_hold_a_pixel():
    area = shapely.MultiPolygon([shapely.box(17, 30, 33, 31), shapely.Point(90, 70).buffer(5)])
    cells = widened(area, (16, 16), (80, 100))
    assert cells.covers(area & shapely.box(0, 0, 100, 80))
    assert cells.bounds[3] == 80  # the slide ends there
    first = cells & shapely.box(0, 0, 60, 60)
    assert first.equals(shapely.box(16, 16, 48, 32))


def test_areas_of_a_class_are_read_and_holes_are_kept(tmp_path):
    ring = shapely.box(0, 0, 10, 10) - shapely.box(4, 4, 6, 6)
    items = [
        {"type": "Feature", "geometry": json.loads(shapely.to_geojson(shape)), "properties": kind}
        for shape, kind in (
            (ring, {"classification": {"name": "Edit"}}),
            (shapely.box(20, 20, 30, 30), {"classification": {"name": "Stroma"}}),
            (shapely.Point(1, 1), {"classification": {"name": "Edit"}}),
        )
    ]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    assert read_area(path, named="Edit").area == 96
    assert read_area(path).area == 196

"""The canvas that annotation files state: from `layout` to `render`, and from slide to slide."""

import json
from dataclasses import replace

import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from shapely.geometry import mapping

from nasdm_wsi.annotations.formats import read_contents
from nasdm_wsi.annotations.geojson import write_geojson
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.regions import Regions
from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import AnnotationError
from nasdm_wsi.layouts.making import layout
from nasdm_wsi.slides.reading import open_slide

CANVAS = {"width": 320, "height": 240, "mpp": 0.5}


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A layout with muscle, and the slide that it becomes without further options."""
    folder = tmp_path_factory.mktemp("canvas")
    fixed = ("--nuclei", "rules", "--workers", 1, "-q")
    run("layout", "-o", folder / "layout.geojson", "--size", 320, 240, "--seed", 5, *fixed)
    run("render", folder / "layout.geojson", "-o", folder / "slide.ome.tif", "--steps", 1, "-q")
    return folder


def pixels(path):
    with open_slide(path) as slide:
        return slide.mpp, slide.read((0, 0, *slide.size), mpp=slide.mpp)


def test_a_slide_is_as_large_as_the_canvas_that_its_annotations_state(made, tmp_path):
    mpp, picture = pixels(made / "slide.ome.tif")
    assert mpp == 0.5 and picture.shape == (240, 320, 3)
    for name in ("layout", "slide"):
        collection = json.loads((made / f"{name}.geojson").read_text())
        assert collection["canvas"] == CANVAS and collection["regions"] == "generated"
    assert json.loads(run("info", made / "layout.geojson", "--json"))["canvas"] == CANVAS
    assert "320 x 240 pixels at 0.5 mpp" in run("info", made / "layout.geojson")
    # The same slide again from the nuclei that were written beside it.
    again = tmp_path / "again.ome.tif"
    run("render", made / "slide.geojson", "-o", again, "--steps", 1, "-q")
    np.testing.assert_array_equal(pixels(again)[1], picture)
    assert (tmp_path / "again.geojson").read_bytes() == (made / "slide.geojson").read_bytes()
    # At twice the resolution, the same canvas has twice the sides.
    fine = tmp_path / "fine.ome.tif"
    run("render", made / "layout.geojson", "-o", fine, "--steps", 1, "-q", "--mpp-out", 0.25)
    assert pixels(fine)[1].shape == (480, 640, 3)
    assert json.loads((tmp_path / "fine.geojson").read_text())["canvas"] == {
        **{"width": 640, "height": 480, "mpp": 0.25}
    }


def test_another_size_wins_and_warns_only_of_nuclei_outside(made, tmp_path, caplog):
    layout = made / "layout.geojson"
    for size, outside in (((400, 300), False), ((320, 120), True)):
        out = tmp_path / f"{size[0]}.ome.tif"
        run("render", layout, "-o", out, "--steps", 1, "--size", *size)
        assert pixels(out)[1].shape == (*size[::-1], 3)
        assert ("outside the slide" in caplog.text) == outside
    # A pixel size that is not the one stated is taken, and told.
    said = run("render", layout, "-o", tmp_path / "x.ome.tif", "--mpp", 0.25, "--dry-run")
    assert "160 x 120" in said and "states 0.5 micrometres per pixel" in caplog.text


def test_regions_are_filled_on_the_canvas_that_they_were_drawn_on(made, tmp_path):
    out = tmp_path / "filled.geojson"
    run("layout", "-o", out, "--regions", made / "layout.geojson", "--nuclei", "rules", "-q")
    filled = json.loads(out.read_text())
    assert filled["canvas"] == CANVAS and "regions" not in filled


def test_regions_of_a_scan_become_a_slide_of_their_extent(tmp_path, caplog):
    """As QuPath exports them: far from the corner of the scan, without its size and pixel size."""
    drawn, out = tmp_path / "drawn.geojson", tmp_path / "filled.geojson"
    square = Regions.from_polygons([shapely.box(3000, 2000, 3400, 2240)], ["stroma"], mpp=0.25)
    write_geojson(drawn, Nuclei.from_polygons([], [], mpp=0.25, regions=square))
    fixed = ("--regions", drawn, "--nuclei", "rules", "--workers", 1, "-q")
    run("layout", "-o", out, *fixed, "--mpp", 0.25)
    assert json.loads(out.read_text())["canvas"] == {"mpp": 0.25} and not caplog.records
    run("render", out, "-o", tmp_path / "slide.ome.tif", "--steps", 1, "-q")
    height, width = pixels(tmp_path / "slide.ome.tif")[1].shape[:2]
    assert 120 <= height <= 160 and 200 <= width <= 240  # half the pixels, and a margin
    run("layout", "-o", tmp_path / "other.geojson", *fixed)
    assert "0.5 micrometres are assumed" in caplog.text


def test_regions_and_densities_have_the_pixel_size_that_their_files_state(tmp_path, caplog):
    square = Regions.from_polygons([shapely.box(0, 0, 240, 240)], ["stroma"], mpp=0.25)
    dots = shapely.buffer(shapely.points(*np.mgrid[20:240:24, 20:240:24].reshape(2, -1)), 8)
    known = Nuclei.from_polygons(dots, [4] * len(dots), mpp=0.25, regions=square)
    fine, out = tmp_path / "fine.geojson", tmp_path / "out.geojson"
    write_geojson(fine, replace(known, canvas=(60, 60)))
    layout(out, regions=fine, density=["plasma=0"])
    stated = json.loads(out.read_text())["canvas"]
    assert stated == {"width": 240, "height": 240, "mpp": 0.25} and not caplog.records
    layout(out, (240, 240), regions=square, like=fine, overwrite=True)
    assert read_contents(out).nuclei.counts()["plasma"] > 60 and not caplog.records
    layout(out, regions=fine, mpp=0.5, overwrite=True)
    assert "states 0.25 micrometres per pixel, but `mpp` is 0.5" in caplog.text


def test_plans_and_generated_glands_are_refused_where_regions_are_drawn(made, tmp_path):
    drawn = "-o", tmp_path / "a.geojson", "--regions", made / "layout.geojson"
    said = run("layout", *drawn, "--plan", made / "layout.geojson", code=1)
    assert "--plan has no effect on drawn regions" in said
    said = run("layout", *drawn, "--glands", "learned", code=1)
    assert "--glands has no effect on drawn regions" in said
    assert not list(tmp_path.iterdir())


def test_muscle_is_told_of_where_it_was_drawn_and_not_where_it_was_generated(
    made, tmp_path, caplog
):
    nuclei = read_contents(made / "layout.geojson").nuclei
    assert "muscle" in nuclei.regions.counts()
    drawn = tmp_path / "drawn.geojson"
    write_geojson(drawn, replace(nuclei, regions=replace(nuclei.regions, generated=False)))
    for path, told in ((made / "layout.geojson", False), (drawn, True)):
        run("render", path, "-o", tmp_path / "a.ome.tif", "--dry-run")
        assert ("cannot tell muscle from stroma" in caplog.text) == told


def test_the_nuclei_of_an_edit_state_the_canvas_of_the_slide(made, tmp_path):
    area, out = tmp_path / "area.geojson", tmp_path / "edited.ome.tif"
    square = {"type": "Feature", "properties": {}, "geometry": mapping(shapely.box(8, 8, 24, 24))}
    area.write_text(json.dumps({"type": "FeatureCollection", "features": [square]}))
    given = made / "slide.ome.tif", made / "slide.geojson", "--area", area, "-o", out
    run("edit", *given, "--steps", 1, "-q")
    collection = json.loads((tmp_path / "edited.geojson").read_text())
    assert collection["canvas"] == CANVAS and collection["regions"] == "generated"


def test_a_slide_of_another_pixel_size_is_told_as_such(made):
    found = read_contents(made / "layout.geojson", slide_mpp=0.25).findings.warnings
    assert "the slide has 0.25" in " ".join(found) and "leave it out" not in " ".join(found)


@pytest.mark.parametrize("side", [-9, 0, "9", 1e16, 1.7e308, np.nan, -np.inf])
def test_an_impossible_canvas_is_told(tmp_path, side):
    path = tmp_path / "a.geojson"
    write_geojson(path, Nuclei.from_polygons([shapely.box(2, 2, 9, 9)], [2], mpp=0.5))
    path.write_text(
        json.dumps(
            {"canvas": {"width": side, "height": side, "mpp": 2}, **json.loads(path.read_text())}
        )
    )
    contents = read_contents(path)
    assert contents.nuclei.mpp == 2
    assert contents.nuclei.scaled(0.5).canvas_size is None
    assert "no possible width and height" in " ".join(contents.findings.warnings)


def test_a_canvas_has_a_pixel_at_least():
    nuclei = Nuclei.from_polygons([shapely.box(2, 2, 9, 9)], [2], mpp=0.5)
    assert replace(nuclei, canvas=(0.0005, 0.7)).canvas_size == (1, 2)


@pytest.mark.parametrize(
    "canvas", [{"width": 9}, {**CANVAS, "height": 0}, {**CANVAS, "width": "9"}, 9, None, [9, 9]]
)
def test_another_canvas_is_none(tmp_path, canvas):
    path = tmp_path / "a.geojson"
    write_geojson(path, Nuclei.from_polygons([shapely.box(2, 2, 9, 9)], [2], mpp=0.5))
    collection = json.loads(path.read_text())
    path.write_text(json.dumps({"canvas": canvas, **collection}))
    assert read_contents(path, mpp=0.5).nuclei.canvas is None
    path.write_text(json.dumps({**collection, "canvas": CANVAS}))  # too late to be seen
    with pytest.raises(AnnotationError, match="the pixel size is unknown"):
        read_contents(path)

"""What is odd in a file or on a slide is said, or refused: never drawn in silence."""

import json
import zipfile

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from toy import ToyPainter

from nasdm_wsi import layout, plan_render, read_annotations
from nasdm_wsi.annotations.canvas import MOST_CANVAS
from nasdm_wsi.annotations.formats import read_contents
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import AnnotationError, PlanError

TYPES = ("Epithelial", "Lymphocyte", "Plasma")


def ring(x, y, radius=8.0):
    angle = np.arange(0, 2 * np.pi, 0.4)
    points = np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)
    return points.round(2).tolist()


def rectangle(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def feature(points, name=None, kind="detection", **members):
    properties = {"objectType": kind} | ({"classification": name} if name else {})
    geometry = {"type": "Polygon", "coordinates": [points]}
    return {"type": "Feature", "geometry": geometry, "properties": properties, **members}


def nuclei(n=20, dx=0.0, **kind):
    return [
        feature(ring(20 + 25 * (k % 5) + dx, 20 + 25 * (k // 5)), TYPES[k % 3], **kind)
        for k in range(n)
    ]


REGION = rectangle(2, 2, 140, 120)


@pytest.fixture
def written(tmp_path):
    def write(features):
        path = tmp_path / "a.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return path

    return write


def told(path, *options):
    result = CliRunner().invoke(main, ["info", str(path), *map(str, options)])
    assert result.exit_code == 0, result.output
    return result.output


# Regions


@pytest.mark.parametrize("name", [None, "Tumor", "Mucosa"])
@pytest.mark.parametrize("last", [False, True])
def test_an_annotation_around_others_is_a_region(written, caplog, name, last):
    region = feature(REGION, name, "annotation")
    features = [*nuclei(), region] if last else [region, *nuclei()]
    path = written(features)
    for mapping in ({}, {"class_map": {"unclassified": "epithelial"}} if name is None else {}):
        assert len(read_annotations(path, mpp=0.5, **mapping)) == 20
    shown = f"1 object of class {name or 'unclassified'!r} left out"
    if name == "Tumor":  # which names a region
        assert not caplog.text and "region: epithelium" in told(path)
        assert read_annotations(path, mpp=0.5).regions.counts() == {"epithelium": 1}
    else:
        assert shown in caplog.text and shown in told(path)
    assert "region" not in told(written(nuclei()))


def test_a_small_annotation_around_two_nuclei_is_a_region(written):
    path = written([*nuclei(), feature(rectangle(10, 10, 56, 31), "Tumor", "annotation")])
    assert len(read_annotations(path, mpp=0.5)) == 20


def test_a_region_that_holds_nothing_is_one_by_its_size(written):
    far = feature(rectangle(500, 500, 700, 700), "Stroma", "annotation")
    assert len(read_annotations(written([*nuclei(), far]), mpp=0.5)) == 20
    # Of 80 micrometres across at 0.5, it could be a nucleus of another magnification at 0.1.
    assert len(read_annotations(written([*nuclei(), far]), mpp=0.1)) == 21


def test_a_large_nucleus_and_fragments_in_one_stay(written, caplog):
    fragment = feature(ring(20, 20, 2), "Plasma")
    large = feature(ring(200, 200, 30), "Epithelial")
    assert len(read_annotations(written([*nuclei(), fragment, large]), mpp=0.25)) == 22
    assert not caplog.records


def test_regions_of_unmapped_classes_do_not_ask_for_a_type(written):
    path = written([feature(REGION, "Mucosa", "annotation"), *nuclei()])
    assert not read_contents(path, mpp=0.5).findings.unknown


def test_nothing_but_regions_is_read_as_regions_if_they_have_names(written, caplog):
    def regions(name):
        return [feature(rectangle(0, k * 1000, 900, k * 1000 + 900), name) for k in range(3)]

    read = read_annotations(written(regions("Tumor")), mpp=0.5)
    assert len(read) == 0 and read.regions.counts() == {"epithelium": 3}
    assert "regions but no nuclei" in caplog.text
    with pytest.raises(AnnotationError, match=r"a.geojson: the median nucleus is .* `mpp`"):
        read_annotations(written(regions("Plasma")), mpp=0.5)


# Cells


def test_cells_without_any_nucleus_are_read_by_their_outline(written, caplog):
    assert len(read_annotations(written(nuclei(kind="cell")), mpp=0.5)) == 20
    assert not caplog.records
    snippet = [{**f, "id": "PathCellObject"} for f in nuclei(kind="cell")]
    for one in snippet:
        del one["properties"]["objectType"]
    assert len(read_annotations(written(snippet), mpp=0.5)) == 20


def test_some_cells_without_nucleus_are_counted(written, caplog):
    cells = nuclei(kind="cell")
    for cell in cells[:13]:
        cell["nucleusGeometry"] = cell["geometry"]
    path = written(cells)
    assert len(read_annotations(path, mpp=0.5)) == 13
    assert "7 of 20 cells have no nucleus" in caplog.text
    assert "7 of 20 cells have no nucleus" in told(path)


@pytest.mark.parametrize(
    ("shape", "points", "what"),
    [
        ("Point", [20, 20], "points"),
        ("MultiPoint", [[20, 20]], "points"),
        ("LineString", ring(20, 20), "lines"),
        ("MultiLineString", [ring(20, 20)], "lines"),
    ],
)
def test_what_has_no_outline_is_left_out_and_said(written, caplog, shape, points, what):
    drawn = feature(ring(5, 5), "Plasma") | {"geometry": {"type": shape, "coordinates": points}}
    path = written([*nuclei(), drawn])
    assert len(read_annotations(path, mpp=0.5)) == 20
    assert f"left out, because they are not outlines: 1 {what}" in caplog.text
    assert f"not outlines: 1 {what}" in told(path)


# Pixel size


@pytest.mark.parametrize("mpp", [0.02, 0.1, 0.25, 0.5, 1, 4, 50])
def test_the_size_of_the_nuclei_is_weighed(written, caplog, mpp):
    path = written(nuclei())
    diameter = 16 * mpp
    if 0.5 <= diameter <= 200:
        read_annotations(path, mpp=mpp)
        assert ("check `mpp`" in caplog.text) == (not 3 <= diameter <= 9)
    else:
        with pytest.raises(AnnotationError, match="micrometres wide.*check `mpp`"):
            read_annotations(path, mpp=mpp)
    assert ("check --mpp" in told(path, "--mpp", mpp)) == (not 3 <= diameter <= 9)
    assert "micrometres wide" not in told(path)


def test_nuclei_that_are_given_as_regions_are_said(written, tmp_path, caplog):
    """Many classes mean nuclei or regions, and the user may take the wrong file."""
    path = written(nuclei())
    read_annotations(path, mpp=0.5, regions=path)
    assert "the median region is 7.9" in caplog.text and "and not nuclei" in caplog.text


def test_a_scale_that_the_file_states(tmp_path, caplog):
    found = {str(k): {"contour": ring(20 + 25 * k, 20), "type": 1} for k in range(5)}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"mag": 40, "nuc": found}))
    options = {"class_map": {"1": "plasma"}}
    read_annotations(path, mpp=0.25, **options)
    assert not caplog.records
    read_annotations(path, mpp=0.5, **options)
    assert "states 0.25 micrometres per pixel, but `mpp` is 0.5" in caplog.text
    assert "states 0.25" in told(path, "--mpp", 0.5)


# Names


@pytest.mark.parametrize(
    ("given", "in_file"), [("\u00c9pith\u00e9lial", "E\u0301pithe\u0301lial"), ("1", 1.0)]
)
def test_names_that_are_written_in_two_ways(written, caplog, given, in_file):
    """macOS takes accented letters apart, and tables make floats of whole numbers."""
    path = written([feature(ring(20, 20), in_file)])
    assert len(read_annotations(path, mpp=0.5, class_map={given: "plasma"})) == 1
    assert not caplog.records


def test_names_that_match_nothing(written, caplog):
    path = written(nuclei())
    options = {"class_map": {"tumour": "epithelial"}, "ignore_classes": ["Plasma cells", "Dead"]}
    assert len(read_annotations(path, mpp=0.5, **options)) == 14
    assert "no object has the class 'tumour', 'Dead'" in caplog.text
    assert "the classes are 'Epithelial', 'Lymphocyte', 'Plasma'" in caplog.text
    assert "has the class 'Dead'" in told(path, "--ignore-class", "Dead")


# Places


def plan(path, size=None, **options):
    return plan_render(read_annotations(path, mpp=0.5), ToyPainter(), size=size, **options)


def test_nuclei_outside_the_slide(written, caplog):
    path = written([*nuclei(), *nuclei(3, dx=1000)])
    plan(path, (130, 150))
    assert "3 nuclei lie outside the slide of 150 x 130 pixels, of 23" in caplog.text
    caplog.clear()
    plan(path, (130, 150), region=(0, 0, 8, 8))
    assert "no nucleus lies in the `region`" in caplog.text
    caplog.clear()
    plan(path)
    assert not caplog.records


def test_coordinates_of_which_y_counts_upwards(written, caplog):
    features = nuclei()
    for one in features:
        (outline,) = one["geometry"]["coordinates"]
        one["geometry"]["coordinates"] = [[[x, -y] for x, y in outline]]
    read_annotations(written(features), mpp=0.5)
    assert "all nuclei lie at negative y" in caplog.text
    assert "all nuclei lie at negative y" in told(written(features))


@pytest.mark.parametrize("off", [0, 0.2])
def test_nuclei_that_lie_on_each_other_are_counted(written, caplog, off):
    """As if an export had been added to another one, or the planes of a stack to each other."""
    path = written(nuclei() + nuclei(8, dx=off))
    assert len(read_annotations(path, mpp=0.5)) == 28
    assert "nuclei lie on another one" in caplog.text
    assert off or "8 nuclei lie on another one" in told(path)


def test_no_nucleus_on_the_slide_is_refused(written):
    with pytest.raises(PlanError, match=r"none of 20 nuclei lies on the slide.*x 1012 to 1128"):
        plan(written(nuclei(dx=1000)), (100, 100))


def test_a_dry_run_warns_as_a_render_does(written, weights, tmp_path, caplog):
    path = written([*nuclei(), *nuclei(3, dx=1000), feature(REGION, "Tumor", "annotation")])
    command = ["render", path, "-o", tmp_path / "slide.ome.tif", "--mpp", 0.5]
    command += ["--size", 150, 130, "--region", 0, 0, 64, 64, "--steps", 1, "--weights", weights]
    said = []
    for options in (["--dry-run"], []):
        caplog.clear()
        result = CliRunner().invoke(main, [str(word) for word in (*command, *options)])
        assert result.exit_code == 0, result.output
        said.append(caplog.messages)
    assert said[0] == said[1] and len(said[0]) == 2


def test_one_far_nucleus_is_named(written, caplog):
    path = written([*nuclei(), feature(ring(4e6, 3e6), "Plasma")])
    assert "1 nucleus lies far from all others, the farthest at x 4000000" in told(path)
    with pytest.raises(PlanError, match=r"the outline at x 4000000, y 3000000.*smaller `size`$"):
        plan(path)


def test_canvases_are_weighed_before_anything_is_made(written):
    path = written(nuclei())
    with pytest.raises(PlanError, match="a side of more than 1,000,000: give a smaller `size`$"):
        plan(path, (20_000_000, 20_000_000))  # which no `max_canvas` allows
    with pytest.raises(PlanError, match="200000 x 200000 .* than 20,000,000,000.*`max_canvas`$"):
        plan(path, (200_000, 200_000))
    with pytest.raises(PlanError, match="than 20,000,000,000 pixels: give a smaller `size`$"):
        layout(path.with_name("new.geojson"), (200_000, 200_000))
    with pytest.raises(PlanError, match="larger than 19,499 pixels"):
        plan(path, (130, 150), max_canvas=19_499)
    assert plan(path, (130, 150), max_canvas=19_500)
    command = ["render", str(path), "-o", str(path.with_name("slide.ome.tif")), "--mpp", "0.5"]
    result = CliRunner().invoke(main, [*command, "--max-canvas", "900", "--dry-run"])
    assert result.exit_code == 1 and "or a larger --max-canvas" in result.output
    (option,) = (p for p in main.commands["render"].params if p.name == "max_canvas")
    assert option.default == MOST_CANVAS


def test_sizes_in_pixels_of_the_annotations_are_told(written, caplog):
    nuclei = read_annotations(
        written([feature(ring(60 * k, 50 * k)) for k in range(1, 9)]),
        mpp=0.25,
        class_map={"unclassified": "plasma"},
    )
    plan_render(nuclei, ToyPainter(), size=(420, 500))
    assert "fill only 49% of its width" in caplog.text
    caplog.clear()
    plan_render(nuclei, ToyPainter(), size=(210, 250))
    assert not caplog.records


def test_coordinates_that_no_slide_has(written):
    path = written([feature(rectangle(-1e308, -1e308, 1e308, 1e308), "Tissue"), *nuclei()])
    with pytest.raises(AnnotationError, match="a.geojson: feature 0 has coordinates .* beyond"):
        read_annotations(path, mpp=0.5)


def test_an_outline_that_crosses_itself_all_over_is_named(written):
    points = np.random.default_rng(0).uniform(0, 900, (400, 2)).tolist()
    with pytest.raises(AnnotationError, match="feature 20 crosses itself more than 2000 times"):
        read_annotations(written([*nuclei(), feature(points, "Plasma")]), mpp=0.5)
    star = [[100 + 50 * np.cos(2.5 * k), 400 + 50 * np.sin(2.5 * k)] for k in range(60)]
    assert len(read_annotations(written([*nuclei(), feature(star, "Plasma")]), mpp=0.5)) > 20


# Properties


def test_the_class_in_another_property(written):
    features = nuclei()
    for one in features:
        one["properties"] = {"id": 3, "cell_type": one["properties"]["classification"]}
    path = written(features)
    with pytest.raises(AnnotationError, match="`class_property` which.*: 'id', 'cell_type'|'cell_"):
        read_annotations(path, mpp=0.5)
    found = read_annotations(path, mpp=0.5, class_property="cell_type")
    assert found.counts()["plasma"] == 6
    assert "Plasma" in told(path, "--class-property", "cell_type")
    for one in features:
        one["properties"] = {"type": one["properties"]["cell_type"], "prob": 0.9}
    assert read_annotations(written(features), mpp=0.5).counts() == found.counts()


def test_a_classification_after_geopandas(written):
    features = nuclei()
    for one in features:
        name = one["properties"]["classification"]
        one["properties"]["classification"] = json.dumps({"name": name, "color": [1, 2, 3]})
    assert read_annotations(written(features), mpp=0.5).counts()["plasma"] == 6


def test_nuclei_made_by_hand_need_not_be_plausible():
    table = Nuclei.from_polygons([], [], mpp=0.5)
    assert plan_render(table, ToyPainter(), size=(64, 64)).blocks


# Text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_encodings(written, encoding):
    features = nuclei()
    features[0]["properties"]["classification"] = "Zellkern, groß"
    path = written(features)
    text = json.dumps(json.loads(path.read_text()), ensure_ascii=False)
    path.write_bytes(text.encode(encoding))
    found = read_annotations(path, mpp=0.5, class_map={"Zellkern, groß": "eosinophil"})
    assert found.counts()["eosinophil"] == 1 and len(found) == 20
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(AnnotationError, match="a.geojson: text that is not UTF-8, perhaps Latin"):
        read_annotations(path, mpp=0.5)


@pytest.mark.parametrize("start", ["", '{"features":', '{"nuc":{"1":', '{"cells":[{"a":'])
def test_deep_brackets_are_one_line(tmp_path, start):
    path = tmp_path / "a.json"
    path.write_text(start + "[" * 40_000 + "]" * 40_000)
    with pytest.raises(AnnotationError, match="a.json: brackets nested more than 200 levels deep"):
        read_annotations(path, mpp=0.5)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"type": [1]}, "no GeoJSON features"),
        ({"type": "Feature", "properties": {"children": 5}}, "no nuclei found"),
        ({"type": "Feature", "properties": {"childObjects": {"a": 1}}}, "no nuclei found"),
        (feature(REGION, {"names": 5}), "class 'unclassified'"),
        (feature(REGION, {"names": {"a": 1}}), "class 'unclassified'"),
        (feature(REGION, '{"name": '), "no nucleus type is known for class"),
        ({"type": "Polygon", "coordinates": [5]}, "not finite numbers"),
        ({"type": "Polygon", "coordinates": [[[1], [2], [3], [4]]]}, "not finite numbers"),
        ({"type": "Polygon", "coordinates": [{"a": [1, 2]}]}, "not finite numbers"),
        ({"type": "MultiPolygon", "coordinates": [7]}, "not finite numbers"),
        ({"type": "GeometryCollection", "geometries": 7}, "no nuclei found"),
        ({"type": "Polygon", "coordinates": [[["1", "2"], ["3", "4"], ["5", "6"]]]}, "not finite"),
        ({"type": "FeatureCollection", "features": [5, None]}, "no GeoJSON features"),
    ],
)
def test_members_of_another_kind_are_one_line(tmp_path, content, reason):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=rf"^[^\n]*a.geojson: [^\n]*{reason}[^\n]*$"):
        read_annotations(path, mpp=0.5)


def test_packed_files_that_cannot_be_opened_are_one_line(written):
    path = written(nuclei())
    packed = path.with_suffix(".zip")
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(path, "a.geojson")
    content = bytearray(packed.read_bytes())
    for place in (6, content.rindex(b"PK\x01\x02") + 8):
        content[place] |= 1  # encrypted
    packed.write_bytes(content)
    with pytest.raises(AnnotationError, match="a.zip: cannot be read .*encrypted"):
        read_annotations(packed, mpp=0.5)


def test_collections_of_geometries(tmp_path):
    polygons = [one["geometry"] for one in nuclei()]
    inner = {"type": "GeometryCollection", "geometries": polygons[5:]}
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({"type": "GeometryCollection", "geometries": [*polygons[:5], inner]})
    )
    assert len(read_annotations(path, mpp=0.5, class_map={"unclassified": "plasma"})) == 20


# Labels

NUCLEI = {"class_map": {"nuclei": "plasma"}}


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
@pytest.mark.parametrize("shape", [(1, 40, 60), (40, 60, 1), (1, 1, 40, 60)])
def test_axes_of_length_one(tmp_path, suffix, shape):
    labels = np.zeros((40, 60), np.uint16)
    labels[5:15, 10:20], labels[20:30, 40:50] = 1, 2
    path = tmp_path / f"a{suffix}"
    (np.save if suffix == ".npy" else tifffile.imwrite)(path, labels.reshape(shape))
    found = read_annotations(path, mpp=0.5, **NUCLEI)
    assert [tuple(box) for box in found.boxes().tolist()] == [(5, 10, 15, 20), (20, 40, 30, 50)]


def test_floats_are_whole_numbers_or_refused(tmp_path):
    labels = np.full((40, 60), np.nan)
    labels[5:15, 10:20] = 7
    path = tmp_path / "a.npy"
    np.save(path, labels)
    assert read_annotations(path, mpp=0.5, **NUCLEI).boxes().tolist() == [[5, 10, 15, 20]]
    for odd in (0.37, np.inf, 1e30):
        labels[20:30, 40:50] = odd
        np.save(path, labels)
        with pytest.raises(AnnotationError, match=r"a.npy: \S+ is not a label: save whole numbers"):
            read_annotations(path, mpp=0.5, **NUCLEI)


def test_classes_below_zero_are_refused(tmp_path):
    tile = np.zeros((40, 60, 2), np.int16)
    tile[5:15, 10:20] = 1, -2
    np.save(tmp_path / "a.npy", tile)
    with pytest.raises(AnnotationError, match="a.npy: a nucleus has class -2"):
        read_annotations(tmp_path / "a.npy", mpp=0.5)


def test_a_labelled_background_is_no_nucleus(tmp_path, caplog):
    labels = np.full((400, 400), 9, np.uint16)
    for k in range(30):
        y, x = 20 + 60 * (k // 6), 20 + 60 * (k % 6)
        labels[y : y + 10, x : x + 10] = 10 + k
    np.save(tmp_path / "a.npy", labels)
    assert len(read_annotations(tmp_path / "a.npy", mpp=0.5, **NUCLEI)) == 30
    assert "1 object of class 'plasma nuclei' left out" in caplog.text
    assert "set its pixels to 0" in caplog.text
    # Nor is it a region, though objects of some types may be regions.
    found = read_annotations(tmp_path / "a.npy", mpp=0.5, class_map={"nuclei": "epithelial"})
    assert len(found) == 30 and found.regions is None


def test_a_mask_is_told_from_numbers_of_nuclei(tmp_path, caplog):
    labels = np.zeros((100, 300), np.uint8)
    for k in range(10):
        labels[10:20, 30 * k + 5 : 30 * k + 15] = 1 + k
    np.save(tmp_path / "a.npy", labels)
    assert len(read_annotations(tmp_path / "a.npy", mpp=0.5, **NUCLEI)) == 10
    assert "mask" not in caplog.text
    np.save(tmp_path / "a.npy", labels % 3 + (labels > 0))
    assert len(read_annotations(tmp_path / "a.npy", mpp=0.5, **NUCLEI)) == 10
    assert "10 pieces have 3 numbers, as in a mask" in caplog.text


def test_a_label_image_of_another_size_than_the_slide_is_said(tmp_path, caplog):
    labels = np.zeros((100, 300), np.uint8)
    labels[10:20, 10:20] = 1
    np.save(tmp_path / "a.npy", labels)
    found = read_annotations(tmp_path / "a.npy", mpp=0.5, **NUCLEI)
    plan_render(found, ToyPainter(), size=(100, 300))
    assert not caplog.records
    plan_render(found, ToyPainter(), size=(200, 600))
    assert "covers 300 x 100 pixels, but the slide has 600 x 200" in caplog.text


def test_a_label_image_that_states_another_pixel_size_is_said(tmp_path, caplog):
    labels = np.zeros((100, 300), np.uint8)
    labels[10:20, 10:20] = 1
    per_cm = 1e4 / 0.5
    tifffile.imwrite(tmp_path / "a.tif", labels, resolution=(per_cm, per_cm), resolutionunit=3)
    read_annotations(tmp_path / "a.tif", mpp=0.5, **NUCLEI)
    assert not caplog.records
    read_annotations(tmp_path / "a.tif", mpp=0.25, **NUCLEI)
    assert "a.tif: the file states 0.5 micrometres per pixel, but `mpp` is 0.25" in caplog.text


def test_a_binary_mask_of_thousands(tmp_path):
    """The pieces of one label are looked at in their own boxes; one by one it takes minutes."""
    mask = np.zeros((2040, 2040), bool)
    tile = np.zeros((24, 24), bool)
    tile[6:18, 6:18] = True
    mask[:] = np.tile(tile, (85, 85))
    mask[10, 10] = False  # a hole
    np.save(tmp_path / "a.npy", mask)
    found = read_annotations(tmp_path / "a.npy", mpp=0.5, **NUCLEI)
    assert len(found) == 85 * 85
    drawn, _ = Conditioning(found, mask.shape).labels((0, 0, *mask.shape))
    np.testing.assert_array_equal(drawn > 0, mask)


def test_negative_labels_are_background_and_said_to_be(tmp_path):
    labels = np.zeros((40, 40), np.int32)
    labels[5:15, 5:15], labels[20:25, 20:30] = 1, -1
    np.save(tmp_path / "a.npy", labels)
    contents = read_contents(tmp_path / "a.npy", mpp=0.5, class_map={"nuclei": "epithelial"})
    assert len(contents.nuclei) == 1
    assert "50 pixels have negative labels" in " ".join(contents.findings.warnings)

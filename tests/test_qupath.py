import gzip
import io
import json
import logging
import uuid
import zipfile
from pathlib import Path

import geojson
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from nasdm_wsi.annotations.geojson import read_geojson, write_geojson
from nasdm_wsi.annotations.jsonstream import members as members_of
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.annotations.types import PALETTE
from nasdm_wsi.errors import AnnotationError, OutputError

DATA = Path(__file__).parents[2] / "shared" / "data"
SQUARE = [[[10.5, 20], [14.5, 20], [14.5, 26], [10.5, 26], [10.5, 20]]]
ID = "2e8a0784-0705-4547-9632-3ba46a94d515"


def polygon(rings=SQUARE) -> dict:
    return {"type": "Polygon", "coordinates": rings}


def square_at(x, y) -> list:
    return [[[x, y], [x + 2.5, y], [x + 2.5, y + 2], [x, y + 2], [x, y]]]


def feature(classification="Plasma", geometry=None, *, kind="detection", **members) -> dict:
    properties = {"objectType": kind, "classification": classification, "unknown": [1, {"a": 2}]}
    properties |= members.pop("properties", {})
    return {
        "type": "Feature",
        "geometry": polygon() if geometry is None else geometry,
        "properties": {key: value for key, value in properties.items() if value is not None},
        **members,
    }


@pytest.fixture
def read(tmp_path):
    """Reads a JSON value, text or bytes as an annotation file."""

    def reader(content, **options) -> Nuclei:
        if not isinstance(content, (str, bytes)):
            content = json.dumps(content)
        path = tmp_path / "a.geojson"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_geojson(path, **{"mpp": 0.25} | options)

    return reader


@pytest.fixture
def refusal(read):
    """The message with which a file is refused; always one line that starts with the file."""

    def reader(content, **options) -> str:
        with pytest.raises(AnnotationError) as caught:
            read(content, **options)
        message = str(caught.value)
        assert "a.geojson: " in message and "\n" not in message
        return message

    return reader


@pytest.mark.parametrize(
    "content",
    [
        {"type": "FeatureCollection", "features": [feature()]},
        {"features": [feature()], "type": "FeatureCollection"},
        [feature()],
        feature(),
        [{"type": "FeatureCollection", "features": [feature()]}],
    ],
    ids=["collection", "type last", "array", "single", "collection in array"],
)
def test_top_levels(read, content):
    nuclei = read(content)
    assert nuclei.types.tolist() == [4] and nuclei.mpp == 0.25 and nuclei.tissue is None
    assert shapely.equals(nuclei.polygons()[0], shapely.box(10.5, 20, 14.5, 26))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([feature()]).encode("utf-8-sig"),
        json.dumps([feature()])[:-1] + " ,\n ]",
        json.dumps([feature(properties={"measurements": {"a": float("nan"), "b": -np.inf}})]),
        json.dumps(feature(properties={"measurements": [{"name": "N", "value": np.nan}]})),
        json.dumps([feature(properties={"name": 'NaN ,] "Infinity" \\'})], indent=2),
        json.dumps([feature(properties={"name": 1})]).replace("1}", "1e999}"),
        json.dumps([feature(properties={"name": "\ud83d"})]),
    ],
    ids=[
        "byte order mark",
        "trailing comma",
        "numbers",
        "list of numbers",
        "strings",
        "beyond float64",
        "half a surrogate pair",
    ],
)
def test_what_strict_json_lacks(read, content):
    assert read(content).types.tolist() == [4]


VALUES = st.recursive(
    st.none()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([float("nan"), float("inf"), -float("inf")])
    | st.text(alphabet='aN",\\]} \n:')
    | st.sampled_from(["NaN", ",]", "-Infinity,}"]),
    lambda values: st.lists(values) | st.dictionaries(st.text(alphabet='N"\\,]'), values),
)


def flawed(value, indent) -> str:
    return f'{{"type": "Feature", "x": [{json.dumps(value, indent=indent)}, ],\n}}'


@given(
    values=st.lists(VALUES, max_size=3),
    other=VALUES,
    size=st.integers(1, 9),
    indent=st.sampled_from([None, 1]),
)
def test_features_are_found_and_mended_wherever_chunks_end(values, other, size, indent):
    members = ",".join(flawed(value, indent) for value in values)
    texts = [
        f" [{members} , ]\n",
        f'{{"x": {flawed(other, indent)}, "features" : [{members}, ], "y": [{flawed(1, None)}] ,}}',
    ]
    expected = [{"type": "Feature", "x": [value]} for value in values]
    expected = json.loads(json.dumps(expected), parse_constant=lambda name: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nasdm_wsi.annotations.jsonstream.CHUNK", size)
        for text in texts:
            assert list(members_of(io.BytesIO(text.encode()), "features")) == expected
            for cut in (len(text) // 2, len(text.rstrip()) - 1):
                with pytest.raises(json.JSONDecodeError):
                    list(members_of(io.BytesIO(text[:cut].encode()), "features"))


def test_packed_files(tmp_path):
    text = json.dumps([feature()]).encode()
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(text))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one.geojson", text)
        archive.writestr("folder/two.geojson", text)
        archive.writestr("__MACOSX/._one.geojson", b"\0")
    assert len(read_geojson(tmp_path / "a.geojson.gz", mpp=1)) == 1
    assert len(read_geojson(tmp_path / "a.zip", mpp=1)) == 2


def test_packed_files_may_begin_with_a_byte_order_mark(tmp_path):
    text = json.dumps([feature()]).encode("utf-8-sig")
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(text))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one.geojson", text)
    for name in ("a.geojson.gz", "a.zip"):
        assert read_geojson(tmp_path / name, mpp=1).types.tolist() == [4]


@pytest.mark.parametrize(
    ("classification", "kind"),
    [
        ({"name": "Stroma", "color": [150, 200, 150]}, 6),
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3, 4]}, 2),
        ("Immune cells: Lymphocyte", 3),
        ({"name": "Eosinophil", "colorRGB": -3670016}, 5),
        ({"name": "Positive", "parentClass": {"name": "Tumor", "colorRGB": -1}}, 2),
        ("plasma-cell", 4),
    ],
)
def test_classifications(read, classification, kind):
    assert read([feature(classification)]).types.tolist() == [kind]


@pytest.mark.parametrize(
    "members",
    [
        {"properties": {"objectType": "cell"}},
        {"properties": {"objectType": None, "object_type": "cell"}},
        {"properties": {"objectType": None}, "id": "PathCellObject"},
        {"properties": {"objectType": None}, "objectType": "cell"},
    ],
)
def test_the_nucleus_of_a_cell_wins(read, members):
    membrane = polygon(square_at(0, 0))
    cells = [feature(geometry=membrane, nucleusGeometry=polygon(), **members)]
    cells.append(feature(geometry=membrane, **members))  # no nucleus
    assert [p.bounds for p in read(cells).polygons()] == [(10.5, 20, 14.5, 26)]


def test_children_are_read(read):
    inner = feature("Neutrophil", properties={"children": [feature("Epithelial")]})
    outer = feature("Region*", kind="annotation", properties={"childObjects": [inner]})
    assert read([outer]).types.tolist() == [1, 2]


def test_polygons_with_holes_and_parts(read):
    holed = [*square_at(0, 0), [[1, 1], [1.5, 1], [1.5, 1.5], [1, 1]]]
    pair = {"type": "MultiPolygon", "coordinates": [holed, square_at(9, 9)]}
    nuclei = read([feature(geometry=pair, id=ID), feature(id="object_0")])
    assert [len(p.interiors) for p in nuclei.polygons()] == [1, 0, 0]
    assert nuclei.ids == (ID, "", "")


def test_what_carries_no_nucleus_is_counted_in_one_line(read, caplog):
    caplog.set_level(logging.INFO, "nasdm_wsi")
    large = polygon(np.multiply(SQUARE, 4).tolist())
    others = [
        feature(geometry={"type": "Point", "coordinates": [1, 2]}),
        feature(None, geometry={"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]}),
        feature(geometry={"type": "LineString", "coordinates": [[1, 2], [3, 4]]}),
        {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [1, 2]}]},
        feature(None, geometry={}),
        feature(geometry=polygon([[[1, 1], [2, 2], [1, 1]]])),
        feature(geometry=polygon([[[1, 1], [2, 2], [3, 3], [1, 1]]])),
        feature({"name": "Tumor", "color": [1, 2, 3]}, kind="tile"),
        feature(kind="tmaCore"),
        feature(kind="root"),
        feature("Ignore*"),
    ]
    assert len(read([*others, feature(geometry=large)])) == 1
    warned, told = (record.getMessage() for record in caplog.records)
    assert warned.endswith(
        "a.geojson: left out, because they are not outlines: 1 geometry collections, 1 lines, "
        "1 objects without shape, 2 points"
    )
    assert told.endswith(
        "a.geojson: 1 nuclei; 1 TMA cores, 1 geometry collections, "
        "1 lines, 1 objects without shape, 1 of ignored classes, 2 points, 1 repaired, "
        "1 root objects, 1 tiles, 2 without area"
    )


def test_flawed_outlines_are_repaired(read):
    bowtie = [[[0, 0], [10, 10], [10, 0], [0, 10.5], [0, 0]]]
    unclosed = [[[0, 0], [10.5, 0], [10, 10]]]
    nuclei = read([feature(geometry=polygon(rings)) for rings in (bowtie, unclosed)])
    assert len(nuclei) == 3 and shapely.is_valid(nuclei.polygons()).all()
    assert nuclei.polygons()[2].area == 10.5 * 10 / 2


def test_tissue_is_no_nucleus(read):
    tissue = [
        feature("Tissue", polygon(square_at(0, 0)), kind="annotation"),
        feature("region* 2", polygon(square_at(2, 0)), kind="annotation"),
    ]
    nuclei = read([*tissue, feature()])
    assert nuclei.types.tolist() == [4]
    assert nuclei.tissue.equals(shapely.box(0, 0, 4.5, 2))
    named = read(
        [*tissue, feature(), feature("Gland")], tissue_classes=["gl*", "REGION*", "tissue"]
    )
    assert named.tissue.area == 9 + 24
    own = read([*tissue, feature()], class_map={"Tissue": "connective"})
    assert own.types.tolist() == [6, 4]


def test_unknown_classes_are_listed_with_their_counts(refusal):
    pair = {"type": "MultiPolygon", "coordinates": [square_at(0, 0), square_at(9, 9)]}
    features = [feature(), feature("Dead", pair), feature("Dead"), feature(None), feature("Foo")]
    message = refusal(features)
    assert "'Dead' (3 objects), 'unclassified' (1 object), 'Foo' (1 object)" in message
    assert "`class_map` NAME=TYPE" in message and "`ignore_classes` NAME" in message
    assert "and 5 more" in refusal([feature(f"unknown {k}") for k in range(15)])


def test_the_remedies_for_unknown_classes_work(read):
    features = [feature(), feature("Dead"), feature(None)]
    nuclei = read(features, class_map={"dead": "neutrophil"}, ignore_classes=["unclassified"])
    assert nuclei.types.tolist() == [4, 1]


def test_the_number_of_the_bad_feature_is_told(refusal):
    for bad in (float("nan"), None, "x", 1e999):
        corner = [[[0, 0], [5, 0], [5, bad], [0, 0]]]
        message = refusal([feature(), feature(geometry=polygon(corner))])
        assert "feature 1 has coordinates that are not finite numbers: correct" in message
    corner = [[[0, 0], [5, 0], [5, 77], [0, 0]]]
    huge = json.dumps([feature(), feature(geometry=polygon(corner))])
    for number in ("1e999", "9" * 5000):
        assert "feature 1 has coordinates that are" in refusal(huge.replace("77", number))
    for ring in ([1, 2, 3, 4], [[1], [2], [3], [4]], [["1", "2"]] * 4, ["12"] * 4):
        assert "feature 0" in refusal([feature(geometry=polygon([ring]))])


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("", "not JSON, or cut short: export it again"),
        ("hello", "not JSON, or cut short: export it again"),
        (json.dumps([feature(), feature()])[:-40], "not JSON, or cut short: export it again"),
        (b"\xff\xfe[\0", "not JSON, or cut short: export it again"),
        (b"\x1f\x8b\x08\0broken", "export it again"),
        (b"PK\x03\x04broken", "export it again"),
        (gzip.compress(json.dumps([feature()]).encode())[:-20], "export it again"),
        ({"cells": [{"contour": [[1, 2]]}]}, "JSON, but no GeoJSON features: export it as GeoJSON"),
        ([1, 2], "JSON, but no GeoJSON features: export it as GeoJSON"),
        ("null", "JSON, but no GeoJSON features: export it as GeoJSON"),
        ([], "no nuclei found (nothing at all): export polygons"),
        ({"type": "FeatureCollection", "features": []}, "no nuclei found (nothing at all)"),
        ([feature(None, kind="tile")], "no nuclei found (1 tiles): export polygons of annotations"),
    ],
)
def test_bad_files(refusal, content, remedy):
    assert remedy in refusal(content)


@pytest.mark.parametrize("mpp", [None, 0, float("inf"), 250])
def test_absurd_mpp(refusal, mpp):
    assert "for example `mpp` 0.25" in refusal([feature()], mpp=mpp)


def test_missing_file(tmp_path):
    with pytest.raises(AnnotationError, match="none.geojson: no such file: check the path"):
        read_geojson(tmp_path / "none.geojson", mpp=1)


def test_contours_of_opencv(read, caplog):
    # Steps go along rows, columns and diagonals, from centre to centre of boundary pixels.
    ring = [[9, 4], [12, 4], [16, 8], [16, 12], [12, 16], [8, 16], [4, 12], [4, 9], [9, 4]]
    mask = shapely.intersects_xy(shapely.Polygon(ring), *np.mgrid[:30, :30])
    traced = [feature(geometry=polygon([ring]))]
    box = (0, 0, 30, 30)
    corner = Conditioning(read(traced), (30, 30)).labels(box)[0] > 0
    assert "`contours` cv2" in caplog.text
    caplog.clear()
    centre = Conditioning(read(traced, contours="cv2"), (30, 30)).labels(box)[0] > 0
    assert not caplog.records
    assert (corner != mask).any() and (centre == mask).all()


def test_integer_rectangles_raise_no_suspicion(read, caplog):
    read([feature(geometry=polygon([[[0, 0], [20, 0], [20, 20], [0, 20], [0, 0]]]))])
    assert not caplog.records


def test_heights_are_left_out(read):
    ring = [[*point, 7] for point in SQUARE[0][:-1]]
    (outline,) = read([feature(geometry=polygon([ring]))]).polygons()
    assert not outline.has_z and outline.equals(shapely.box(10.5, 20, 14.5, 26))


def test_many_batches(read, monkeypatch):
    monkeypatch.setattr("nasdm_wsi.annotations.outlines.BATCH", 3)
    squares = [polygon(square_at(k, 0)) for k in range(10)]
    nuclei = read(
        [feature("Tissue" if k in (1, 8) else "Plasma", s) for k, s in enumerate(squares)]
    )
    assert nuclei.boxes()[:, 1].tolist() == [0, 2, 3, 4, 5, 6, 7, 9]
    assert nuclei.tissue.bounds == (1, 0, 10.5, 2) and nuclei.tissue.area == 2 * 2.5 * 2


@pytest.fixture
def nuclei() -> Nuclei:
    holed = shapely.Point(50, 60).buffer(8).difference(shapely.Point(50, 60).buffer(3))
    shapes = [holed, shapely.box(1.234, 2, 3, 4), *shapely.box(range(4), 9, range(5, 9), 12)]
    return Nuclei.from_polygons(shapes, [1, 2, 3, 4, 5, 6], mpp=0.5, ids=[ID, "object_0", *"abcd"])


def test_round_trip(tmp_path, nuclei):
    path = tmp_path / "a.geojson"
    write_geojson(path, nuclei)
    again = read_geojson(path, mpp=0.5)
    assert (again.types == nuclei.types).all()
    assert np.abs(again.coords - nuclei.coords).max() <= 0.005 + 1e-9
    assert (again.polygon_offsets == nuclei.polygon_offsets).all()
    assert again.ids[0] == ID
    for name, same in (("b.geojson", again), ("c.geojson", nuclei)):
        write_geojson(tmp_path / name, same)
        assert (tmp_path / name).read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.geojson", "b.geojson", "c.geojson"]


def test_what_is_written_has_all_that_qupath_insists_on(tmp_path, nuclei):
    write_geojson(tmp_path / "a.geojson", nuclei)
    text = (tmp_path / "a.geojson").read_text()
    features = json.loads(text)["features"]
    assert geojson.loads(text).is_valid
    assert len(text.splitlines()) == len(nuclei) + 2
    assert len({str(uuid.UUID(f["id"])) for f in features}) == len(nuclei)
    for kind, written in zip(nuclei.types, features, strict=True):
        assert written["properties"]["objectType"] == "detection"
        assert written["properties"]["classification"]["color"] == PALETTE[kind].tolist()
        for ring in written["geometry"]["coordinates"]:
            assert ring[0] == ring[-1] and ring == np.round(ring, 2).tolist()
    assert features[1]["properties"]["classification"]["name"] == "Epithelial"


def assert_same(one: Nuclei, other: Nuclei) -> None:
    for column in ("coords", "ring_offsets", "polygon_offsets", "types"):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column))
    assert (one.ids, one.mpp) == (other.ids, other.mpp)


def test_geojson_objects_are_the_features_of_the_file_and_are_read_alike(tmp_path, nuclei):
    write_geojson(tmp_path / "a.geojson", nuclei)
    collection = nuclei.to_geojson()
    assert isinstance(collection, geojson.FeatureCollection) and collection.is_valid
    assert collection == geojson.loads((tmp_path / "a.geojson").read_text())
    from_file = read_geojson(tmp_path / "a.geojson", mpp=0.5)
    as_dict = json.loads(geojson.dumps(collection))
    for form in (collection, as_dict, collection.features, iter(as_dict["features"])):
        assert_same(Nuclei.from_geojson(form, mpp=0.5), from_file)
    one = Nuclei.from_geojson(collection.features[1], mpp=0.5)
    assert_same(one, from_file.take(np.array([1])))
    assert Nuclei.from_geojson(from_file.to_geojson(), mpp=2).to_geojson() == collection


def test_geojson_objects_mean_what_files_mean(read):
    cell = feature(
        "Negative: Stroma", polygon(square_at(0, 0)), kind="cell", nucleusGeometry=polygon()
    )
    pair = {"type": "MultiPolygon", "coordinates": [square_at(20, 0), square_at(9, 9)]}
    point = feature(geometry={"type": "Point", "coordinates": [1, 2]})
    parent = feature("Tissue", kind="annotation", properties={"childObjects": [feature()]})
    features = [cell, feature({"name": "Dead"}, pair, id=ID), point, parent]
    options = {"mpp": 0.25, "class_map": {"dead": "plasma"}}
    found, expected = Nuclei.from_geojson(features, **options), read(features, **options)
    assert_same(found, expected)
    assert found.types.tolist() == [6, 4, 4, 4] and found.tissue.equals(expected.tissue)


HALF = [[0, 0], [4.5, 0], [4, 4]]


@pytest.mark.parametrize(
    ("geometry", "reason"),
    [
        (polygon([HALF]), "at least 4 positions"),
        (polygon([[*HALF, [0, 1]]]), "must end where it started"),
        (polygon([[*HALF, ["0", 0]]]), "not a JSON compliant number"),
        (polygon([[*HALF, [None, 0]]]), "not a JSON compliant number"),
        (polygon([[*HALF, [0]]]), "is not valid GeoJSON"),
        (polygon([[*HALF, [float("nan"), 0]]]), "not JSON compliant"),
        (polygon([[*HALF, [0, float("inf")]]]), "not JSON compliant"),
        (polygon([1, 2, 3, 4]), "must be a list"),
        ({"type": "Circle", "coordinates": [1, 2], "radius": 99 * [3]}, "Cannot coerce"),
        ({"type": "MultiPolygon", "coordinates": [[HALF]]}, "at least 4 positions"),
    ],
)
def test_invalid_geojson_objects_are_one_line_with_their_number(geometry, reason):
    for bad in (feature(geometry=geometry), feature(kind="cell", nucleusGeometry=geometry)):
        with pytest.raises(AnnotationError) as caught:
            Nuclei.from_geojson([feature(), bad], mpp=1)
        message = str(caught.value)
        assert message.startswith("the GeoJSON: feature 1 ") and reason in message
        assert "\n" not in message and len(message) < 300 and "correct or remove it" in message


@pytest.mark.parametrize("content", [5, "text", {"a": 1}, [1], {"type": "FeatureCollection"}])
def test_objects_that_are_no_geojson_are_refused(content):
    with pytest.raises(AnnotationError, match="^the GeoJSON: .*no GeoJSON features.*$"):
        Nuclei.from_geojson(content, mpp=1)


def test_geojson_objects_are_checked_as_files_are():
    with pytest.raises(AnnotationError, match="^the GeoJSON: no nucleus type .*'Dead'"):
        Nuclei.from_geojson([feature("Dead")], mpp=1)
    with pytest.raises(AnnotationError, match="^the GeoJSON: no nuclei found"):
        Nuclei.from_geojson(geojson.FeatureCollection([]), mpp=1)
    with pytest.raises(AnnotationError, match="^the GeoJSON: .*for example `mpp` 0.25"):
        Nuclei.from_geojson([feature()], mpp=None)


def test_a_place_that_cannot_be_written_is_told(tmp_path, nuclei):
    with pytest.raises(OutputError, match="a.geojson: cannot .*No such file or dir"):
        write_geojson(tmp_path / "none" / "a.geojson", nuclei)
    (tmp_path / "b.geojson").mkdir()
    with pytest.raises(OutputError):
        write_geojson(tmp_path / "b.geojson", nuclei)
    assert [p.name for p in tmp_path.iterdir()] == ["b.geojson"]


def real(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip("needs the example files")
    return DATA / name


@pytest.mark.parametrize("name", ["arr.geojson", "fc.geojson", "fc.geojson.gz", "fc.zip"])
def test_files_of_qupath(name):
    options = {"mpp": 0.25, "ignore_classes": ["unclassified"]}
    nuclei = read_geojson(real(f"qupath/zoo_{name}"), **options)
    # The first annotation, of class Stroma, lies around others.
    assert nuclei.types.tolist() == [2, 2, 2, 3, 3]
    # The third is the nucleus of a cell, not its membrane.
    assert nuclei.polygons()[2].bounds == (296.55, 296.7, 303.39, 303.84)


def test_a_single_object_and_a_hierarchy_of_qupath():
    assert read_geojson(real("qupath/zoo_one.geojson"), mpp=0.25).types.tolist() == [6]
    mapped = {"mpp": 0.25, "class_map": {"unclassified": "plasma"}}
    assert len(read_geojson(real("qupath/zoo_hier.geojson"), **mapped)) == 1  # and its parent


@pytest.mark.parametrize(
    ("name", "count"), [("bowtie", 2), ("cellvit", 2), ("instanseg", 1), ("unclosed", 1)]
)
def test_files_of_other_tools(name, count):
    classes = {"unclassified": "epithelial", "Nucleus": "epithelial"}
    nuclei = read_geojson(real(f"tools/o_{name}.geojson"), mpp=0.25, class_map=classes)
    assert nuclei.types.tolist() == [2] * count

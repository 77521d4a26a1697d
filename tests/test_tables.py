"""Tables of pictures: pixel sizes of their own, labels of all kinds, patients and copies."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from helpers import labelled_tissue
from PIL import Image
from skimage.measure import regionprops

from nasdm_wsi.annotations.geojson import write_geojson
from nasdm_wsi.annotations.labels import from_labels
from nasdm_wsi.annotations.regions import REGIONS
from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import DatasetError
from nasdm_wsi.tools.dataset import read_manifest, read_regions
from nasdm_wsi.tools.info import describe
from nasdm_wsi.tools.prepare import prepare
from nasdm_wsi.tools.tables import read_table

SIZE = (90, 120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures, and the labels of one of them in all forms."""
    folder = tmp_path_factory.mktemp("table")
    for seed, name in enumerate(("a", "b", "c", "d")):
        image, instances, types = labelled_tissue(SIZE, seed=seed)
        Image.fromarray(image).save(folder / f"{name}.webp", lossless=True)
        if name == "a":
            np.savez_compressed(folder / "a.npz", instances=instances, types=types)
            Image.fromarray(types).save(folder / "types.png")
            write_geojson(folder / "a.geojson", from_labels(instances, types, mpp=1.0))
            spots = regionprops(instances)
            points = [(*spot.centroid, types[instances == spot.label][0]) for spot in spots]
            names = [
                "",
                "neutrophil",
                "epithelial",
                "lymphocyte",
                "plasma",
                "eosinophil",
                "spindle",
            ]
            lines = [f"{x:.1f},{y:.1f},{names[kind]}" for y, x, kind in points]
            (folder / "points.csv").write_text("\n".join(["x,y,class", *lines]))
    return folder


def prepared(folder, out, rows, **options):
    """The regions of a table of rows, by name, and their rows of the manifest."""
    table = folder / f"{out.name}.json"
    table.write_text(json.dumps(rows))
    prepare([table], out, **options)
    regions = {region.name: region for region in read_regions(out)}
    return regions, {row["name"]: row for row in read_manifest(out)["regions"]}


def test_a_picture_of_larger_pixels_is_enlarged_with_its_labels(folder, tmp_path):
    image, instances, types = labelled_tissue(SIZE, seed=0)
    rows = [
        {"image": "a.webp", "mpp": 1.0, "nuclei": file, "name": file}
        for file in ("a.npz", "types.png", "a.geojson")
    ]
    regions, facts = prepared(folder, tmp_path / "large", rows, held_out=0.2)
    own, _ = prepared(folder, tmp_path / "own", rows[:1], held_out=0.2, mpp=1.0)
    np.testing.assert_array_equal(own["a.npz"].image, image)
    doubled = np.kron(types, np.ones((2, 2), np.uint8))
    for name, region in regions.items():
        unlike = (region.types != doubled).mean()
        assert unlike == 0 or (name == "a.geojson" and unlike < 0.01)  # outlines run obliquely
        smaller = region.image.astype(float).reshape(90, 2, 120, 2, 3).mean((1, 3))
        assert np.abs(smaller - image).mean() < 4  # noise of 6 is smoothed a little
    pieces = np.kron(instances, np.ones((2, 2), np.int32))
    np.testing.assert_array_equal(regions["a.npz"].instances, pieces)
    assert len(np.unique(regions["a.geojson"].instances)) == len(np.unique(instances))
    assert facts["a.npz"]["source_mpp"] == 1.0 and facts["a.npz"]["mpp"] == 0.5
    # The same tissue is held out at every pixel size.
    assert np.array(regions["a.npz"].held_out) == pytest.approx(2 * np.array(own["a.npz"].held_out))


def test_a_picture_of_smaller_pixels_is_averaged(folder, tmp_path):
    image, _, _ = labelled_tissue(SIZE, seed=1)
    regions, _ = prepared(folder, tmp_path / "small", [{"image": "b.webp", "mpp": 0.25}])
    averaged = image.astype(float).reshape(45, 2, 60, 2, 3).mean((1, 3))
    assert regions["b"].image.shape == averaged.shape
    noise = np.abs(regions["b"].image - averaged)
    assert noise.mean() < 3  # picking every second pixel has 4.6


def test_nuclei_grow_from_points_and_the_manifest_says_so(folder, tmp_path):
    _, instances, types = labelled_tissue(SIZE, seed=0)
    rows = [{"image": "a.webp", "points": "points.csv"}, {"image": "b.webp"}]
    regions, facts = prepared(folder, tmp_path / "points", rows)
    region = regions["a"]
    overlap = ((region.types > 0) & (types > 0)).sum()
    assert 2 * overlap / ((region.types > 0).sum() + (types > 0).sum()) > 0.8  # one type is pale
    inside = (region.types > 0) & (types > 0)
    assert (region.types[inside] == types[inside]).all()
    assert len(np.unique(region.instances)) == len(np.unique(instances))
    assert facts["a"]["labels"]["nuclei"] == region.nuclei == "points"
    assert facts["b"]["labels"]["nuclei"] == regions["b"].nuclei == "none"
    assert not regions["b"].types.any() and regions["b"].usable.any()


def test_patients_are_held_out_whole_and_copies_left_out(folder, tmp_path, caplog):
    rows = [
        {"image": "d.webp", "same_as": "a", "patient": "2"},
        {"image": "a.webp", "nuclei": "a.npz", "pseudo": "nuclei", "patient": "1"},
        {"image": "b.webp", "patient": "2", "histology": "adenoma"},
        {"image": "c.webp", "same_as": "elsewhere"},
        {"image": "c.webp", "name": "again", "same_as": "elsewhere"},
    ]
    with caplog.at_level(logging.INFO):
        regions, facts = prepared(folder, tmp_path / "out", rows, held_out_patients=("2",))
    assert list(facts) == ["a", "b", "c"] and "2 pictures" in caplog.text
    assert not regions["b"].usable.any() and regions["b"].held_out == ((0, 0, *SIZE),)
    assert regions["a"].usable.any() and regions["a"].nuclei == "pseudo"
    assert regions["b"].histology == "adenoma" and regions["a"].histology == ""
    told = dict(describe(tmp_path / "out"))
    assert told["labels of nuclei"] == "1 pseudo, 2 none" and told["labels of regions"] == "3 none"
    with pytest.raises(DatasetError, match="from 'a' back"):
        prepared(folder, tmp_path / "no", [{"image": "a.webp", "same_as": "a"}])
    with pytest.raises(DatasetError, match="no picture of patient '3'"):
        prepared(folder, tmp_path / "no", rows, held_out_patients=("3",))


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"image": "z.webp"}], "row 1: there is no file .*z.webp"),
        ([{"image": "a.webp"}, {}], "row 2: image is empty"),
        ([{"image": "a.webp", "stain": "x"}], "unknown column 'stain': use image"),
        ([{"image": "a.webp", "mpp": "half"}], "mpp is 'half': give a number"),
        ([{"image": "a.webp", "pseudo": "all"}], "pseudo is 'all'"),
        ([{"image": "a.webp", "histology": "polyp"}], "use normal, adenoma, carcinoma or nothing"),
        ([{"image": "a.webp", "name": "../a"}], "cannot be the name of a folder"),
        ([{"image": "a.webp", "nuclei": "a.npz", "points": "points.csv"}], "keep one of them"),
        ([{"image": "a.webp", "nuclei": "a.npz", "mpp": "0"}], "give a number above 0"),
        ([], "no pictures"),
        ({"image": "a.webp"}, "a list of objects is needed"),
    ],
)
def test_a_wrong_row_is_one_line(folder, rows, message):
    table = folder / "wrong.json"
    table.write_text(json.dumps(rows))
    with pytest.raises(DatasetError, match=message) as caught:
        read_table(table)
    assert "\n" not in str(caught.value)


def test_regions_are_enlarged_and_checked(folder, tmp_path):
    drawn = np.zeros(SIZE, np.uint8)
    drawn[20:50, 30:80] = REGIONS.index("mucus") + 1
    Image.fromarray(drawn).save(folder / "drawn.png")
    row = {"image": "b.webp", "mpp": 1.0, "regions": "drawn.png", "pseudo": "regions"}
    regions, facts = prepared(folder, tmp_path / "drawn", [row, {"image": "c.webp"}])
    np.testing.assert_array_equal(regions["b"].regions, np.kron(drawn, np.ones((2, 2), np.uint8)))
    assert regions["b"].tissue == "pseudo" and facts["b"]["labels"]["nuclei"] == "none"
    assert regions["c"].regions is None
    outline = shapely.geometry.mapping(shapely.box(30, 20, 80, 50))
    classes = {"classification": {"name": "Mucus"}, "objectType": "annotation"}
    feature = {"type": "Feature", "geometry": outline, "properties": classes}
    (folder / "drawn.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": [feature]})
    )
    same, _ = prepared(folder, tmp_path / "outlined", [row | {"regions": "drawn.geojson"}])
    np.testing.assert_array_equal(same["b"].regions, regions["b"].regions)
    Image.fromarray(np.full(SIZE, 99, np.uint8)).save(folder / "drawn.png")
    with pytest.raises(DatasetError, match="99 is not the number of a region"):
        prepared(folder, tmp_path / "x", [row])


def test_labels_that_do_not_fit_are_refused(folder, tmp_path):
    np.savez(folder / "small.npz", instances=np.zeros((9, 9), int), types=np.zeros((9, 9), int))
    with pytest.raises(DatasetError, match="small.npz: labels of 9 x 9 pixels do not fit"):
        prepared(folder, tmp_path / "x", [{"image": "a.webp", "nuclei": "small.npz"}])


def test_the_command_reads_a_csv_and_follows_its_options(folder, tmp_path):
    (folder / "t.csv").write_text("image,nuclei,patient\na.webp,a.npz,7\nb.webp,,8\n")

    def run(*options, code=0):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        command = ["prepare", folder / "t.csv", "-o", out, *options]
        result = CliRunner().invoke(main, [str(word) for word in command])
        assert result.exit_code == code, result.output
        return result.output if code else read_manifest(out)["regions"]

    a, b = run("--held-out-patient", "8")
    assert b["held_out"] == [[0, 0, *SIZE]] and a["held_out"] != b["held_out"]
    assert "raise --max-pixels" in run("--max-pixels", 90 * 120 - 1, code=1)

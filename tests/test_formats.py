"""Files of other tools, made here to their schemas, against the label images they came from."""

import gzip
import json
import sqlite3
import sys
import uuid
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import shapely
import tifffile
from click.testing import CliRunner
from helpers import labelled_tissue
from PIL import Image
from scipy import ndimage
from scipy.io import savemat

from nasdm_wsi.annotations import formats, jsonstream
from nasdm_wsi.annotations.contents import Format, packed
from nasdm_wsi.annotations.formats import read_contents
from nasdm_wsi.annotations.geojson import write_geojson
from nasdm_wsi.annotations.labels import from_labels
from nasdm_wsi.annotations.lizard import read_mat_labels
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.outlines import Outlines
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import AnnotationError, PlanError, SlideError
from nasdm_wsi.rendering import plan_render, read_annotations
from nasdm_wsi.slides import ome_tiff
from nasdm_wsi.slides import reading as slides
from nasdm_wsi.slides.reading import size_like

DATA = Path(__file__).parents[2] / "shared" / "data"
SIZE = (160, 200)
_, INSTANCES, KINDS = labelled_tissue(SIZE, seed=3)
COUNT = int(INSTANCES.max())
# The type number of each nucleus, 1 to COUNT.
NUMBERS = [int(KINDS[INSTANCES == k][0]) for k in range(1, COUNT + 1)]
NAMES = [TYPES[number].capitalize() for number in NUMBERS]
BY_NUMBER = {f"{k}": name for k, name in enumerate(TYPES) if k}


def contours(instances=INSTANCES, method="SIMPLE") -> list[list]:
    """The open contours (v, 2) of all instances as OpenCV traces them, in order.

    As in HoVer-Net, one piece of each, and none of less than three points.
    """
    cv2 = pytest.importorskip("cv2", exc_type=ImportError)
    found = []
    for k, (y, x) in enumerate(ndimage.find_objects(instances), 1):
        mask = np.pad((instances[y, x] == k).astype(np.uint8), 1)
        how = getattr(cv2, f"CHAIN_APPROX_{method}")
        points = max(cv2.findContours(mask, cv2.RETR_EXTERNAL, how)[0], key=len)
        found.append((points[:, 0] + [x.start - 1, y.start - 1]).tolist())
    return [points for points in found if len(points) > 2]


def closed(points) -> list:
    return [*points, points[0]]


def labels(nuclei: Nuclei, size=SIZE) -> tuple[np.ndarray, np.ndarray]:
    return Conditioning(nuclei, size).labels((0, 0, *size))


def overlaps(nuclei: Nuclei, instances: np.ndarray) -> np.ndarray:
    """Intersection over union of each instance with the nucleus that covers it best."""
    found, _ = labels(nuclei, instances.shape)
    pairs, shared = np.unique(np.stack([instances, found]).reshape(2, -1), axis=1, return_counts=1)
    whole, seen = np.bincount(instances.ravel()), np.bincount(found.ravel())
    ratio = shared / (whole[pairs[0]] + seen[pairs[1]] - shared)
    best = np.zeros(len(whole))
    np.maximum.at(best, pairs[0], np.where(pairs[1] > 0, ratio, 0))
    return best[1:][whole[1:] > 0]


def assert_exact(nuclei: Nuclei) -> None:
    """Every pixel of the label image is back, with its type."""
    found, types = labels(nuclei)
    np.testing.assert_array_equal(types, KINDS)
    np.testing.assert_array_equal(found > 0, INSTANCES > 0)
    assert len(nuclei) == COUNT


@pytest.fixture
def written(tmp_path):
    """Writes a value as JSON."""

    def writer(content, name="a.json") -> Path:
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    return writer


def told(path, *options) -> str:
    """What `nasdm-wsi info` says, which never fails on classes."""
    result = CliRunner().invoke(main, ["info", str(path), *options])
    assert result.exit_code == 0, result.output
    return result.output


# HoVer-Net


def hovernet(mag=40, **changes) -> dict:
    nuclei = {
        f"{k + 1}": {
            "bbox": [[0, 0], [1, 1]],
            "centroid": [0.5, 0.5],
            "contour": points,
            "type_prob": 0.9,
            "type": NUMBERS[k],
            **changes,
        }
        for k, points in enumerate(contours())
    }
    return {"mag": mag, "nuc": nuclei}


def test_hovernet_json(written):
    path = written(hovernet())
    nuclei = read_annotations(path, class_map=BY_NUMBER)
    assert nuclei.mpp == 0.25
    assert_exact(nuclei)
    packed = path.with_suffix(".json.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert_exact(read_annotations(packed, class_map=BY_NUMBER))
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.writestr("a.json", path.read_text(encoding="utf-8"))
    assert_exact(read_annotations(path.with_suffix(".zip"), class_map=BY_NUMBER))
    marked = path.with_name("marked.json")
    marked.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert_exact(read_annotations(marked, class_map=BY_NUMBER))
    packed.write_bytes(gzip.compress(marked.read_bytes()))
    assert_exact(read_annotations(packed, class_map=BY_NUMBER))
    lossy = read_annotations(path, class_map=BY_NUMBER, contours="corner")
    assert 0.7 < lossy.polygons()[0].area / nuclei.polygons()[0].area < 0.8


@pytest.mark.parametrize("chunk", [61, 62, 63, 1 << 18])
def test_json_that_is_not_strict_is_read_wherever_it_is_cut(written, monkeypatch, chunk):
    path = written(hovernet(type_prob=np.nan, bbox=[[-np.inf, 0], [9, np.inf]]))
    path.write_text(path.read_text().replace("}", ",}"))
    monkeypatch.setattr(jsonstream, "CHUNK", chunk)
    assert_exact(read_annotations(path, class_map=BY_NUMBER))


def test_the_resolution_of_hovernet(written):
    for mag, given, mpp in ((20, {}, 0.5), (40, {"mpp": 0.23}, 0.23), (None, {"mpp": 0.3}, 0.3)):
        path = written(hovernet(mag))
        assert read_annotations(path, class_map=BY_NUMBER, **given).mpp == mpp
    for mag in (None, "40x", 0):
        with pytest.raises(AnnotationError, match="a.json: .* for example `mpp` 0.25"):
            read_annotations(written(hovernet(mag)), class_map=BY_NUMBER)


def test_hovernet_without_types_or_contours(written):
    path = written(hovernet(type=None))
    with pytest.raises(AnnotationError, match=rf"'unclassified' \({COUNT} objects\)"):
        read_annotations(path)
    assert len(read_annotations(path, class_map={"unclassified": "plasma"})) == COUNT
    with pytest.raises(AnnotationError, match=f"no nuclei found .{COUNT} objects without shape"):
        read_annotations(written(hovernet(contour=None)), class_map=BY_NUMBER)


def test_damaged_json_is_one_line(written):
    path = written(hovernet())
    for text in (path.read_text()[:-99], path.read_text().replace("[", "[1e999,", 1)):
        path.write_text(text)
        with pytest.raises(AnnotationError, match=r"^.*a.json: [^\n]*export it again$"):
            read_annotations(path, class_map=BY_NUMBER)
    content = hovernet()
    content["nuc"]["1"] = 5
    assert len(read_annotations(written(content), class_map=BY_NUMBER)) == COUNT - 1
    content["nuc"]["2"]["contour"][1] = [None, 1]
    with pytest.raises(AnnotationError, match="a.json: nucleus 2 has coordinates that are not"):
        read_annotations(written(content), class_map=BY_NUMBER)


# CellViT


def test_cellvit_json(written):
    cells = [{"contour": c, "type": n} for c, n in zip(contours(), NUMBERS, strict=True)]
    names = {"Background": 0} | {name: int(k) for k, name in BY_NUMBER.items()}
    head = {"wsi_metadata": {"magnification": 40}, "processed_patches": ["0_0"]}
    for type_map in (names, {v: k for k, v in names.items()}):
        path = written({**head, "type_map": type_map, "cells": cells})
        assert_exact(read_annotations(path, mpp=0.25))
    points = [{"centroid": [1, 2], "type": 1}]
    with pytest.raises(AnnotationError, match="no nuclei found .1 objects without shape"):
        read_annotations(written({"type_map": names, "cells": points}), mpp=0.25)


@pytest.mark.parametrize("scale", [1, 0.5, 1.978])
def test_cellvit_geojson(written, scale):
    """One feature a class; contours of OpenCV are recognised, also where they were rescaled."""
    features = []
    for number, name in BY_NUMBER.items():
        parts = [c for c, n in zip(contours(), NUMBERS, strict=True) if n == int(number)]
        rings = [[closed((np.array(c) * scale).round(2).tolist())] for c in parts]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "MultiPolygon", "coordinates": rings},
                "properties": {"objectType": "annotation", "classification": {"name": name}},
            }
        )
    path = written(features, "cells.geojson")
    nuclei = read_annotations(path, mpp=0.25)
    if scale == 1:
        assert_exact(nuclei)
    assert overlaps(nuclei.scaled(0.25 * scale), INSTANCES).mean() > 0.999
    assert "contours of OpenCV" in told(path)
    assert overlaps(
        read_annotations(path, mpp=0.25, contours="corner").scaled(0.25 * scale), INSTANCES
    ).mean() < (0.9)


def test_outlines_between_pixels_are_left_as_they_are(tmp_path, caplog):
    """Ours run along marching squares; at twice the resolution all vertices are integers."""
    for scale in (1, 2, 3.956):
        nuclei = from_labels(INSTANCES, KINDS, mpp=0.5).scaled(0.5 / scale)
        write_geojson(tmp_path / "a.geojson", nuclei)
        again = read_annotations(tmp_path / "a.geojson", mpp=nuclei.mpp)
        np.testing.assert_allclose(again.coords, nuclei.coords, atol=0.0051)
    assert not caplog.records


# HoVerNeXt


def hovernext(scale=1) -> dict:
    names = ("neutrophil", "epithelial-cell", "lymphocyte", "plasma-cell", "eosinophil")
    lookup = dict(enumerate((*names, "connective-tissue-cell"), 1))
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [closed((np.array(c) * scale).round(2).tolist())],
            },
            "properties": {
                "Name": f"Nuc {k}",
                "Type": "Polygon",
                "classification": lookup[NUMBERS[k]],
                "objectType": "tile",
            },
        }
        for k, c in enumerate(contours(method="TC89_KCOS"))
    ]
    return {"type": "FeatureCollection", "features": features}


@pytest.mark.parametrize("scale", [1, 2, 1.978])
def test_hovernext(written, scale):
    """Its contours have cut corners, so that the last pixels are lost, but not the rim."""
    nuclei = read_annotations(written(hovernext(scale), "poly.geojson"), mpp=0.5 / scale)
    assert nuclei.types.tolist() == NUMBERS
    assert overlaps(nuclei.scaled(0.5), INSTANCES).mean() > 0.93
    areas = shapely.area(nuclei.scaled(0.5).polygons())
    assert areas.sum() == pytest.approx((INSTANCES > 0).sum(), rel=0.05)


def test_tiles_of_qupath_are_no_nuclei(written):
    content = hovernext()
    for feature in content["features"]:
        feature["properties"]["classification"] = {"name": "Tumor", "color": [200, 0, 0]}
    with pytest.raises(AnnotationError, match=f"no nuclei found .{COUNT} tiles"):
        read_annotations(written(content, "tiles.geojson"), mpp=0.5)


# TIAToolbox


def store(path: Path, rows, compression='"zlib"') -> Path:
    """An SQLite store as TIAToolbox 2 lays it out; rows of (geometry, properties)."""
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE metadata (key TEXT UNIQUE, value TEXT)")
        facts = {"version": '"1.0.1"', "compression": compression, "compression_level": "9"}
        db.executemany("INSERT INTO metadata VALUES (?, ?)", facts.items())
        db.execute(
            "CREATE TABLE annotations (id INTEGER PRIMARY KEY, key TEXT UNIQUE, objtype TEXT, "
            "cx FLOAT NOT NULL, cy FLOAT NOT NULL, geometry BLOB, properties TEXT, area FLOAT)"
        )
        for k, (geometry, properties) in enumerate(rows):
            blob = zlib.compress(geometry.wkb) if compression == '"zlib"' else geometry.wkb
            kind = geometry.geom_type
            values = (f"key {k}", kind, 1, 1, None if kind == "Point" else blob)
            command = "INSERT INTO annotations VALUES (NULL, ?, ?, ?, ?, ?, ?, 0)"
            db.execute(command, (*values, json.dumps(properties)))
    db.close()
    return path


@pytest.mark.parametrize("compression", ['"zlib"', "null"])
def test_tiatoolbox_stores(tmp_path, compression):
    polygons = [shapely.Polygon(c) for c in contours()]
    rows = [(p, {"type": n, "prob": 0.9}) for p, n in zip(polygons, NAMES, strict=True)]
    rows.append((shapely.Point(1, 1), {"type": "Plasma"}))
    path = store(tmp_path / "nuclei.db", rows, compression)
    before = path.read_bytes()
    path.chmod(0o444)
    assert_exact(read_annotations(path, mpp=0.25))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["nuclei.db"]
    assert "also found      1 points" in told(path)
    with pytest.raises(AnnotationError, match="for example `mpp`"):
        read_annotations(path)


@pytest.mark.parametrize(
    "command",
    [
        "UPDATE annotations SET geometry = x'789c0000'",
        "UPDATE annotations SET geometry = 'text'",
        "UPDATE annotations SET properties = 'x'",
        "UPDATE annotations SET properties = NULL",
        "UPDATE annotations SET properties = '[1]'",
        "DELETE FROM metadata",
        "DROP TABLE annotations",
    ],
)
def test_damaged_stores_are_one_line(tmp_path, command):
    path = store(tmp_path / "a.db", [(shapely.box(0, 0, 9, 9), {"type": "Plasma"})])
    with sqlite3.connect(path) as db:
        db.execute(command)
    db.close()
    with pytest.raises(AnnotationError, match=r"^.*a.db: [^\n]*(save it again|as GeoJSON)$"):
        read_annotations(path, mpp=0.25)


def test_coordinates_that_are_not_finite_are_refused(tmp_path):
    endless = shapely.Polygon([(0, 0), (9.5, 0), (9, float("inf"))])
    path = store(tmp_path / "a.db", [(endless, {"type": "Plasma"})])
    with pytest.raises(AnnotationError, match=r"^.*a.db: [^\n]*not finite numbers[^\n]*$"):
        read_annotations(path, mpp=0.25)


def test_types_without_names_need_the_users_word(tmp_path):
    path = store(
        tmp_path / "a.db", [(shapely.box(0, 0, 9.5, 9), {"type": 2}), (shapely.box(0, 0, 9, 9), {})]
    )
    with pytest.raises(AnnotationError, match=r"'2' \(1 object\), 'unclassified' \(1 object\)"):
        read_annotations(path, mpp=0.25)
    options = {"class_map": {"2": "plasma"}, "ignore_classes": ["unclassified"]}
    assert read_annotations(path, mpp=0.25, **options).types.tolist() == [4]


def test_a_classification_of_qupath_in_a_store_comes_before_a_type(tmp_path):
    """TIAToolbox keeps the properties of the GeoJSON from which a store is made."""
    properties = {"type": "nucleus", "classification": {"name": "Tumor", "color": [1, 2, 3]}}
    path = store(tmp_path / "a.db", [(shapely.box(0, 0, 9.5, 9), properties)])
    assert read_annotations(path, mpp=0.25).types.tolist() == [2]


# Label images and arrays


def save(path: Path, array: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".png":
        Image.fromarray(array).save(path)
    else:
        tifffile.imwrite(path, array, compression="zlib")
    return path


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("masks.png", "u2"), ("masks.png", "u1"), ("a.tif", "u2"), ("a.tif", "i4"), ("a.npy", "u4")],
)
def test_label_images(tmp_path, name, dtype):
    """Of StarDist and Cellpose: instances alone, so that the user names their type."""
    sparse = np.where(INSTANCES, INSTANCES * 3, 0)  # numbers may be missing
    path = save(tmp_path / name, sparse.astype(dtype))
    with pytest.raises(AnnotationError, match=rf"'nuclei' \({COUNT} objects\): choose"):
        read_annotations(path, mpp=0.25)
    nuclei = read_annotations(path, mpp=0.25, class_map={"nuclei": "epithelial"})
    assert nuclei.counts()["epithelial"] == COUNT == len(nuclei)
    np.testing.assert_array_equal(labels(nuclei)[0] > 0, INSTANCES > 0)
    last = told(path).splitlines()[-1].split()
    assert last == ["nuclei", "needs", "--class-map", "or", "--ignore-class", f"{COUNT}"]
    with pytest.raises(AnnotationError, match="for example `mpp`"):
        read_annotations(path, class_map={"nuclei": "epithelial"})


def test_lizard_and_conic_arrays(tmp_path):
    one = np.stack([INSTANCES, KINDS], axis=-1)
    assert_exact(read_annotations(save(tmp_path / "one.npy", one)))
    three = np.stack([one, np.zeros_like(one), one[::-1]])
    path = save(tmp_path / "labels.npy", three)
    nuclei = read_annotations(path)
    assert nuclei.mpp == 0.5 and len(nuclei) == 2 * COUNT
    _, types = labels(nuclei, (2 * SIZE[0], 2 * SIZE[1]))
    rows = [np.hstack([KINDS, 0 * KINDS]), np.hstack([KINDS[::-1], 0 * KINDS])]
    np.testing.assert_array_equal(types, np.vstack(rows))
    assert "3 tiles in rows of 2" in told(path)


def test_the_commonest_type_of_a_nucleus_counts(tmp_path):
    noisy = np.where(np.random.default_rng(0).random(SIZE) < 0.3, 1, KINDS)
    assert_exact(read_annotations(save(tmp_path / "a.npy", np.stack([INSTANCES, noisy], -1))))


def test_a_type_that_lizard_does_not_have(tmp_path):
    path = save(tmp_path / "a.npy", np.stack([INSTANCES, np.where(KINDS == 1, 9, KINDS)], -1))
    with pytest.raises(AnnotationError, match=f"'class 9' .{NUMBERS.count(1)} objects"):
        read_annotations(path)


def test_pannuke_masks(tmp_path, caplog):
    masks = np.zeros((2, *SIZE, 6))
    for k, number in enumerate(NUMBERS, 1):
        where = INSTANCES == k
        masks[k % 2, where, number % 5] = k
    masks[..., 5] = masks[..., :5].max(-1) == 0
    path = save(tmp_path / "masks.npy", masks)
    of_layer = [sum(n % 5 == layer for n in NUMBERS) for layer in range(5)]
    with pytest.raises(AnnotationError, match=rf"class 'Dead' \({of_layer[3]} objects\)"):
        read_annotations(path)
    assert "'Inflammatory' is read as lymphocyte" in caplog.text
    nuclei = read_annotations(path, ignore_classes=["Dead"])
    expected = [0, 0, of_layer[0] + of_layer[4], of_layer[1], 0, 0, of_layer[2]]
    assert np.bincount(nuclei.types, minlength=7).tolist() == expected and nuclei.mpp == 0.25
    found = labels(nuclei, (SIZE[0], 2 * SIZE[1]))[0] > 0
    drawn = (masks[..., [0, 1, 2, 4]] > 0).any(-1)
    np.testing.assert_array_equal(found, np.hstack(drawn))


def test_what_is_no_label_image_is_refused_in_one_line(tmp_path):
    picture = np.zeros((20, 30, 3), np.uint8)
    np.save(tmp_path / "seg.npy", {"masks": INSTANCES}, allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "seg.npy").read_bytes()[:20])
    for path, reason in (
        (save(tmp_path / "rgb.png", picture), "not a label image of one channel: choose"),
        (save(tmp_path / "rgb.tif", picture), "not a label image of one channel: choose"),
        (save(tmp_path / "rgb.npy", picture), "20 x 30 x 3 holds no labels: choose"),
        (save(tmp_path / "pages.tif", picture[..., 0].reshape(5, 4, 30)), "not a label image of"),
        (save(tmp_path / "text.npy", np.full((4, 4), "a")), "<U1 cannot hold labels"),
        (tmp_path / "seg.npy", "a pickle as Cellpose"),
        (tmp_path / "cut.npy", "cannot be read"),
    ):
        with pytest.raises(AnnotationError, match=rf"^.*{path.name}: [^\n]*{reason}[^\n]*$"):
            read_annotations(path, mpp=0.5)


# A format of one's own


def test_a_new_format_is_one_record(tmp_path, monkeypatch):
    """Its reader hands outlines over; classes, pixel size, frame and `info` need nothing more."""

    def read(source, reading):
        outlines = Outlines(reading.findings, reading.contours)
        for k, line in enumerate(source.path.read_text().splitlines()[1:]):
            name, *box = line.split(",")
            x0, y0, x1, y1 = map(float, box)
            rings = [[[x0, y0], [x1, y0], [x1, y1], [x0, y1]]]
            outlines.add(name, [rings], f"{source.path}: line {k + 1}")
        return packed(outlines, "boxes", reading)

    boxes = Format(
        "boxes",
        lambda source: source.magic.startswith(b"boxes"),
        read,
        whole=True,
        pixel_size=lambda source, slide_mpp: slide_mpp or 0.75,
    )
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, boxes))
    path = tmp_path / "a.csv"
    path.write_text("boxes\nplasma-cell,0,0,4.5,5\nDead,9,9,12,14\n")
    nuclei = read_annotations(path, class_map={"Dead": "connective"})
    assert nuclei.types.tolist() == [4, 6] and nuclei.mpp == 0.75
    assert nuclei.polygons()[1].bounds == (9, 9, 12, 14)
    contents = read_contents(path, slide_mpp=0.3)
    assert contents.whole and contents.nuclei.mpp == 0.3
    assert "annotations, boxes" in told(path)
    with pytest.raises(AnnotationError, match="a.csv: no nucleus type is known for class 'Dead'"):
        read_annotations(path)
    path.write_text("boxes\nDead,9,9,nan,14\n")
    with pytest.raises(AnnotationError, match="a.csv: line 1 has coordinates that are not finite"):
        read_annotations(path, class_map={"Dead": "plasma"})


# Names


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("neutrophil", "Neutrophil, neutrophil, Neutrophils"),
        (
            "epithelial",
            "Epithelial, Neoplastic, neopla, no-neo, Non-Neoplastic Epithelial, Tumor, "
            "Tumour_Cell, epithelial-cell, Malignant, mitosis, Mitotic_Figure, Tumor: Positive, "
            "Epithelial Cell",
        ),
        ("lymphocyte", "Lymphocyte, TILs, lymphocytes, Immune cells: Lymphocyte"),
        ("plasma", "Plasma, plasma-cell, Plasma_Cell, Plasma cells"),
        ("eosinophil", "Eosinophil, eosinophils"),
        (
            "connective",
            "Connective, connec, connective-tissue-cell, Connective tissue, Stroma, Stroma_Cell, "
            "Fibroblast, Spindle, Spindle-Shaped, Endothelial_Cell, stromal cells",
        ),
        (
            "needs `class_map` or `ignore_classes`",
            "Dead, necros, Necrosis, Other, nolabe, Miscellaneous, Macrophage, Monocyte, "
            "Histiocyte, Melanophage, Apoptotic_Cell, Nucleus, Cell",
        ),
        ("left out", "Ignore*, background, Image"),
        ("tissue outline", "Tissue, Region*, Region 2"),
        ("region: mucus", "Mucus, mucin"),
    ],
)
def test_class_names_of_all_tools(written, kind, names):
    ring = [[0, 0], [5.5, 0], [5, 5], [0, 0]]
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "detection", "classification": {"name": name}},
        }
        for name in names.split(", ")
    ]
    contents = read_contents(written(features, "a.geojson"), mpp=0.5)
    assert {name: meaning for name, meaning, _ in contents.findings.rows()} == dict.fromkeys(
        names.split(", "), kind
    )


def test_info_shows_what_each_class_is_read_as(written):
    """Also where rendering would refuse a class."""
    feature = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}
    content = hovernext()
    content["features"].append(feature)
    content["features"][0]["properties"]["classification"] = "dead"
    lines = [line.split() for line in told(written(content, "a.geojson")).splitlines()]
    head = lines.index(["class", "read", "as", "count"])
    assert ["also", "found", "1", "points"] in lines[:head]
    table = {words[0]: (" ".join(words[1:-1]), int(words[-1])) for words in lines[head + 1 :]}
    assert table["dead"] == ("needs --class-map or --ignore-class", 1)
    assert table["connective-tissue-cell"] == ("connective", NUMBERS.count(6))
    assert sum(count for _, count in table.values()) == COUNT
    again = told(written(content, "a.geojson"), "--class-map", "dead=plasma")
    assert ["dead", "plasma", "1"] in [line.split() for line in again.splitlines()]


# Scale and place


def slide_at(path: Path, mpp: float, size=(300, 400)) -> Path:
    ome_tiff.write(path, np.full((*size, 3), 200, np.uint8), mpp=mpp, description="")
    return path


class Toy:
    """A painter as far as planning needs one."""

    mpp, planes = 0.5, ("edge",)

    def plan(self, size):
        return size


def in_the_slide(nuclei: Nuclei, size) -> Nuclei:
    """The nuclei in the frame of the slide that would be rendered."""
    return plan_render(nuclei, Toy(), size=size).nuclei


def test_annotations_at_40x_overlay_a_slide_at_20x(tmp_path):
    at_20x = from_labels(INSTANCES, KINDS, mpp=0.5)
    write_geojson(tmp_path / "a.geojson", at_20x.scaled(0.25))
    slide = slide_at(tmp_path / "slide.ome.tif", 0.25, (2 * SIZE[0], 2 * SIZE[1]))
    nuclei = read_annotations(tmp_path / "a.geojson", like=slide)
    assert nuclei.mpp == pytest.approx(0.25) and size_like(slide, 0.5) == SIZE
    assert overlaps(in_the_slide(nuclei, SIZE), INSTANCES).min() > 0.95


@pytest.mark.parametrize("name", ["train_1", "train_13", "train_25"])
def test_real_annotations_at_40x_overlay_a_slide_at_20x(tmp_path, name):
    path = DATA / "consep-20x" / "labels" / f"{name}.mat"
    if not path.exists():
        pytest.skip("needs CoNSeP")
    instances, types = read_mat_labels(path)
    fine = np.kron(instances, np.ones((2, 2), np.int32))
    write_geojson(tmp_path / "a.geojson", from_labels(instances, types, mpp=0.5).scaled(0.25))
    outlines = read_annotations(tmp_path / "a.geojson", mpp=0.25)
    assert overlaps(in_the_slide(outlines, instances.shape), instances).mean() > 0.95
    # The same as OpenCV traces it at 40x.
    nuclei = {k: {"contour": c, "type": 1} for k, c in enumerate(contours(fine))}
    (tmp_path / "a.json").write_text(json.dumps({"mag": 40, "nuc": nuclei}))
    traced = read_annotations(tmp_path / "a.json", class_map={"1": "plasma"})
    assert overlaps(in_the_slide(traced, instances.shape), instances).mean() > 0.95


def test_a_slide_that_is_scanned_in_part(tmp_path, monkeypatch, written):
    """QuPath shows the scanned part alone and counts from its corner; others from the slide's."""
    slide = slide_at(tmp_path / "slide.ome.tif", 0.25, (300, 400))
    whole = read_annotations(written(hovernet()), class_map=BY_NUMBER, like=slide)
    half = read_annotations(written(hovernet(20)), class_map=BY_NUMBER, like=slide)
    at_qupath = read_annotations(written(hovernext(), "a.geojson"), like=slide)
    bounds = {"bounds-x": "60", "bounds-y": "20", "bounds-width": "320", "bounds-height": "280"}
    monkeypatch.setattr(slides, "open_reader", lambda path: scanned_in_part(path, bounds))
    assert size_like(slide, 0.5) == (140, 160)
    moved = read_annotations(written(hovernet()), class_map=BY_NUMBER, like=slide)
    np.testing.assert_allclose(moved.coords, whole.coords - (60, 20))
    moved = read_annotations(written(hovernet(20)), class_map=BY_NUMBER, like=slide)
    np.testing.assert_allclose(moved.coords, half.coords - (30, 10))
    again = read_annotations(written(hovernext(), "a.geojson"), like=slide)
    np.testing.assert_array_equal(again.coords, at_qupath.coords)


def test_where_each_format_counts_from(tmp_path, monkeypatch, written):
    slide = slide_at(tmp_path / "slide.ome.tif", 0.25, (300, 400))
    outlines = [shapely.Polygon(c) for c in contours()[:3]]
    cells = [{"contour": c, "type": 1} for c in contours()]
    array = np.stack([INSTANCES, KINDS], axis=-1)
    files = {
        written({"type_map": {"1": "Plasma"}, "cells": cells}, "cells.json"): (60, 20),
        store(tmp_path / "a.db", [(p, {"type": "Plasma"}) for p in outlines]): (60, 20),
        save(tmp_path / "a.npy", array): (0, 0),
        tmp_path / "a.mat": (0, 0),
    }
    ids = np.arange(1, COUNT + 1)
    savemat(tmp_path / "a.mat", {"inst_map": INSTANCES, "id": ids, "class": np.array(NUMBERS)})
    before = {path: read_annotations(path, like=slide) for path in files}
    bounds = {"bounds-x": "60", "bounds-y": "20", "bounds-width": "320", "bounds-height": "280"}
    monkeypatch.setattr(slides, "open_reader", lambda path: scanned_in_part(path, bounds))
    for path, corner in files.items():
        assert before[path].mpp == pytest.approx(0.25)  # that of the slide
        moved = read_annotations(path, like=slide)
        np.testing.assert_allclose(moved.coords, before[path].coords - corner)


def scanned_in_part(path, bounds):
    reader = openslide.OpenSlide(path)
    properties = {**reader.properties, **{f"openslide.{k}": v for k, v in bounds.items()}}

    class Reader:
        """The reader of a slide that has bounds, as OpenSlide tells of MRXS."""

        def __getattr__(self, name):
            return properties if name == "properties" else getattr(reader, name)

    return Reader()


def test_hovernet_goes_by_the_pixels_of_the_slide_and_not_by_round_numbers(tmp_path, written):
    slide = slide_at(tmp_path / "slide.ome.tif", 0.2527)
    for mag, mpp in ((40, 0.2527), (20, 0.5054), (10, 1.0108)):
        nuclei = read_annotations(written(hovernet(mag)), class_map=BY_NUMBER, like=slide)
        assert nuclei.mpp == pytest.approx(mpp, rel=1e-4)


def test_a_slide_given_with_like_rules_out_other_sizes(tmp_path, annotations):
    slide = slide_at(tmp_path / "slide.ome.tif", 0.25)
    with pytest.raises(PlanError, match="slide.ome.tif states the pixel size: leave out `mpp`"):
        read_annotations(annotations, mpp=0.25, like=slide)
    Image.new("RGB", (30, 20)).save(tmp_path / "plain.png")
    for action in (
        lambda: read_annotations(annotations, like=tmp_path / "plain.png"),
        lambda: size_like(tmp_path / "plain.png", 0.5),
    ):
        with pytest.raises(
            SlideError, match="plain.png does not state its pixel size: give it with `mpp`"
        ):
            action()
    command = ["render", annotations, "-o", tmp_path / "out.ome.tif", "--like", slide]
    for more, said in ((["--mpp", 0.25], "leave out --mpp"), (["--size", 9, 9], "not both")):
        result = CliRunner().invoke(main, [str(a) for a in [*command, *more]])
        assert result.exit_code == 1 and said in result.output.splitlines()[-1]
    assert len(list(tmp_path.iterdir())) == 2


def test_render_like_a_slide(tmp_path, annotations, weights):
    slide = slide_at(tmp_path / "slide.ome.tif", 0.25, (150, 201))
    out = tmp_path / "out.ome.tif"
    command = ["render", annotations, "-o", out, "--like", slide, "--weights", weights]
    result = CliRunner().invoke(main, [str(a) for a in [*command, "--steps", 2, "--device", "cpu"]])
    assert result.exit_code == 0, result.output
    assert tifffile.imread(out).shape == (75, 100, 3)


# GeoPandas


def test_nuclei_to_geopandas_and_back():
    geopandas = pytest.importorskip("geopandas")
    ids = [str(uuid.uuid4()) for _ in range(COUNT)]
    nuclei = replace(from_labels(INSTANCES, KINDS, mpp=0.5), ids=tuple(ids))
    frame = nuclei.to_geopandas()
    assert isinstance(frame, geopandas.GeoDataFrame)
    assert frame["classification"].tolist() == [TYPES[n] for n in NUMBERS]
    assert shapely.equals(np.asarray(frame.geometry), nuclei.polygons()).all()
    again = Nuclei.from_geopandas(frame, mpp=0.5)
    np.testing.assert_array_equal(again.coords, nuclei.coords)
    assert again.types.tolist() == NUMBERS and again.ids == tuple(ids) and again.mpp == 0.5


def test_a_geodataframe_of_ones_own(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    shapes = [shapely.box(0, 0, 4.5, 4), shapely.box(9, 9, 10, 10), shapely.Point(1, 1)]
    frame = geopandas.GeoDataFrame({"kind": ["Tumor", None, "Tissue"]}, geometry=shapes)
    nuclei = Nuclei.from_geopandas(
        frame, mpp=0.5, column="kind", class_map={"unclassified": "plasma"}
    )
    assert nuclei.types.tolist() == [2, 4]
    with pytest.raises(AnnotationError, match="'unclassified' .1 object"):
        Nuclei.from_geopandas(frame, mpp=0.5, column="kind")
    with pytest.raises(AnnotationError, match="the GeoDataFrame has no column 'classification'"):
        Nuclei.from_geopandas(frame, mpp=0.5)


def test_ids_of_a_geodataframe_stay_with_their_rows():
    geopandas = pytest.importorskip("geopandas")
    pair = shapely.MultiPolygon([shapely.box(0, 0, 4.5, 4), shapely.box(9, 9, 10, 10)])
    shapes = [shapely.box(1, 1, 3, 3), shapely.Point(1, 1), pair, None, shapely.box(5, 5, 7, 7)]
    ids = [str(uuid.uuid4()) for _ in shapes]
    columns = {"classification": ["Ignore*", "Plasma", "Plasma", "Tumor", "Tumor"], "id": ids}
    nuclei = Nuclei.from_geopandas(geopandas.GeoDataFrame(columns, geometry=shapes), mpp=0.5)
    assert nuclei.ids == (ids[2], "", ids[4]) and nuclei.types.tolist() == [4, 4, 2]


def test_contours_in_a_geodataframe():
    geopandas = pytest.importorskip("geopandas")
    outlines = [shapely.Polygon(c) for c in contours()]
    frame = geopandas.GeoDataFrame({"classification": NAMES}, geometry=outlines)
    assert_exact(Nuclei.from_geopandas(frame, mpp=0.25))
    as_given = Nuclei.from_geopandas(frame, mpp=0.25, contours="corner")
    assert shapely.equals(as_given.polygons(), outlines).all()


def test_without_geopandas_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "geopandas", None)
    with pytest.raises(ImportError, match=r"pip install 'nasdm-wsi\[geopandas\]'"):
        from_labels(INSTANCES, KINDS, mpp=0.5).to_geopandas()


# Real files


@pytest.mark.parametrize(
    ("name", "count", "unknown"),
    [
        ("qupath/zoo_arr.geojson", 5, {"unclassified": 4}),
        ("qupath/zoo_fc.geojson", 5, {"unclassified": 4}),
        ("qupath/zoo_fc.geojson.gz", 5, {"unclassified": 4}),
        ("qupath/zoo_fc.zip", 5, {"unclassified": 4}),
        ("qupath/zoo_hier.geojson", 0, {"unclassified": 1}),
        ("qupath/zoo_one.geojson", 1, {}),
        ("tools/o_bowtie.geojson", 0, {"unclassified": 2}),
        ("tools/o_cellvit.geojson", 2, {}),
        ("tools/o_instanseg.geojson", 0, {"Nucleus": 1}),
        ("tools/o_unclosed.geojson", 0, {"unclassified": 1}),
    ],
)
def test_real_files(name, count, unknown):
    if not (DATA / name).exists():
        pytest.skip("needs the example files")
    contents = read_contents(DATA / name, mpp=0.25)
    assert (len(contents.nuclei), dict(contents.findings.unknown)) == (count, unknown)
    assert "needs --class-map" in told(DATA / name) or not unknown

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import shapely

from nasdm_wsi.annotations.classes import ClassNames
from nasdm_wsi.annotations.nuclei import Nuclei, check_mpp
from nasdm_wsi.annotations.types import PALETTE, TISSUE, TYPES
from nasdm_wsi.errors import AnnotationError

HOLED = shapely.box(10, 20, 30, 40).difference(shapely.box(15, 25, 20, 30))
PAIR = shapely.MultiPolygon([shapely.box(0, 0, 4, 2), shapely.box(50, 60, 58, 62)])


@pytest.fixture
def nuclei() -> Nuclei:
    return Nuclei.from_polygons(
        [HOLED, PAIR, shapely.Polygon()],
        [2, 3, 4],
        mpp=0.25,
        ids=["a", "b", "c"],
        tissue=shapely.box(0, 0, 100, 80),
    )


def test_a_multipolygon_is_split_and_an_empty_one_left_out(nuclei):
    assert nuclei.types.tolist() == [2, 3, 3]
    assert nuclei.ids == ("a", "b", "")
    expected = [HOLED, *PAIR.geoms]
    assert all(map(shapely.equals, nuclei.polygons(), expected))
    assert nuclei.counts() == dict.fromkeys(TYPES[1:], 0) | {"epithelial": 1, "lymphocyte": 2}


def test_columns_have_the_layout_of_shapely(nuclei):
    _, coords, (rings, polygons) = shapely.to_ragged_array(nuclei.polygons())
    assert (nuclei.coords == coords).all()
    assert (nuclei.ring_offsets == rings).all() and nuclei.ring_offsets.dtype == np.int64
    assert (nuclei.polygon_offsets == polygons).all() and nuclei.polygon_offsets.dtype == np.int64


def test_boxes_are_y_first(nuclei):
    x0, y0, x1, y1 = shapely.bounds(nuclei.polygons()).T
    assert (nuclei.boxes() == np.stack([y0, x0, y1, x1], axis=1)).all()
    assert nuclei.extent() == (0, 0, 80, 100)


def test_scaling_to_a_coarser_pixel_halves(nuclei):
    half = nuclei.scaled(0.5)
    assert half.mpp == 0.5
    assert half.polygons()[2].bounds == (25, 30, 29, 31)
    assert half.tissue.bounds == (0, 0, 50, 40)


def test_shifting_moves_everything(nuclei):
    moved = nuclei.shifted(5, -7)
    assert moved.polygons()[0].bounds == (3, 25, 23, 45)
    assert moved.tissue.bounds == (-7, 5, 93, 85)


def test_take_keeps_holes_and_order(nuclei):
    taken = nuclei.take(np.array([2, 0]))
    assert all(map(shapely.equals, taken.polygons(), [PAIR.geoms[1], HOLED]))
    assert taken.ids == ("", "a") and taken.types.tolist() == [3, 2]


def test_within_goes_by_the_outline_and_not_by_its_box():
    triangle = shapely.Polygon([(0, 0), (10, 0), (0, 10)])
    nuclei = Nuclei.from_polygons([triangle, shapely.box(8, 8, 12, 12)], [1, 2], mpp=1)
    assert nuclei.within((7, 7, 9, 9)).types.tolist() == [2]
    assert nuclei.within((1, 1, 9, 9)).types.tolist() == [1, 2]
    assert len(nuclei.within((20, 20, 30, 30))) == 0


def test_concatenate_undoes_take(nuclei):
    parts = [nuclei.take(np.array(k, int)) for k in ([0, 1], [], [2])]
    parts[2] = replace(parts[2], tissue=None)
    whole = Nuclei.concatenate(parts)
    assert all(map(shapely.equals, whole.polygons(), nuclei.polygons()))
    assert whole.ids == nuclei.ids and whole.tissue is nuclei.tissue


def test_what_is_saved_for_other_processes_paints_the_same(nuclei, tmp_path):
    for table in (nuclei, replace(nuclei, tissue=None), nuclei.take(np.empty(0, int))):
        table.save(tmp_path / "nuclei.npz")
        again = Nuclei.load(tmp_path / "nuclei.npz")
        assert again.fingerprint() == table.fingerprint() and again.mpp == table.mpp
        assert (again.tissue is None) == (table.tissue is None) and again.ids is None
        assert again.types.dtype == table.types.dtype and len(again) == len(table)


def test_an_empty_table_works():
    empty = Nuclei.from_polygons([], [], mpp=0.5)
    assert len(empty) == 0 and not len(empty.polygons()) and empty.boxes().shape == (0, 4)
    assert sum(empty.scaled(1).within((0, 0, 1, 1)).counts().values()) == 0


def test_the_fingerprint_changes_with_whatever_changes_a_pixel(nuclei):
    moved = nuclei.coords.copy()
    moved[3, 1] += 0.01
    others = [
        replace(nuclei, coords=moved),
        replace(nuclei, types=np.array([2, 3, 4], np.uint8)),
        # The hole becomes a ring of the next nucleus.
        replace(nuclei, polygon_offsets=np.array([0, 1, 3, 4])),
        # The first ring takes a vertex of the second.
        replace(nuclei, ring_offsets=nuclei.ring_offsets + np.array([0, 1, 0, 0, 0])),
        replace(nuclei, tissue=None),
        replace(nuclei, tissue=shapely.box(0, 0, 100, 81)),
        nuclei.take(np.array([1, 0, 2])),
    ]
    prints = [other.fingerprint() for other in (nuclei, *others)]
    assert len(set(prints)) == len(prints)
    same = Nuclei.from_polygons(nuclei.polygons(), nuclei.types, mpp=1, tissue=nuclei.tissue)
    assert same.fingerprint() == nuclei.fingerprint()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, name) for name in TYPES[1:]),
        ("PMN", "neutrophil"),
        ("Epithelial cells", "epithelial"),
        ("Non-Neoplastic Epithelial", "epithelial"),
        ("no-neo", "epithelial"),
        ("Tumour_Cell", "epithelial"),
        ("Tumor: Positive", "epithelial"),
        ("Negative: Stroma", "connective"),
        ("TILs", "lymphocyte"),
        ("T cells", "lymphocyte"),
        ("Immune cells: Lymphocyte", "lymphocyte"),
        ("Immune cells: Plasma", "plasma"),
        ("Plasma_Cell", "plasma"),
        ("plasma-cell", "plasma"),
        ("Eos", "eosinophil"),
        ("connective-tissue-cell", "connective"),
        ("Connective tissue", "connective"),
        ("Spindle-Shaped", "connective"),
    ],
)
def test_aliases(name, kind):
    assert ClassNames().number(name) == TYPES.index(kind)


@pytest.mark.parametrize("name", ["Ignore*", "background", "Image", "anything*", "Tumor: Ignore*"])
def test_classes_that_are_left_out(name):
    assert ClassNames().number(name) is None


@pytest.mark.parametrize("name", ["dead", "nuclei", "Cell", "T", "Positive", "Other", ""])
def test_classes_that_say_nothing(name):
    with pytest.raises(KeyError):
        ClassNames().number(name)


@pytest.mark.parametrize("name", ["Inflammatory", "Immune cells"])
def test_vague_classes_warn_once(name, caplog):
    assert ClassNames().number(name) == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_own_classes_go_first():
    names = ClassNames({"Tumor": "Plasma", "dead": "connective"}, ["Negative"])
    assert names.number("tumor") == 4
    assert names.number("Dead cells") == 6
    assert names.number("Stroma: Negative") is None
    assert names.number("Stroma") == 6


@pytest.mark.parametrize("name", ["Tissue", " tissue", "Sample: Tissue", "REGION 3: Tumor"])
def test_tissue_is_told_by_the_name_or_a_part_of_it(name):
    assert ClassNames().number(name) == TISSUE
    assert ClassNames(tissue_classes=["sample"]).number("Sample") == TISSUE
    assert ClassNames({name: "plasma"}).number(name) == 4


def test_a_map_to_no_type_is_refused():
    with pytest.raises(AnnotationError, match="'leukocyte': choose one of neutrophil"):
        ClassNames({"CD45": "leukocyte"})


@pytest.mark.parametrize("mpp", [None, 0, -1, 0.01, 100, float("nan"), float("inf")])
def test_absurd_mpp(mpp):
    with pytest.raises(AnnotationError, match="^a.geojson: .* for example `mpp` 0.25$"):
        check_mpp(mpp, "a.geojson")


def test_a_new_type_is_a_row_of_its_table():
    """It is read, drawn and written, and gives a plane, without a change in any other module."""
    code = """
import importlib.util, json, pathlib, sys
import nasdm_wsi.annotations as package

path = pathlib.Path(package.__file__).with_name("types.py")
head, tail = path.read_text().split("TYPES = tuple", 1)
row = '_ROWS += (("megakaryocyte", (1, 2, 3), "mega"),)'
types = importlib.util.module_from_spec(
    importlib.util.spec_from_loader("nasdm_wsi.annotations.types", None)
)
sys.modules[types.__name__] = types
exec(f"{head}{row}\\nTYPES = tuple{tail}", types.__dict__)

from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Conditioning

ring = [[0, 0], [4, 0], [4, 4.5], [0, 0]]
feature = {
    "type": "Feature",
    "geometry": {"type": "Polygon", "coordinates": [ring]},
    "properties": {"classification": "Mega cells"},
}
nuclei = Nuclei.from_geojson(feature, mpp=0.5)
assert nuclei.counts()["megakaryocyte"] == 1
planes = Conditioning(nuclei, (9, 9)).planes(("plasma", "megakaryocyte"), (0, 0, 9, 9))
assert planes[1].sum() > 5 and not planes[0].any()
classification = nuclei.to_geojson().features[0]["properties"]["classification"]
assert classification == {"name": "Megakaryocyte", "color": [1, 2, 3]}
assert nuclei._repr_png_()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_each_type_has_its_colour():
    assert PALETTE.shape == (len(TYPES), 3) and len(np.unique(PALETTE, axis=0)) == len(TYPES)

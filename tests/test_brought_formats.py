"""Files that people bring, made here as their tools write them: read, or named with the way out."""

from __future__ import annotations

import gzip
import json
import pickle
import re
import sqlite3
import sys
import warnings
import zipfile
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
import scipy.sparse
import shapely
from click.testing import CliRunner
from helpers import labelled_tissue
from PIL import Image
from scipy.io import savemat

from nasdm_wsi.annotations.formats import read_contents
from nasdm_wsi.annotations.geojson import write_geojson
from nasdm_wsi.annotations.labels import from_labels
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import AnnotationError, NasdmError
from nasdm_wsi.slides import ome_tiff, ome_zarr
from nasdm_wsi.tools.export import export
from nasdm_wsi.tools.info import describe

SIZE = (64, 84)
_, INSTANCES, KINDS = labelled_tissue(SIZE, seed=3)
COUNT = int(INSTANCES.max())
NUMBERS = np.array([KINDS[INSTANCES == k][0] for k in range(1, COUNT + 1)])
NAMES = [TYPES[number].capitalize() for number in NUMBERS]
BY_NUMBER = {f"{number}": name for number, name in enumerate(TYPES) if number}
CLASSES = {**BY_NUMBER, "nuclei": "epithelial", "unclassified": "epithelial"}


def labels(nuclei: Nuclei) -> tuple[np.ndarray, np.ndarray]:
    return Conditioning(nuclei, SIZE).labels((0, 0, *SIZE))


def assert_exact(nuclei: Nuclei) -> None:
    """Every pixel of the label image is back, with its type."""
    found, types = labels(nuclei)
    np.testing.assert_array_equal(types, KINDS)
    np.testing.assert_array_equal(found > 0, INSTANCES > 0)
    assert len(nuclei) == COUNT


def assert_covers(nuclei: Nuclei) -> None:
    """Every pixel of a nucleus is back, in files that know no types."""
    np.testing.assert_array_equal(labels(nuclei)[0] > 0, INSTANCES > 0)
    assert len(nuclei) == COUNT


def read(path: Path, **options) -> Nuclei:
    return read_contents(path, **{"mpp": 0.5, "class_map": CLASSES, **options}).checked()


# MATLAB


def hovernet_mat(path: Path, **changes) -> Path:
    """As HoVer-Net's tile mode writes it; the order of its nuclei is not that of their numbers."""
    order = np.random.default_rng(0).permutation(COUNT)
    fields = {
        "inst_map": INSTANCES,
        "inst_uid": order[:, None] + 1,
        "inst_type": NUMBERS[order][:, None],
        "inst_centroid": np.zeros((COUNT, 2)),
    }
    savemat(path, {k: v for k, v in {**fields, **changes}.items() if v is not None})
    return path


def consep_mat(path: Path) -> Path:
    """As CoNSeP has it: numbers as float64, and a map of types."""
    centroids, types = np.zeros((COUNT, 2)), NUMBERS[:, None].astype(float)
    maps = {"inst_map": INSTANCES.astype(float), "type_map": KINDS.astype(float)}
    savemat(path, {**maps, "inst_type": types, "inst_centroid": centroids})
    return path


def test_matlab_files_of_hovernet_and_consep_are_read_with_numbers_as_classes(tmp_path):
    for path in (hovernet_mat(tmp_path / "h.mat"), consep_mat(tmp_path / "c.mat")):
        assert_exact(read(path))
        with pytest.raises(AnnotationError, match="no nucleus type is known for class '2'.*'1'"):
            read(path, class_map=None)


def test_hovernet_without_types_knows_one_class(tmp_path):
    assert_covers(read(hovernet_mat(tmp_path / "h.mat", inst_type=None, inst_uid=None)))
    savemat(tmp_path / "cpm.mat", {"inst_map": INSTANCES})
    assert_covers(read(tmp_path / "cpm.mat"))


def test_types_that_do_not_fit_a_matlab_file_are_refused(tmp_path):
    path = hovernet_mat(tmp_path / "h.mat", inst_type=NUMBERS[:-1, None])
    with pytest.raises(AnnotationError, match=r"h.mat: inst_map and the types do not match \("):
        read(path)


# Arrays of NumPy


def test_npz_of_labels_is_read(tmp_path):
    np.savez(tmp_path / "one.npz", anything=INSTANCES)
    np.savez_compressed(tmp_path / "named.npz", labels=INSTANCES, prob=np.zeros(SIZE, int))
    scipy.sparse.save_npz(tmp_path / "sparse.npz", scipy.sparse.csr_matrix(INSTANCES))
    np.savez(tmp_path / "lizard.npz", np.stack([INSTANCES, KINDS], -1))
    for name in ("one", "named", "sparse"):
        assert_covers(read(tmp_path / f"{name}.npz"))
    assert_exact(read(tmp_path / "lizard.npz", mpp=None))


def test_npz_of_several_arrays_names_them(tmp_path):
    np.savez(tmp_path / "two.npz", a=INSTANCES, b=INSTANCES)
    with pytest.raises(AnnotationError, match="which of the arrays a, b holds the labels"):
        read(tmp_path / "two.npz")


# XML


OUTLINES = from_labels(INSTANCES, np.array([0, *NUMBERS]), mpp=0.5)
RINGS = [np.asarray(polygon.exterior.coords).tolist() for polygon in OUTLINES.polygons()]


def imagescope(
    path: Path, *, vertex="Vertex", layer='Name="{name}"', label="", region='Type="0"'
) -> Path:
    """A layer for each nucleus, with the scale of MoNuSeg."""
    layers = []
    for name, ring in zip(NAMES, RINGS, strict=True):
        points = "".join(f'<{vertex} X="{x}" Y="{y}" Z="0"/>' for x, y in ring)
        layers.append(
            f"<Annotation {layer.format(name=name)}><Attributes>{label.format(name=name)}"
            f"</Attributes><Regions><Region {region}><Attributes/>"
            f"<Vertices>{points}</Vertices></Region></Regions></Annotation>"
        )
    path.write_text(f'<Annotations MicronsPerPixel="0.25">{"".join(layers)}</Annotations>')
    return path


def asap(path: Path) -> Path:
    rows = []
    for k, (name, ring) in enumerate(zip(NAMES, RINGS, strict=True)):
        points = "".join(
            f'<Coordinate Order="{n}" X="{x}" Y="{y}"/>' for n, (x, y) in enumerate(ring)
        )
        rows.append(
            f'<Annotation Name="Annotation {k}" Type="Polygon" PartOfGroup="{name}">'
            f"<Coordinates>{points}</Coordinates></Annotation>"
        )
    text = f"<ASAP_Annotations><Annotations>{''.join(rows)}</Annotations></ASAP_Annotations>"
    path.write_text(f'<?xml version="1.0"?>\n{text}')
    return path


def test_imagescope_xml_is_read_with_its_scale(tmp_path):
    plain = imagescope(tmp_path / "a.xml")
    monusac = imagescope(
        tmp_path / "b.xml", layer='Name=""', label='<Attribute Name="{name}" Value=""/>'
    )
    described = imagescope(
        tmp_path / "c.xml", layer='Name=""', label='<Attribute Name="Description" Value="{name}"/>'
    )
    halo = imagescope(tmp_path / "d.annotations", vertex="V")
    for path in (plain, monusac, described, halo):
        nuclei = read(path, mpp=None)
        assert nuclei.mpp == 0.25
        assert_exact(nuclei)
    assert read(plain, mpp=None, slide_mpp=0.3).mpp == 0.3


@pytest.mark.parametrize(
    ("region", "what"),
    [
        ('Type="0" NegativeROA="1"', "excluded regions"),
        ('Type="2"', "ellipses"),
        ('Type="4"', "rulers, arrows and pins"),
    ],
)
def test_what_imagescope_excludes_or_measures_is_no_nucleus(tmp_path, region, what):
    path = imagescope(tmp_path / "a.xml", region=region)
    with pytest.raises(AnnotationError, match=f"no nuclei found .{COUNT} {what}"):
        read(path)


def test_regions_of_imagescope_that_are_no_outlines_are_said(tmp_path, caplog):
    text = imagescope(tmp_path / "a.xml").read_text()
    for kind, words in (
        ('Type="2"', "1 ellipses"),
        ('Type="0" NegativeROA="1"', "1 excluded regions"),
    ):
        (tmp_path / "b.xml").write_text(text.replace('Type="0"', kind, 1))
        assert len(read(tmp_path / "b.xml", mpp=None)) == COUNT - 1
        assert f"left out, because they are not outlines: {words}" in caplog.text


def test_a_rectangle_of_halo_has_two_corners(tmp_path):
    path = imagescope(tmp_path / "a.xml", vertex="V")
    text = path.read_text().replace('Type="0"', 'Type="Rectangle"', 1)
    corners = '<V X="4" Y="5"/><V X="14" Y="12"/>'
    path.write_text(re.sub("<V X.*?</Vertices>", f"{corners}</Vertices>", text, count=1))
    assert read(path, mpp=None).areas()[0] == 70


@pytest.mark.parametrize("stated", [".", "1.2.3", "0", "0,25", "nan", ""])
def test_a_pixel_size_that_is_no_number_is_not_stated(tmp_path, stated):
    path = imagescope(tmp_path / "a.xml")
    path.write_text(
        path.read_text().replace('MicronsPerPixel="0.25"', f'MicronsPerPixel="{stated}"')
    )
    with pytest.raises(AnnotationError, match="the pixel size is unknown"):
        read(path, mpp=None)
    assert len(read(path, mpp=0.5)) == COUNT


def test_points_that_are_no_numbers_are_refused(tmp_path):
    path = imagescope(tmp_path / "a.xml")
    path.write_text(re.sub(' X="[^"]*"', ' X="NaN"', path.read_text(), count=1))
    with pytest.raises(AnnotationError, match="region 1 has coordinates that are not finite"):
        read(path)


def test_xml_may_be_packed(tmp_path):
    for path in (imagescope(tmp_path / "a.xml"), asap(tmp_path / "b.xml")):
        packed = path.with_suffix(".xml.gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert_exact(read(packed))


def test_asap_xml_is_read(tmp_path):
    assert_exact(read(asap(tmp_path / "a.xml")))


def test_xml_that_means_harm_or_is_cut_is_refused_in_one_line(tmp_path):
    entity = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
    whole = imagescope(tmp_path / "a.xml").read_text()
    for text, words in (
        (entity + whole, "declares entities"),
        (whole[: len(whole) // 2], "not XML, or cut short"),
        (whole.replace(' X="', ' X="?', 1), "region 1 has a point without coordinates"),
    ):
        path = written(tmp_path / "b.xml", text.encode("utf-16" if entity in text else "utf-8"))
        with pytest.raises(AnnotationError, match=f"^{path}: [^\n]*{words}[^\n]*$"):
            read(path)


# JSON of COCO and the Digital Slide Archive


def coco(path: Path, segmentation, **changes) -> Path:
    """As COCO writes it; ``segmentation`` gives that of nucleus k."""
    annotations = [
        {"id": k, "image_id": 7, "category_id": int(NUMBERS[k]), "segmentation": segmentation(k)}
        for k in range(COUNT)
    ]
    image = {"id": 7, "width": SIZE[1], "height": SIZE[0], "file_name": "a.png"}
    kinds = [{"id": k, "name": name} for k, name in enumerate(TYPES) if k]
    content = {"images": [image], "categories": kinds, "annotations": annotations, **changes}
    path.write_text(json.dumps(content))
    return path


def flat(k: int) -> list:
    return [[number for point in RINGS[k] for number in point]]


def runs(k: int) -> dict:
    """Packed into text, by pycocotools."""
    mask = np.asfortranarray(INSTANCES == k + 1, np.uint8)
    packed = pycocotools.mask.encode(mask)
    return {"size": packed["size"], "counts": packed["counts"].decode()}


def plain_runs(k: int) -> dict:
    flags = (INSTANCES == k + 1).T.ravel().astype(int)
    bounds = np.flatnonzero(np.diff(flags)) + 1
    return {"size": list(SIZE), "counts": np.diff([0, *bounds, flags.size]).tolist()}


def test_coco_is_read_with_polygons_and_run_lengths(tmp_path):
    for segmentation in (flat, runs, plain_runs):
        assert_exact(read(coco(tmp_path / "a.json", segmentation)))


def test_the_coco_of_export_is_read_back_in_its_place(tmp_path):
    picture, _, _ = labelled_tissue(SIZE, seed=3)
    Image.fromarray(picture).save(tmp_path / "s.png")
    write_geojson(tmp_path / "s.geojson", OUTLINES)
    export(tmp_path / "s.png", tmp_path / "out", form="coco", mpp=0.5, tile=32)
    found, types = labels(read(tmp_path / "out" / "annotations.json"))
    np.testing.assert_array_equal(types, KINDS)


def test_pictures_of_a_coco_file_are_laid_out_in_rows(tmp_path):
    image = {"width": SIZE[1], "height": SIZE[0]}
    images = [{**image, "id": k, "file_name": f"{k}.png"} for k in (6, 7)]
    nuclei = read(coco(tmp_path / "a.json", flat, images=images))
    np.testing.assert_allclose(nuclei.shifted(0, -SIZE[1]).coords, OUTLINES.coords)


def test_tiles_of_several_slides_do_not_lie_on_each_other(tmp_path):
    image = {"width": SIZE[1], "height": SIZE[0]}
    images = [
        {**image, "id": k, "file_name": f"{name}_x0_y0.png"} for k, name in ((6, "a"), (7, "b"))
    ]
    nuclei = read(coco(tmp_path / "a.json", flat, images=images))
    np.testing.assert_allclose(nuclei.shifted(0, -SIZE[1]).coords, OUTLINES.coords)


def test_boxes_without_outlines_are_said(tmp_path, caplog):
    path = coco(tmp_path / "a.json", lambda k: flat(k) if k else [])
    assert len(read(path)) == COUNT - 1
    assert "left out, because they are not outlines: 1 boxes" in caplog.text


def test_damaged_coco_is_refused_in_one_line(tmp_path):
    for changes, words in (
        ({"images": []}, "annotation 0 is damaged"),
        ({"categories": [5]}, "images or categories are damaged"),
        ({"annotations": [5]}, "annotation 0 is damaged"),
    ):
        path = coco(tmp_path / "a.json", flat, **changes)
        with pytest.raises(AnnotationError, match=f"^{path}: [^\n]*{words}[^\n]*$"):
            read(path)
    huge = {"size": [1 << 20, 1 << 20], "counts": [0, 1 << 40]}
    with pytest.raises(AnnotationError, match="a mask of more than 67 million pixels"):
        read(coco(tmp_path / "b.json", lambda k: huge))


def dsa(path: Path, *, wrapped=True, **changes) -> Path:
    elements = [
        {
            "type": "polyline",
            "closed": True,
            "points": [[x, y, 0] for x, y in ring],
            "label": {"value": name},
            **changes,
        }
        for name, ring in zip(NAMES, RINGS, strict=True)
    ]
    annotation = {"name": "nuclei", "elements": [*elements, {"type": "point", "center": [1, 2, 0]}]}
    path.write_text(json.dumps({"annotation": annotation} if wrapped else annotation))
    return path


def test_json_of_the_digital_slide_archive_is_read(tmp_path):
    for wrapped in (True, False):
        assert_exact(read(dsa(tmp_path / "a.json", wrapped=wrapped)))
    square, hole = ([[a, a, 0], [b, a, 0], [b, b, 0], [a, b, 0]] for a, b in ((0, 20), (5, 9)))
    pierced = read(dsa(tmp_path / "b.json", points=square, holes=[hole]))
    assert pierced.polygons()[0].area == 20**2 - 4**2


# Tables


def frame():
    """The nuclei as GeoPandas' table; pictures have no coordinate system, which it warns of."""
    geopandas = pytest.importorskip("geopandas")
    return geopandas.GeoDataFrame({"cell_type": NAMES}, geometry=OUTLINES.polygons())


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_files_of_geopandas_are_read(tmp_path, quiet):
    frame().to_file(tmp_path / "a.gpkg", layer="nuclei")
    frame().to_file(tmp_path / "a.shp")
    frame().to_file(tmp_path / "a.fgb")
    frame().to_file(tmp_path / "a.db", driver="SQLite", SPATIALITE="YES")
    frame().to_parquet(tmp_path / "a.parquet")
    with zipfile.ZipFile(tmp_path / "shp.zip", "w") as archive:
        for suffix in ("shp", "shx", "dbf"):
            archive.write(tmp_path / f"a.{suffix}", f"a.{suffix}")
    for name in ("a.gpkg", "a.shp", "a.fgb", "a.db", "a.parquet", "shp.zip"):
        found, types = labels(read(tmp_path / name))
        np.testing.assert_array_equal(types, KINDS, err_msg=name)


def test_a_shapefile_needs_its_neighbours(tmp_path, quiet):
    frame().to_file(tmp_path / "a.shp")
    (tmp_path / "a.shx").unlink()
    with pytest.raises(AnnotationError, match="a shapefile without its .shx and .dbf: put them"):
        read(tmp_path / "a.shp")


@pytest.mark.parametrize("name", ["geopandas", "roifile"])
def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch, name):
    path = {"geopandas": parquet, "roifile": roi_set}[name](tmp_path)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(AnnotationError, match=rf"^{path}: needs the package {name}: pip install"):
        read(path)


def parquet(folder: Path) -> Path:
    frame().to_parquet(folder / "p.parquet")
    return folder / "p.parquet"


def wkt_csv(path: Path) -> Path:
    rows = [f'{k},"{p.wkt}",{NAMES[k]}' for k, p in enumerate(OUTLINES.polygons())]
    path.write_text("\n".join(["ID,WKT,Term", *rows]) + "\n")
    return path


def xenium_csv(path: Path) -> Path:
    """Its coordinates are micrometres."""
    rows = [f"{k},{x / 2},{y / 2}" for k, ring in enumerate(RINGS) for x, y in ring]
    path.write_bytes(gzip.compress("\n".join(['"cell_id","vertex_x","vertex_y"', *rows]).encode()))
    return path


def test_csv_of_well_known_text_is_read(tmp_path):
    pandas = pytest.importorskip("pandas")
    assert_exact(read(wkt_csv(tmp_path / "a.csv")))
    table = pandas.read_csv(tmp_path / "a.csv")
    for separator in (";", "\t"):
        table.to_csv(tmp_path / "c.csv", sep=separator, index=False)
        assert_exact(read(tmp_path / "c.csv"))
    for encoding in ("utf-16", "utf-8-sig"):  # as spreadsheets write it
        table.to_csv(tmp_path / "c.csv", sep="\t", index=False, encoding=encoding)
        assert_exact(read(tmp_path / "c.csv"))
    damaged = wkt_csv(tmp_path / "b.csv")
    damaged.write_text(damaged.read_text().replace("))", ")", 1))
    with pytest.raises(AnnotationError, match=f"^{damaged}: a row is damaged [^\n]*$"):
        read(damaged)


def test_an_outline_of_thousands_of_points_is_read_from_csv(tmp_path):
    outline = shapely.Point(500, 500).buffer(400, quad_segs=2000)
    text = shapely.to_wkt(outline, rounding_precision=10)
    path = wkt_csv(tmp_path / "a.csv")
    with path.open("a") as file:
        file.write(f'9,"{text}",stroma region\n')
    assert len(text) > 1 << 17  # the limit of Python's reader
    assert len(read(path, class_map=None).regions) == 1


def test_the_column_of_the_classes_may_be_named(tmp_path, quiet):
    table = frame().rename(columns={"cell_type": "mine"})
    table.to_file(tmp_path / "a.gpkg")
    path = wkt_csv(tmp_path / "a.csv")
    path.write_text(path.read_text().replace("Term", "mine", 1))
    for source in (tmp_path / "a.gpkg", path):
        assert_exact(read(source, class_property="mine"))
        with pytest.raises(AnnotationError, match="'unclassified'.*mine"):
            read(source, class_map=None)


def test_a_pixel_size_that_contradicts_the_file_is_said(tmp_path, caplog):
    read(xenium_csv(tmp_path / "a.csv.gz"), mpp=0.25)
    assert "the file states 1 micrometres per pixel, but `mpp` is 0.25" in caplog.text


def test_vertices_of_xenium_are_micrometres(tmp_path):
    nuclei = read(xenium_csv(tmp_path / "a.csv.gz"), mpp=None)
    assert nuclei.mpp == 1
    assert_covers(nuclei.scaled(0.5))
    pandas = pytest.importorskip("pandas")
    pandas.read_csv(tmp_path / "a.csv.gz").to_parquet(tmp_path / "a.parquet")
    nuclei = read(tmp_path / "a.parquet", mpp=None)
    assert_covers(nuclei.scaled(0.5))


# ROIs of ImageJ


def roi_set(folder: Path) -> Path:
    roifile = pytest.importorskip("roifile")
    with zipfile.ZipFile(folder / "RoiSet.zip", "w") as archive:
        for k, ring in enumerate(RINGS):
            roi = roifile.ImagejRoi.frompoints(ring[:-1])
            archive.writestr(f"{k:04}.roi", roi.tobytes())
        point = roifile.ImagejRoi.frompoints([[1, 2]])
        point.roitype = roifile.ROI_TYPE.POINT
        archive.writestr("point.roi", point.tobytes())
    return folder / "RoiSet.zip"


def test_rois_of_imagej_are_read(tmp_path):
    contents = read_contents(roi_set(tmp_path), mpp=0.5, class_map=CLASSES)
    assert_covers(contents.checked())
    assert contents.findings.shapeless["points and lines"] == 1


def test_an_oval_of_imagej_is_one_nucleus(tmp_path):
    """Its last point lies a millionth beside the first, which makes a sliver."""
    roifile = pytest.importorskip("roifile")
    oval = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, left=10, top=10, right=22, bottom=20)
    (tmp_path / "a.roi").write_bytes(oval.tobytes())
    nuclei = read(tmp_path / "a.roi")
    assert nuclei.areas() == pytest.approx([np.pi * 6 * 5], rel=0.02)


def test_damaged_rois_are_refused_in_one_line(tmp_path):
    pytest.importorskip("roifile")
    path = written(tmp_path / "a.roi", b"Iout\0\0")
    with pytest.raises(AnnotationError, match=f"^{path}: not complete ROIs of ImageJ [^\n]*$"):
        read(path)


# Label images in OME-Zarr


def label_zarr(folder: Path) -> Path:
    ome_zarr.write(folder / "i.ome.zarr", INSTANCES.astype(np.uint16), mpp=0.4, description="")
    return folder / "i.ome.zarr"


def test_the_label_zarr_of_export_is_read_back_as_its_tiff_is(tmp_path):
    ome_tiff.write(tmp_path / "i.ome.tif", INSTANCES.astype(np.uint16), mpp=0.4, description="")
    tiff, zarr = read(tmp_path / "i.ome.tif", mpp=0.4), read(label_zarr(tmp_path), mpp=None)
    assert_covers(zarr)
    assert zarr.fingerprint() == tiff.fingerprint() and zarr.mpp == 0.4


@contextmanager
def stated(path: Path):
    """What an OME-Zarr states of its pyramid, which may be changed."""
    text = json.loads((path / "zarr.json").read_text())
    yield text["attributes"]["ome"]["multiscales"][0]
    (path / "zarr.json").write_text(json.dumps(text))


def test_the_scale_of_all_levels_of_a_label_zarr_counts(tmp_path):
    with stated(path := label_zarr(tmp_path)) as multiscale:
        multiscale["coordinateTransformations"] = [{"type": "scale", "scale": [0.5, 0.5]}]
    assert read(path, mpp=None).mpp == 0.2


def moved(path: Path, y: float, x: float) -> None:
    with stated(path) as multiscale:
        others = [0.0] * (len(multiscale["axes"]) - 2)
        step = {"type": "translation", "translation": [*others, y, x]}
        multiscale["datasets"][0]["coordinateTransformations"].append(step)


def test_labels_that_begin_inside_their_image_give_a_warning(tmp_path):
    moved(path := label_zarr(tmp_path), 8.0, 20.0)
    (warning,) = read_contents(path).findings.warnings
    assert warning.startswith("the labels state that they begin at x 50, y 20 in their pixels")


def test_labels_that_begin_where_their_image_does_give_no_warning(tmp_path):
    image = tmp_path / "a.ome.zarr"
    ome_zarr.write(image, np.zeros((*SIZE, 3), np.uint8), mpp=0.8, description="")
    labels = image / "labels/i"
    ome_zarr.write(labels, INSTANCES.astype(np.uint16), mpp=0.4, description="")
    for path in (image, labels):
        moved(path, 8.0, 20.0)
    assert not read_contents(labels).findings.warnings
    moved(labels, 0.0, 0.3)  # less than a pixel, as between centres and corners
    assert not read_contents(labels).findings.warnings
    moved(labels, 0.0, 0.3)
    assert "x 1, y 0" in read_contents(labels).findings.warnings[0]


def test_labels_with_x_before_y_are_refused(tmp_path):
    with stated(path := label_zarr(tmp_path)) as multiscale:
        multiscale["axes"].reverse()
    with pytest.raises(AnnotationError, match="its axes are x, y: save the labels with y and x"):
        read(path, mpp=None)


# What is not read


def zipped(path: Path, entry: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr(entry, "<x/>")
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def seg_npy(path: Path) -> Path:
    np.save(path, np.array({"masks": INSTANCES}, dtype=object), allow_pickle=True)
    return path


def other_sqlite(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as store:
        store.execute("CREATE TABLE cells (id INTEGER)")
    return path


def unread(folder: Path) -> list[tuple[Path, str]]:
    """Files with what is said about them."""
    return [
        (seg_npy(folder / "a_seg.npy"), "a pickle as Cellpose's _seg.npy.*numpy.save"),
        (written(folder / "a.dat", pickle.dumps({})), "a pickle as TIAToolbox's .dat"),
        (zipped(folder / "a.xlsx", "xl/workbook.xml"), "an Excel workbook.*save it as CSV"),
        (zipped(folder / "a.docx", "word/document.xml"), "a Word document"),
        (written(folder / "a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1"), "Excel or another Office"),
        (written(folder / "a.pdf", b"%PDF-1.7\n"), "a PDF.*as GeoJSON"),
        (written(folder / "a.qpdata", b"\xac\xed\0\x05"), "QuPath's own data file"),
        (written(folder / "b.mat", b"MATLAB 7.3 MAT-file"), "version 7.3.*option -v7"),
        (written(folder / "a.h5", b"\x89HDF\r\n\x1a\n"), "an HDF5 file"),
        (written(folder / "a.7z", b"7z\xbc\xaf\x27\x1c"), "packed by 7-Zip.*unpack it"),
        (written(folder / "a.geojson", b"<!DOCTYPE html><html>"), "a web page"),
        (written(folder / "a.svs", b"version https://git-lfs.github.com"), "run git lfs pull"),
        (written(folder / "a.ndpa", b'<?xml version="1.0"?><annotations/>'), "NDPA.*QuPath"),
        (written(folder / "a.xml", b"<svg></svg>"), "XML of <svg>"),
        (written(folder / "h.json", b'{"cell_masks": []}'), "HistoPLUS's JSON"),
        (written(folder / "m.tsv", b"Image\tCentroid X um\n"), "a table of measurements"),
        (other_sqlite(folder / "a.db"), "SQLite with the tables cells"),
        (written(folder / "empty.geojson", b""), "an empty file: export it again"),
        (written(folder / "empty.txt", b""), "an empty file: export it again"),
        (written(folder / "points.csv", b"cell_id,x,y\n1,2,3\n"), "a table without outlines"),
        (written(folder / "a_cp_outlines.txt", b"1,2,3,4,5,6\n7,8,9,1,2,3\n"), "Cellpose's"),
    ]


def test_what_is_not_read_is_named_with_the_way_out(tmp_path):
    for path, words in unread(tmp_path):
        for reading in (lambda: describe(path), lambda: read(path)):  # noqa: B023
            with pytest.raises(AnnotationError, match=f"^{path}: [^\n]*{words}[^\n]*$"):
                reading()


# One decision on what a file is


def readable(folder: Path) -> list[Path]:
    """A small file of each kind that is read."""
    np.save(folder / "labels.npy", INSTANCES)
    np.savez(folder / "labels.npz", INSTANCES)
    (folder / "q.txt").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    return [
        hovernet_mat(folder / "h.mat"),
        consep_mat(folder / "c.mat"),
        imagescope(folder / "i.xml"),
        asap(folder / "asap.xml"),
        coco(folder / "coco.json", flat),
        dsa(folder / "dsa.json"),
        parquet(folder),
        wkt_csv(folder / "w.csv"),
        xenium_csv(folder / "x.csv.gz"),
        roi_set(folder),
        label_zarr(folder),
        *(folder / name for name in ("labels.npy", "labels.npz", "q.txt")),
    ]


def test_info_and_render_agree_on_what_a_file_is(tmp_path):
    for path in (*readable(tmp_path), *(path for path, _ in unread(tmp_path))):
        told, kind = kind_of_info(path), kind_of_render(path)
        assert told == kind, path


def test_what_is_a_slide_to_info_is_no_annotation_to_render(tmp_path):
    picture, _, _ = labelled_tissue(SIZE, seed=3)
    for name, words in (
        ("a.jpg", "but a picture"),
        ("a.bmp", "but a picture"),
        ("a.png", "not a label image of one channel"),
        ("a.tif", "not a label image of one channel"),
    ):
        Image.fromarray(picture).save(tmp_path / name)
        assert kind_of_info(tmp_path / name).startswith("slide (")
        assert words in kind_of_render(tmp_path / name)
    with pytest.raises(AnnotationError, match="not annotations in a known format, but a folder"):
        read(tmp_path)


def kind_of_info(path: Path) -> str:
    try:
        return dict(describe(path))["kind"]
    except NasdmError as error:
        return f"{error}"


def kind_of_render(path: Path) -> str:
    try:
        return f"annotations, {read_contents(path, mpp=0.5).kind}"
    except NasdmError as error:
        return f"{error}"


def test_a_misnamed_file_is_known_by_its_contents(tmp_path):
    misnamed = hovernet_mat(tmp_path / "h.mat").rename(tmp_path / "h.geojson")
    result = CliRunner().invoke(main, ["info", str(misnamed)])
    assert "HoVer-Net or CoNSeP labels" in result.output

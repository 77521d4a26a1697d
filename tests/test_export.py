"""What is exported, read back: by our own `prepare`, pycocotools, SQLite, tifffile and zarr."""

import json
import sqlite3
import zlib
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import shapely
import tifffile
import zarr
from click.testing import CliRunner
from helpers import tissue
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy.io import loadmat
from skimage.io import imread, imsave
from skimage.measure import regionprops

from nasdm_wsi import read_annotations
from nasdm_wsi.annotations.geojson import read_geojson, write_geojson
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.annotations.regions import Regions
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.cli.export import FORMATS
from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import AnnotationError, OutputError, PlanError
from nasdm_wsi.slides import ome_tiff, ome_zarr
from nasdm_wsi.slides.reading import open_slide
from nasdm_wsi.tools import export as exporting
from nasdm_wsi.tools.dataset import read_regions
from nasdm_wsi.tools.export import export
from nasdm_wsi.tools.prepare import prepare

SIZE = (230, 310)
CUTS = ([0, 76, 153, 230], [0, 77, 155, 232, 310])  # of tiles of at most 100 pixels


def drawn() -> Nuclei:
    """Discs in all but the last 80 columns; some overlap, one is a ring, one lies outside."""
    rng = np.random.default_rng(5)
    places = np.stack(np.meshgrid(np.arange(8, 225, 16), np.arange(8, 225, 13)), -1).reshape(-1, 2)
    discs = list(shapely.buffer(shapely.points(places), rng.uniform(4, 10, len(places))))
    discs[40] = discs[40].buffer(5).difference(discs[40].buffer(-2))
    discs.append(shapely.Point(400, 100).buffer(5))
    return Nuclei.from_polygons(discs, rng.integers(1, 7, len(discs)), mpp=0.5)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A slide with its GeoJSON beside it."""
    path = tmp_path_factory.mktemp("pair") / "made.up.ome.tif"
    ome_tiff.write(path, tissue(*SIZE), mpp=0.5, description="", lossless=True, tile=64)
    write_geojson(path.with_name("made.up.geojson"), drawn())
    return path


@pytest.fixture(scope="module")
def nuclei(slide):
    return read_geojson(slide.with_name("made.up.geojson"), mpp=0.5)


@pytest.fixture(scope="module")
def tiles(nuclei):
    """Name to box, image, instances and types (h, w) of the tiles that must come out."""
    image, found = tissue(*SIZE), {}
    instances, types = Conditioning(nuclei, SIZE).labels((0, 0, *SIZE))
    for y0, y1 in zip(CUTS[0], CUTS[0][1:], strict=False):
        for x0, x1 in zip(CUTS[1], CUTS[1][1:], strict=False):
            box = np.s_[y0:y1, x0:x1]
            if instances[box].any():
                found[f"made.up_x{x0}_y{y0}"] = image[box], instances[box], types[box]
    return found


def same_instances(a, b):
    """Whether two maps show the same instances, whatever their numbers."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return (
        all(len(np.unique(side)) == pairs.shape[1] for side in pairs)
        and ((pairs == 0).sum(0) != 1).all()
    )


def test_the_last_column_has_no_tiles(tiles):
    assert len(tiles) == 9 and not any("x232" in name for name in tiles)


def test_lizard_tiles_are_read_by_prepare(slide, tiles, tmp_path):
    seen = []
    export(
        *(slide, tmp_path / "lizard"),
        form="lizard",
        tile=100,
        progress=lambda *now: seen.append(now),
    )
    assert seen == [("exporting", n, 12) for n in range(1, 13)]
    prepare([tmp_path / "lizard"], tmp_path / "dataset")
    regions = {region.name: region for region in read_regions(tmp_path / "dataset")}
    assert sorted(regions) == sorted(tiles)
    for name, (image, instances, types) in tiles.items():
        region = regions[name]
        np.testing.assert_array_equal(region.image, image)
        np.testing.assert_array_equal(region.types, types)
        assert same_instances(region.instances, instances)
        fields = loadmat(tmp_path / "lizard" / "labels" / f"{name}.mat")
        np.testing.assert_array_equal(fields["type_map"], types)
        properties = regionprops(fields["inst_map"])
        assert fields["id"].ravel().tolist() == [p.label for p in properties]
        assert fields["id"].ravel().tolist() == list(range(1, len(properties) + 1))
        for box, centre, p in zip(fields["bbox"], fields["centroid"], properties, strict=True):
            assert (box[0], box[2], box[1], box[3]) == p.bbox
            assert centre[::-1] == pytest.approx(p.centroid)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'
def test_coco_masks_are_the_instances(slide, tiles, tmp_path):
    export(slide, tmp_path / "coco", form="coco", tile=100)
    coco = COCO(tmp_path / "coco" / "annotations.json")
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(TYPES[1:])
    assert sorted(i["file_name"] for i in coco.imgs.values()) == sorted(f"{n}.png" for n in tiles)
    for info in coco.imgs.values():
        image, instances, types = tiles[info["file_name"].removesuffix(".png")]
        picture = tmp_path / "coco" / "images" / info["file_name"]
        np.testing.assert_array_equal(imread(picture), image)
        annotations = coco.imgToAnns[info["id"]]
        assert len(annotations) == len(np.unique(instances[instances > 0]))
        decoded = np.zeros_like(instances)
        for annotation in annotations:
            mask = coco.annToMask(annotation) > 0
            decoded[mask] = annotation["id"]
            assert set(types[mask]) == {annotation["category_id"]}
            assert annotation["area"] == mask.sum()
            box = coco_mask.toBbox(coco.annToRLE(annotation))
            assert annotation["bbox"] == box.tolist() and annotation["iscrowd"] == 0
        assert same_instances(decoded, instances)


def test_masks_of_tiles_of_an_ome_zarr(slide, nuclei, tiles, tmp_path):
    slide = tmp_path / "made.up.ome.zarr"
    ome_zarr.write(slide, tissue(*SIZE), mpp=0.5, description="", tile=64)
    write_geojson(tmp_path / "made.up.geojson", nuclei)
    export(slide, tmp_path / "masks", form="masks", tile=100)
    names = sorted(p.name for p in (tmp_path / "masks").iterdir())
    pairs = [f"{n}{end}" for n in tiles for end in (".png", "_masks.png")]
    assert names == sorted([*pairs, "tiles.csv"])
    for name, (image, instances, _) in tiles.items():
        np.testing.assert_array_equal(imread(tmp_path / "masks" / f"{name}.png"), image)
        mask = imread(tmp_path / "masks" / f"{name}_masks.png")
        assert mask.dtype == np.uint16 and same_instances(mask, instances)


@pytest.mark.parametrize("ids", ["own", "none", "twice"])
def test_the_annotation_store_holds_the_polygons(slide, nuclei, tmp_path, ids):
    labels = slide.with_name("made.up.geojson")
    if ids != "own":
        features = json.loads(labels.read_text())["features"]
        for feature in features:
            feature["id"] = {"none": "", "twice": features[0]["id"]}[ids]
        labels = tmp_path / "labels.geojson"
        labels.write_text(json.dumps(features))
    export(slide, tmp_path / "nuclei.db", form="tiatoolbox", labels=labels)
    with closing(sqlite3.connect(tmp_path / "nuclei.db")) as store:
        metadata = {k: json.loads(v) for k, v in store.execute("SELECT * FROM metadata")}
        assert metadata == {"version": "1.0.1", "compression": "zlib", "compression_level": 9}
        rows = store.execute("SELECT * FROM annotations ORDER BY id").fetchall()
        near = "SELECT id FROM rtree WHERE max_x >= 50 AND min_x <= 60 AND max_y >= 7 AND min_y < 9"
        found = {k for (k,) in store.execute(near)}
    polygons = nuclei.polygons()
    assert len(rows) == len(polygons) == len({key for _, key, *_ in rows})
    if ids == "own":
        assert [key for _, key, *_ in rows] == list(nuclei.ids)
    for (_, _, kind, x, y, wkb, properties, area), polygon, number in zip(
        rows, polygons, nuclei.types, strict=True
    ):
        assert kind == "Polygon" and shapely.from_wkb(zlib.decompress(wkb)).equals(polygon)
        assert shapely.Point(x, y).distance(polygon.centroid) < 1e-9
        assert area == pytest.approx(polygon.area)
        assert json.loads(properties) == {"type": TYPES[number].capitalize()}
    boxes = shapely.box(*shapely.bounds(polygons).T)
    touching = shapely.distance(boxes, shapely.box(50, 7, 60, 9)) == 0
    assert found == set(np.flatnonzero(touching) + 1)


@pytest.mark.parametrize("name", ["labels.ome.tif", "labels.ome.zarr"])
@pytest.mark.parametrize("form", ["types", "instances"])
def test_label_pyramids_show_the_whole_slide(slide, nuclei, tmp_path, monkeypatch, name, form):
    monkeypatch.setattr(exporting, "STRIP", 70)
    out = tmp_path / name
    export(slide, out, form=form)
    instances, types = Conditioning(nuclei, SIZE).labels((0, 0, *SIZE))
    seen = zarr.open_group(out, mode="r")["0"][:] if "zarr" in name else tifffile.imread(out)
    np.testing.assert_array_equal(seen, types if form == "types" else instances)
    assert seen.dtype == (np.uint8 if form == "types" else np.uint16)
    if "zarr" not in name:
        with open_slide(out) as opened:
            assert opened.mpp == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["labels.ome.tif", "labels.ome.zarr"])
def test_a_label_pyramid_of_regions(slide, nuclei, tmp_path, monkeypatch, name):
    monkeypatch.setattr(exporting, "STRIP", 70)
    out, labels = tmp_path / name, tmp_path / "labels.geojson"
    with pytest.raises(AnnotationError, match="no region lies on .*made.up.ome.tif"):
        export(slide, out, form="regions")
    boxes = [shapely.box(10, 10, 150, 90), shapely.box(100, 50, 400, 80)]
    drawn = Regions.from_polygons(boxes, ["stroma", "mucus"], mpp=nuclei.mpp)
    write_geojson(labels, replace(nuclei, regions=drawn))
    export(slide, out, form="regions", labels=labels)
    seen = zarr.open_group(out, mode="r")["0"][:] if "zarr" in name else tifffile.imread(out)
    expected = np.zeros(SIZE, np.uint8)
    expected[10:90, 10:150], expected[50:80, 100:400] = 3, 4
    np.testing.assert_array_equal(seen, expected)
    # Its numbers, named, are regions of the slide again.
    names = {"3": "stroma", "4": "mucus"}
    again = read_annotations(labels, mpp=nuclei.mpp, regions=out, class_map=names)
    np.testing.assert_array_equal(Conditioning(again, SIZE).regions((0, 0, *SIZE)), expected)


def test_many_instances_have_numbers_of_four_bytes(nuclei):
    many = nuclei.take(np.zeros(70_000, int))
    assert exporting._labels("instances", many, SIZE).dtype == np.uint32


def test_labels_of_another_resolution(slide, nuclei, tmp_path):
    write_geojson(tmp_path / "fine.geojson", nuclei.scaled(0.25))
    export(slide, tmp_path / "a.tif", form="types", labels=tmp_path / "fine.geojson", mpp=0.25)
    export(slide, tmp_path / "b.tif", form="types")
    a, b = (tifffile.imread(tmp_path / name) for name in ("a.tif", "b.tif"))
    assert (a != b).mean() < 1e-3  # coordinates have two decimals


def test_labels_count_from_where_the_scanned_part_begins(slide, nuclei):
    with open_slide(slide) as opened:
        opened.bounds = (30, 50)
        shifted = exporting.read_nuclei(opened)
    np.testing.assert_allclose(shifted.coords, nuclei.coords + (50, 30))


def test_a_picture_without_resolution_takes_that_of_its_labels(slide, nuclei, tmp_path):
    imsave(tmp_path / "p.png", tissue(*SIZE))
    write_geojson(tmp_path / "p.geojson", nuclei)
    with pytest.raises(AnnotationError, match="pixel size is unknown"):
        export(tmp_path / "p.png", tmp_path / "out", form="masks")
    export(tmp_path / "p.png", tmp_path / "out", form="masks", mpp=0.25, tile=2048)
    assert imread(tmp_path / "out" / "p_x0_y0.png").shape[:2] == SIZE


def test_outputs_that_exist_are_kept(slide, tmp_path):
    (tmp_path / "a.db").write_text("precious")
    with pytest.raises(OutputError, match="a.db exists: .*`overwrite`"):
        export(slide, tmp_path / "a.db", form="tiatoolbox")
    for form, name in (("lizard", "folder"), ("types", "folder.ome.zarr")):
        (tmp_path / name).mkdir()
        with pytest.raises(OutputError, match="exists: choose another name or remove it"):
            export(slide, tmp_path / name, form=form, overwrite=True)
    export(slide, tmp_path / "a.db", form="tiatoolbox", overwrite=True)
    assert (tmp_path / "a.db").read_bytes().startswith(b"SQLite format 3")


def test_a_failure_leaves_nothing(slide, nuclei, tmp_path):
    far = replace(nuclei, coords=nuclei.coords + 5000)
    write_geojson(tmp_path / "far.geojson", far)
    for form in ("lizard", "coco", "masks", "tiatoolbox"):
        with pytest.raises(PlanError, match="none of .* nuclei lies on the slide of 310 x 230"):
            export(slide, tmp_path / "out", form=form, labels=tmp_path / "far.geojson")
    with pytest.raises(OutputError, match="must end in"):
        export(slide, tmp_path / "out.png", form="types")
    with pytest.raises(OutputError, match="nowhere is not a folder"):
        export(slide, tmp_path / "nowhere" / "out", form="coco")
    assert [p.name for p in tmp_path.iterdir()] == ["far.geojson"]


def test_what_does_not_fit_the_slide_is_told(slide, nuclei, tmp_path, caplog):
    export(slide, tmp_path / "all", form="masks")
    assert "1 nucleus lies outside the slide of 310 x 230 pixels" in caplog.text
    caplog.clear()
    instances, _ = Conditioning(nuclei, (460, 310)).labels((0, 0, 460, 310))
    np.save(tmp_path / "tall.npy", instances)
    classes = {"class_map": {"nuclei": "epithelial"}}
    export(slide, tmp_path / "a", form="masks", labels=tmp_path / "tall.npy", **classes)
    assert "the label image covers 310 x 460 pixels, but the slide has 310 x 230" in caplog.text


def test_the_command(slide, tmp_path):
    assert FORMATS == exporting.FORMATS
    arguments = ["export", str(slide), "-o", str(tmp_path / "out"), "--tile", "100", "--format"]
    result = CliRunner().invoke(main, [*arguments, "masks"])
    assert result.exit_code == 0 and "masks" in result.output
    assert len(list((tmp_path / "out").glob("*.png"))) == 18
    alone = tmp_path / "alone.tif"
    alone.write_bytes(slide.read_bytes())
    arguments = ["export", str(alone), "-o", str(tmp_path / "other"), "--format", "coco"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "alone.geojson: no such file: give the annotations with --labels" in result.output

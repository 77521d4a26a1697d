"""Layouts: functions of seed and place, without overlaps, with the nuclei that are asked for."""

import re
from dataclasses import replace

import geojson
import numpy as np
import pytest
import shapely
from PIL import Image
from scipy.spatial import cKDTree
from shapely import STRtree

from nasdm_wsi import Nuclei, read_annotations
from nasdm_wsi.annotations.formats import read_contents
from nasdm_wsi.annotations.geojson import write_geojson
from nasdm_wsi.annotations.regions import REGIONS, Regions
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.errors import AnnotationError, OutputError, PlanError
from nasdm_wsi.layouts.colon import FAT, GLASS, MUCOSA, MUSCLE, Colon
from nasdm_wsi.layouts.densities import Densities
from nasdm_wsi.layouts.glands import ROUND, STEP, glands
from nasdm_wsi.layouts.keyed import smooth
from nasdm_wsi.layouts.making import layout
from nasdm_wsi.layouts.outlines import AREAS, ELONGATIONS, shapes
from nasdm_wsi.layouts.planfiles import read_plan
from nasdm_wsi.layouts.plans import SlidePlan
from nasdm_wsi.layouts.populate import TILE, Populated
from nasdm_wsi.layouts.source import Proposals
from nasdm_wsi.layouts.strip import Strip
from nasdm_wsi.layouts.tissues import Glands
from nasdm_wsi.layouts.writing import layout_box
from nasdm_wsi.slides import ome_tiff, ome_zarr

WHOLE = (0, 0, 512, 640)


def colon(**settings):
    return Colon(Strip(512.0, seed=3, **settings), seed=3)


@pytest.fixture(scope="module")
def whole():
    return layout_box(colon(), WHOLE, seed=3)


def test_a_window_alone_has_the_nuclei_and_the_regions_of_the_whole(whole):
    box = (130, 101, 307, 395)
    alone = layout_box(colon(), box, seed=3)  # of a source that has seen nothing else
    centres = shapely.get_coordinates(shapely.centroid(whole.polygons()))[:, ::-1]
    deep = ((centres > np.add(box[:2], 8)) & (centres < np.subtract(box[2:], 8))).all(axis=1)
    ours = {ring.tobytes() for ring in shapely.to_wkb(alone.polygons()).astype("S")}
    theirs = shapely.to_wkb(whole.take(np.flatnonzero(deep)).polygons()).astype("S")
    assert deep.sum() > 150 and {ring.tobytes() for ring in theirs} <= ours
    assert len(alone) < 1.3 * deep.sum()
    near = whole.regions.within(box)
    np.testing.assert_array_equal(alone.regions.coords, near.coords)
    np.testing.assert_array_equal(alone.regions.types, near.types)


def test_outlines_are_valid_and_apart_with_areas_and_elongations_of_real_nuclei(whole):
    polygons = whole.polygons()
    assert shapely.is_valid(polygons).all()
    a, b = STRtree(polygons).query(polygons, predicate="intersects")
    assert (a == b).all()
    for kind in np.unique(whole.types):
        few = polygons[whole.types == kind]
        low, high = AREAS[kind - 1, [0, -1]]
        areas = shapely.area(few)
        assert (areas >= low).all() and (areas <= 1.001 * high).all()
        stretched = np.array([elongation(polygon) for polygon in few])
        assert np.median(stretched) == pytest.approx(ELONGATIONS[kind - 1, 4], rel=0.15)
        share = (stretched > ELONGATIONS[kind - 1, -1]).mean()
        assert share < 0.03


def elongation(polygon):
    """The axis ratio of the ellipse with the same second moments, by Green's theorem."""
    x, y = (shapely.get_coordinates(polygon) - shapely.get_coordinates(polygon.centroid)).T
    a, b, c, d = x[:-1], y[:-1], x[1:], y[1:]
    cross = a * d - c * b
    xx, yy = ((p * p + p * q + q * q) @ cross for p, q in ((a, c), (b, d)))
    xy = (a * d + 2 * a * b + 2 * c * d + c * b) @ cross / 2
    small, large = np.linalg.eigvalsh(np.sign(cross.sum()) * np.array([[xx, xy], [xy, yy]]))
    return np.sqrt(large / small)


def test_epithelial_nuclei_lie_across_the_walls_of_glands():
    """In a straight wall, their long axes point from the stroma to the lumen."""
    wall = [shapely.box(-99, y0, 355, y1) for y0, y1 in ((-99, 40), (40, 62), (62, 355))]
    drawn = Regions.from_polygons(wall, ["lumen", "epithelium", "stroma"], mpp=1.0)
    proposals = Populated(lambda box: drawn, seed=1).nuclei((0, 0, 256, 256))
    mine = proposals.take(proposals.types == TYPES.index("epithelial"))
    assert len(mine.types) > 25 and np.ptp(mine.centres[:, 0]) < 8  # one row
    assert np.abs(np.sin(mine.angles)).min() > 0.8
    spindles = proposals.take(proposals.types == TYPES.index("connective"))
    beside = spindles.take(spindles.centres[:, 0] < 72)
    assert np.abs(np.cos(beside.angles)).mean() > 0.8  # along it
    assert (proposals.centres[:, 0] > 40).mean() > 0.98  # hardly any in the lumen


@pytest.mark.parametrize(
    "text, region", [("eosinophil=120", None), ("stroma:plasma=500", "stroma")]
)
def test_densities_are_met_in_every_tile(text, region):
    wanted = Densities.parse([text])
    source = Colon(Strip(2000.0, seed=5), seed=5, densities=wanted)
    kind = TYPES.index(text.split("=")[0].split(":")[-1])
    for corner in ((256, 256), (512, 0)):
        box = (*corner, corner[0] + TILE, corner[1] + TILE)
        nuclei = source.nuclei(box)
        area = TILE**2 / 1e6
        if region:
            drawn = layout_box(source, box).regions
            area = area_of(drawn, region, box) / 1e6
        found = (nuclei.types == kind).sum() / area
        assert found == pytest.approx(float(text.split("=")[1]), rel=0.15)


def test_a_density_that_finds_no_room_is_told_with_both_numbers(tmp_path, caplog):
    drawn = [shapely.box(0, 0, 300, 500), shapely.box(300, 0, 500, 500)]
    regions = Regions.from_polygons(drawn, ["stroma", "epithelium"], mpp=0.5)
    asked = ["stroma:eosinophil=1e9", "plasma=2e2", "neutrophil=1e+1", "epithelium:plasma=.3E3"]
    counts = layout(tmp_path / "a.geojson", regions=regions, density=asked)
    (told,) = [record.getMessage() for record in caplog.records]
    found = re.search(r"eosinophil in stroma: 1e\+09 requested, ([\d,]+) placed", told)
    placed = float(found[1].replace(",", "")) * 150 * 250 / 1e6
    assert placed == pytest.approx(counts["eosinophil"], rel=0.1) and placed > 50
    assert "plasma" not in told and "neutrophil" not in told
    caplog.clear()
    layout(tmp_path / "b.geojson", regions=regions, density=["eosinophil=1e3"])
    assert not caplog.records
    for text in ("plasma=1e", "plasma=1.2.3", "plasma=1e999", "plasma=-3"):
        with pytest.raises(AnnotationError, match="write `density`"):
            Densities.parse([text])


def area_of(regions, name, box):
    """Square micrometres of a box in which a region is the last one drawn."""
    left = shapely.Polygon()
    for polygon, number in zip(regions.polygons(), regions.types, strict=True):
        left = left.difference(polygon)
        if REGIONS[number - 1] == name:
            left = left.union(polygon)
    return left.intersection(shapely.box(box[1], box[0], box[3], box[2])).area


def test_shares_multiply_what_there_would_be():
    few, many = (
        Colon(Strip(2000.0, seed=5), seed=5, densities=Densities.parse(share=share)).nuclei(
            (256, 0, 512, 512)
        )
        for share in ((), ("plasma=2x",))
    )
    count = [int((n.types == TYPES.index("plasma")).sum()) for n in (few, many)]
    assert count[1] == pytest.approx(2 * count[0], rel=0.1) and count[0] > 20
    for text in ("plasma", "plasma=two", "plasma=2y", "liver:plasma=2", "hepatocyte=3"):
        with pytest.raises(AnnotationError, match="(is no|choose|write)"):
            Densities.parse(share=[text])


def test_rare_types_form_clusters():
    """Pairs of one type within 20 micrometres, as multiples of those of points at random."""
    side = 1024
    stroma = Regions.from_polygons([shapely.box(0, 0, side, side)], ["stroma"], mpp=1.0)
    nuclei = Populated(lambda box: stroma, seed=3).nuclei((0, 0, side, side))
    ratio = {}
    for kind in ("neutrophil", "plasma", "eosinophil"):
        own = cKDTree(nuclei.centres[nuclei.types == TYPES.index(kind)])
        close = own.count_neighbors(own, 20) - own.n
        ratio[kind] = close / (own.n**2 * np.pi * 20**2 / side**2)
    # Lizard: 3.9, 2.7 and 2.8 at 15 to 30 micrometres.
    assert 1.4 < min(ratio.values()) and max(ratio.values()) < 6
    assert ratio["neutrophil"] > ratio["plasma"]


def test_fields_are_the_same_from_every_box_and_have_unit_variance():
    field = smooth((0, 0, 2048, 2048), step=8, scale=32, seed=1, draw=4)
    part = smooth((-8, 512, 800, 1024), step=8, scale=32, seed=1, draw=4)
    np.testing.assert_array_equal(part[1:], field[:100, 64:128])
    assert abs(field.mean()) < 0.1 and field.std() == pytest.approx(1, abs=0.05)
    assert not np.allclose(field, smooth((0, 0, 2048, 2048), step=8, scale=32, seed=2, draw=4))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("layout") / "a.geojson"
    counts = layout(path, (500, 2200), seed=4)
    return path, counts


def test_the_file_is_geojson_with_nuclei_regions_and_tissue(written):
    path, counts = written
    collection = geojson.loads(path.read_text())
    assert collection.is_valid
    ids = [feature["id"] for feature in collection["features"]]
    assert len(ids) == len(set(ids))
    names = {}
    for feature in collection["features"]:
        kind = feature["properties"]["objectType"]
        name = feature["properties"]["classification"]["name"].lower()
        names.setdefault(kind, {}).setdefault(name, []).append(
            shapely.geometry.shape(feature.geometry)
        )
    assert {k: len(names["detection"][k]) for k in names["detection"]} == {
        k: n for k, n in counts.items() if n
    }
    regions = {"stroma", "epithelium", "mucus", "glass"}
    assert {"tissue", *(f"{name} region" for name in regions)} <= set(names["annotation"])
    everything = [s for kinds in names.values() for shapes in kinds.values() for s in shapes]
    assert shapely.is_valid(everything).all()
    assert shapely.total_bounds(everything).tolist() == [0, 0, 2200, 500]
    # Also where the canvas cuts the glands.
    walls = shapely.union_all(names["annotation"]["epithelium region"]).buffer(1)
    assert all(wall.intersects(walls) for wall in names["detection"]["epithelial"])
    tissue = shapely.union_all(names["annotation"]["tissue"])
    glass = shapely.union_all(names["annotation"]["glass region"])
    assert tissue.area + glass.area == pytest.approx(500 * 2200, rel=0.01)


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_number_of_processes(written, tmp_path):
    layout(tmp_path / "b.geojson", (500, 2200), seed=4, workers=2)
    assert (tmp_path / "b.geojson").read_bytes() == written[0].read_bytes()


def test_blocks_of_the_file_join_as_if_they_were_one_box(written):
    source = Colon(Strip(250.0, seed=4), seed=4)
    whole = shapes(source.nuclei((0, 0, 250, 1100)), seed=4)[0].scaled(0.5)
    found = read_contents(written[0], mpp=0.5).nuclei
    boxes = whole.boxes()
    inside = ((boxes[:, :2] > 0) & (boxes[:, 2:] < (500, 2200))).all(axis=1)
    assert inside.sum() > 0.8 * len(found)
    tree = STRtree(found.polygons())
    for polygon in whole.take(np.flatnonzero(inside)).polygons():
        (same,) = [
            k for k in tree.query(polygon) if tree.geometries[k].distance(polygon.centroid) == 0
        ]
        assert tree.geometries[same].hausdorff_distance(polygon) < 0.02


def test_no_two_tissues_look_alike():
    """Carcinoma has larger glands, and more of its epithelial nuclei lie off the basal row."""
    sizes = {}
    for tissue in ("normal", "adenoma", "carcinoma"):
        regions = colon(tissue=tissue).regions((100, 0, 400, 1000))
        glands = regions.take(np.flatnonzero(regions.types == REGIONS.index("epithelium") + 1))
        sizes[tissue] = np.median(shapely.area(glands.polygons()))
    assert 1.3 * sizes["normal"] < sizes["adenoma"] and 1.5 * sizes["normal"] < sizes["carcinoma"]


def test_a_gland_is_round_where_no_other_is_beside_it():
    style = Glands(
        spacing=(160, 160), gap=20, radius=(90, 0), wall=26, joined=0, rough=0, oblique=0, warp=0
    )

    def island(box):
        y, x = (np.arange(box[k], box[k + 2], STEP) + STEP / 2 for k in (0, 1))
        return np.hypot(y[:, None] - 360, x - 200) < 100

    ((_, outline), *_), *others = glands(style, (0, 0, 512, 512), allowed=island, seed=1, draw=0)
    assert not others and outline.area > 15000
    assert 4 * np.pi * outline.area / outline.length**2 > 0.99


def test_glands_of_a_tumour_have_no_sharp_corners():
    regions = colon(tissue="carcinoma").regions((100, 0, 400, 1000))
    glands = regions.polygons()[regions.types == REGIONS.index("epithelium") + 1]
    whole = glands[shapely.area(glands) > 1000]
    rounded = shapely.buffer(shapely.buffer(whole, 1 - ROUND), ROUND - 1)
    assert len(whole) > 15 and (shapely.area(rounded) / shapely.area(whole)).min() > 0.995


def test_nuclei_of_other_sources_are_kept_apart_too():
    rng = np.random.default_rng(0)
    count = 400
    types = rng.integers(1, 7, count).astype(np.uint8)
    crowd = Proposals(
        rng.uniform(0, 150, (count, 2)), types, AREAS[types - 1, 4], rng.uniform(0, np.pi, count)
    )

    class Crowd:
        def regions(self, box):
            return Regions.from_polygons([], [], mpp=1.0)

        def tissue(self, box):
            return None

        def nuclei(self, box):
            return crowd.within(box)

    polygons = layout_box(Crowd(), (0, 0, 150, 150)).polygons()
    a, b = STRtree(polygons).query(polygons, predicate="intersects")
    assert (a == b).all() and 100 < len(polygons) < count


def test_drawn_regions_are_filled_and_kept(tmp_path):
    """Nuclei lie where regions say, and the file has the regions as they were drawn."""
    side = 512  # pixels
    ring = shapely.Point(256, 256).buffer(160)
    shapes = [shapely.box(0, 0, side, side), ring, shapely.Point(256, 256).buffer(90)]
    given = Regions.from_polygons(shapes, ["stroma", "epithelium", "lumen"], mpp=0.5)
    nothing = Nuclei.from_polygons([], [], mpp=0.5, regions=given)
    write_geojson(tmp_path / "drawn.geojson", nothing)
    counts = layout(tmp_path / "a.geojson", regions=tmp_path / "drawn.geojson", seed=2)
    made = read_annotations(tmp_path / "a.geojson", mpp=0.5)
    np.testing.assert_array_equal(made.regions.types, given.types)
    np.testing.assert_allclose(made.regions.coords, given.coords, atol=0.011)
    assert made.counts() == counts
    away = shapely.distance(shapely.centroid(made.polygons()), shapely.Point(256, 256))
    epithelial = made.types == TYPES.index("epithelial")
    assert epithelial.sum() > 40 and away[epithelial].min() > 88 and away[epithelial].max() < 162
    # No row of nuclei lines the border of the canvas, where the drawing ends.
    assert np.median(away[epithelial]) == pytest.approx(160 - 11, abs=4)
    with pytest.raises(OutputError, match="is an input"):
        layout(tmp_path / "a.geojson", regions=tmp_path / "a.geojson", overwrite=True)
    with pytest.raises(PlanError, match="give `size`"):
        layout(tmp_path / "b.geojson")


def test_a_label_image_says_how_large_the_pixels_of_a_layout_are(tmp_path, caplog):
    stroma = np.full((400, 400), 3, np.uint8)
    for form, name in ((ome_zarr, "r.ome.zarr"), (ome_tiff, "r.ome.tif")):
        form.write(tmp_path / name, stroma, mpp=0.25, description="")
        out = tmp_path / f"{name}.geojson"
        layout(out, (400, 400), regions=tmp_path / name, class_map={"3": "stroma"})
        assert read_annotations(out).mpp == 0.25
    assert not caplog.records


def test_warnings_about_drawn_regions_are_given(tmp_path, caplog):
    hidden = [shapely.box(10, 10, 150, 150), shapely.box(0, 0, 200, 200)]
    given = Regions.from_polygons(hidden, ["lumen", "stroma"], mpp=0.5)
    nothing = Nuclei.from_polygons([], [], mpp=0.5, regions=given)
    write_geojson(tmp_path / "drawn.geojson", nothing)
    layout(tmp_path / "a.geojson", (200, 200), mpp=0.5, regions=tmp_path / "drawn.geojson")
    assert "wholly under a later one" in caplog.text


def test_a_file_without_nuclei_is_told_and_regions_beyond_the_canvas_are_refused(tmp_path, caplog):
    def drawn(name, polygon):
        given = Regions.from_polygons([polygon], [name], mpp=0.5)
        return {"regions": given, "size": (200, 200)}

    with pytest.raises(PlanError, match="none of 1 regions lies on the slide of 200 x 200 pixels"):
        layout(tmp_path / "a.geojson", **drawn("stroma", shapely.box(300, 0, 400, 99)))
    assert not list(tmp_path.iterdir())
    layout(tmp_path / "b.geojson", **drawn("stroma", shapely.box(0, 0, 200, 200)))
    assert not caplog.records
    empty = layout(tmp_path / "c.geojson", **drawn("glass", shapely.box(0, 0, 200, 200)))
    assert not any(empty.values()) and "c.geojson has no nucleus" in caplog.text
    Image.fromarray(np.full((2, 2), GLASS, np.uint8)).save(tmp_path / "glass.png")
    layout(tmp_path / "d.geojson", (200, 200), plan=tmp_path / "glass.png")
    assert "d.geojson has no nucleus" in caplog.text


@pytest.mark.parametrize("name", ["x.svs", "x.geojson.gz", "x", "x.ome.tif"])
def test_a_layout_is_never_called_a_slide(tmp_path, name):
    with pytest.raises(OutputError, match="ends in .geojson"):
        layout(tmp_path / name, (200, 200))
    assert not list(tmp_path.iterdir())


def test_densities_are_those_of_annotated_nuclei():
    """Half of the canvas is muscle with ten spindles, the other half stroma with forty."""
    shapes = [shapely.box(0, 0, 400, 200), shapely.box(0, 200, 400, 400)]
    regions = Regions.from_polygons(shapes, ["muscle", "stroma"], mpp=0.5)
    rng = np.random.default_rng(1)
    y = np.concatenate([rng.uniform(10, 190, 10), rng.uniform(210, 390, 40)])
    dots = shapely.points(rng.uniform(10, 390, 50), y).tolist()
    known = Nuclei.from_polygons([d.buffer(3) for d in dots], [6] * 50, mpp=0.5, regions=regions)
    wanted = Densities.like(known).wanted
    area = 0.2 * 0.1  # square millimetres
    assert wanted["muscle", "connective"] == pytest.approx(10 / area)
    assert wanted["stroma", "connective"] == pytest.approx(40 / area)
    assert wanted["stroma", "plasma"] == 0
    assert Densities.like(known.shifted(-1000, -1000)).wanted == pytest.approx(wanted)
    bare = replace(known, regions=None)
    y0, x0, y1, x1 = bare.extent()
    density = 50 / ((y1 - y0) * (x1 - x0) / 4e6)
    assert Densities.like(bare).wanted[None, "connective"] == pytest.approx(density, rel=0.05)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_of_too_many_digits_is_refused(tmp_path, seed):
    with pytest.raises(PlanError, match=f"seed {seed}: choose 0 to"):
        layout(tmp_path / "a.geojson", (64, 64), seed=seed)


def test_one_outline_far_away_is_named(tmp_path):
    """The canvas that holds it would take for ever."""
    far = [shapely.box(0, 0, 400, 200), shapely.box(9e6, 9e6, 9e6 + 9, 9e6 + 9)]
    with pytest.raises(PlanError, match="the outline at x 4500002, y 4500002 .*farthest"):
        Densities.like(Nuclei.from_polygons(far, [6, 6], mpp=0.5))
    regions = Regions.from_polygons(far, ["stroma", "stroma"], mpp=0.5)
    with pytest.raises(PlanError, match="the outline at x 9000004, y 9000004 .*farthest"):
        layout(tmp_path / "a.geojson", regions=regions)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "1", "LA"])
def test_a_plan_of_colours_or_of_16_bits_is_refused(tmp_path, mode):
    path = tmp_path / "plan.png"
    Image.new(mode, (20, 30)).save(path)
    with pytest.raises(PlanError, match="a plan is a PNG of 8-bit grey or of a palette"):
        read_plan(path, (960.0, 640.0), 0.5)


def test_a_slide_has_the_classes_of_its_plan(tmp_path):
    cells = np.full((20, 30), MUSCLE, np.uint8)
    cells[:, :15] = FAT
    cells[:4] = GLASS
    Image.fromarray(cells).save(tmp_path / "plan.png")
    canvas = (2000.0, 3000.0)
    plan = SlidePlan(canvas, seed=1, cells=read_plan(tmp_path / "plan.png", canvas, 0.5))
    ground = plan.ground((0, 0, 2000, 3000)).repeat(STEP, 0).repeat(STEP, 1)
    wanted = cells.repeat(100, 0).repeat(100, 1)
    assert (ground == wanted).mean() > 0.9 and set(np.unique(ground)) == {GLASS, FAT, MUSCLE}
    source = Colon(plan, seed=1)
    regions = source.regions((512, 512, 1024, 1024))
    assert area_of(regions, "fat", (512, 512, 1024, 1024)) > 0.95 * 512**2
    assert not len(source.nuclei((0, 0, 256, 256)).types)  # glass
    drawn = [
        ("Normal mucosa", shapely.box(0, 0, 3000, 4000)),
        ("Fat", shapely.box(3000, 0, 6000, 4000)),
    ]
    features = [
        geojson.Feature(geometry=s, properties={"classification": {"name": n}}) for n, s in drawn
    ]
    (tmp_path / "plan.geojson").write_text(geojson.dumps(geojson.FeatureCollection(features)))
    cells = read_plan(tmp_path / "plan.geojson", canvas, 0.5)
    assert np.unique(cells[:, 1:40]) == [MUCOSA] and np.unique(cells[:, 50:]) == [FAT]
    (tmp_path / "plan.geojson").write_text('{"features": 3}')
    with pytest.raises(PlanError, match="neither PNG nor GeoJSON"):
        read_plan(tmp_path / "plan.geojson", canvas, 0.5)


def test_a_hole_in_a_plan_shows_what_lies_below(tmp_path):
    whole, hole = shapely.box(0, 0, 6000, 4000), shapely.box(2000, 1000, 4000, 3000)
    features = [
        geojson.Feature(geometry=shape, properties={"classification": {"name": name}})
        for name, shape in (("Fat", whole), ("Normal mucosa", whole - hole))
    ]
    (tmp_path / "plan.geojson").write_text(geojson.dumps(geojson.FeatureCollection(features)))
    cells = read_plan(tmp_path / "plan.geojson", (2000.0, 3000.0), 0.5)
    assert cells[1, 1] == MUCOSA and cells[30, 46] == FAT


def test_a_plan_of_a_real_slide_is_bent_by_place():
    canvas = (9000.0, 12000.0)
    whole = SlidePlan(canvas, seed=2).ground((3072, 4096, 6144, 8192))
    part = SlidePlan(canvas, seed=2).ground((4096, 6144, 4608, 6656))
    np.testing.assert_array_equal(part, whole[256:384, 512:640])
    assert len(np.unique(whole)) >= 4
    other = SlidePlan(canvas, seed=3).ground((3072, 4096, 6144, 8192))
    assert (other != whole).mean() > 0.2

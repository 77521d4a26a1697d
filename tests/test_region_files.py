"""Regions in files: what is read as a region, from which file, and what is written."""

import json
import pickle
import re

import numpy as np
import pytest
import shapely
import tifffile
from click.testing import CliRunner
from PIL import Image
from toy import ToyPainter

from nasdm_wsi import open_slide, plan_render, read_annotations, render, render_region
from nasdm_wsi.annotations.classes import ClassNames
from nasdm_wsi.annotations.formats import read_contents, read_regions
from nasdm_wsi.annotations.geojson import write_geojson
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.annotations.regions import PALETTE, REGIONS, Regions, known_names
from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import AnnotationError, PlanError
from nasdm_wsi.model import Painter
from nasdm_wsi.provenance import facts_of

SIZE = (300, 400)
WHOLE = (0, 0, *SIZE)


def feature(polygon, name, kind="annotation", **members):
    classification = {"name": name, "color": [1, 2, 3]} if name else None
    properties = {"objectType": kind} | ({"classification": classification} if name else {})
    geometry = shapely.geometry.mapping(polygon)
    return {"type": "Feature", "geometry": geometry, "properties": properties, **members}


def cells(n=30, names=("Tumor", "Stroma", "Lymphocyte")):
    """Nuclei of 8 micrometres, detected in QuPath."""
    return [
        feature(shapely.Point(20 + 25 * (k % 10), 20 + 25 * (k // 10)).buffer(8), name, "detection")
        for k, name in zip(range(n), names * n, strict=False)
    ]


@pytest.fixture
def written(tmp_path):
    def write(features, name="a.geojson"):
        path = tmp_path / name
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return path

    return write


def told(path, *options):
    result = CliRunner().invoke(main, ["info", str(path), *map(str, options)])
    assert result.exit_code == 0, result.output
    return result.output


def seen(nuclei, size=SIZE) -> list[list[str]]:
    """The names of the regions of all pixels."""
    numbers = Conditioning(nuclei, size).regions((0, 0, *size))
    return np.array(["unknown", *REGIONS])[numbers]


# Names


@pytest.mark.parametrize("name", REGIONS)
def test_known_names_are_read_as_the_table_says(name):
    for alias in known_names()[name]:
        for spelt in (alias, alias.upper(), alias.replace(" ", "_"), f"{alias} region"):
            assert REGIONS[ClassNames().region(spelt) - 1] == name


@pytest.mark.parametrize(
    ("name", "region"),
    [
        ("Tumor: Positive", "epithelium"),
        ("Surface epithelium", "epithelium"),
        ("Adipose tissue", "fat"),
        ("Red blood cells", "blood"),
        ("RBCs", "blood"),
        ("Lamina propria", "stroma"),
        ("Tumour areas", "epithelium"),
        ("Muscularis propria", "muscle"),
    ],
)
def test_names_as_the_field_writes_them(name, region):
    assert REGIONS[ClassNames().region(name) - 1] == region


@pytest.mark.parametrize("name", ["Tumor cells", "Stromal nuclei", "Stroma*", "Region 2", "Area"])
def test_names_that_name_no_region(name):
    assert ClassNames().region(name) == 0


def test_the_users_word_comes_first():
    names = ClassNames({"Wall": "epithelium", "Tumor": "stroma", "Fat": "plasma"}, ["Mucus"])
    assert [names.region(name) for name in ("wall", "Tumor: x", "Mucus")] == [2, 3, 0]
    with pytest.raises(AnnotationError, match="'bone': choose one of neutrophil.*, or a region: l"):
        ClassNames({"Wall": "bone"})


# Annotations


def test_stroma_drawn_in_a_tumour_with_nuclei_of_both_names(written, caplog):
    ring = shapely.box(0, 0, 280, 100).difference(shapely.box(250, 80, 270, 90))
    features = [
        feature(ring, "Tumor"),
        feature(shapely.box(100, 5, 200, 95), "Stroma"),
        feature(shapely.box(230, 30, 245, 40), "Lumen"),
        *cells(),
    ]
    nuclei = read_annotations(written(features), mpp=0.5)
    assert len(nuclei) == 30 and nuclei.counts()["connective"] == 10
    assert nuclei.regions.counts() == {"lumen": 1, "epithelium": 1, "stroma": 1}
    names = seen(nuclei)
    assert [names[y, x] for y, x in ((50, 50), (50, 150), (35, 235), (85, 260), (150, 5))] == [
        "epithelium",
        "stroma",
        "lumen",
        "unknown",
        "unknown",
    ]
    assert not caplog.records
    shown = told(written(features), "--mpp", 0.5)
    assert re.search(r"region epithelium +1, 0\.00695 mm2", shown)
    assert re.search(r"Stroma +region: stroma +1\n", shown)
    assert re.search(r"Stroma +connective +10\n", shown)


def test_parts_of_one_annotation_lie_apart_and_nested(written):
    parts = shapely.MultiPolygon([shapely.box(0, 0, 60, 60), shapely.box(200, 100, 260, 160)])
    inner = shapely.MultiPolygon([shapely.box(210, 110, 220, 120), shapely.box(20, 20, 30, 30)])
    nuclei = read_annotations(written([feature(parts, "Gland"), feature(inner, "Mucin")]), mpp=0.5)
    names = seen(nuclei)
    assert (names == "mucus").sum() == 200 and (names == "epithelium").sum() == 2 * 3600 - 200


def test_the_pieces_of_a_repaired_region_are_counted_as_regions(written):
    crossing = shapely.Polygon([(0, 0), (200, 200), (200, 0), (0, 200)])
    findings = read_contents(written([feature(crossing, "Stroma"), *cells()]), mpp=0.5).findings
    assert ("Stroma", "region: stroma", 2) in findings.rows()
    assert ("Stroma", "connective", 10) in findings.rows()


@pytest.mark.parametrize("last", [False, True])
def test_a_region_that_a_later_one_hides_is_told(written, caplog, last):
    small, large = feature(shapely.box(40, 40, 90, 90), "Stroma"), shapely.box(0, 0, 200, 200)
    features = [small, feature(large, "Tumor")]
    read_annotations(written([*(features if last else features[::-1]), *cells()]), mpp=0.5)
    assert ("1 region lies wholly under a later one" in caplog.text) == last


def test_a_large_region_without_a_known_name_is_left_out_with_a_remedy(written, caplog):
    path = written([feature(shapely.box(0, 0, 200, 200), "Mucosa"), *cells()])
    assert read_annotations(path, mpp=0.5).regions is None
    assert "name it with `class_map` Mucosa=REGION" in caplog.text
    caplog.clear()
    mapped = read_annotations(path, mpp=0.5, class_map={"Mucosa": "stroma"})
    assert mapped.regions.counts() == {"stroma": 1} and len(mapped) == 30 and not caplog.records


def test_a_region_of_the_class_of_nuclei_needs_one_of_its_own(written, caplog):
    """Mapped to a region, the class would take the nuclei along."""
    path = written([feature(shapely.box(0, 0, 200, 200), None), *cells(names=(None,))])
    nuclei = read_annotations(path, mpp=0.5, class_map={"unclassified": "epithelial"})
    assert len(nuclei) == 30 and nuclei.regions is None
    assert "give regions a class of their own" in caplog.text


def test_necrotic_tissue_is_a_region_and_a_necrotic_cell_a_question(written):
    path = written([feature(shapely.box(0, 0, 200, 200), "Necrosis"), *cells()])
    assert read_annotations(path, mpp=0.5).regions.counts() == {"debris": 1}
    path = written(cells(names=("Necrosis", "Plasma")))
    with pytest.raises(AnnotationError, match=r"'Necrosis' \(15 objects\).*`class_map`"):
        read_annotations(path, mpp=0.5)


def test_glass_and_tissue(written):
    outline = feature(shapely.box(0, 0, 280, 100), "Tissue")
    glass = feature(shapely.box(100, 0, 200, 100), "Background")
    small = feature(shapely.Point(50, 32).buffer(7), "Background", "detection")
    nuclei = read_annotations(written([outline, glass, small, *cells()]), mpp=0.5)
    conditioning = Conditioning(nuclei, SIZE)
    tissue, nucleus = conditioning.tissue(WHOLE), conditioning.labels(WHOLE)[0] > 0
    assert len(nuclei) == 30  # the small one is the background of a segmenter, and left out
    assert tissue[50, 50] and tissue[nucleus].all()
    assert not (tissue & ~nucleus)[:100, 100:200].any() and not tissue[150].any()


@pytest.mark.parametrize("order", [1, -1])
def test_nuclei_and_regions_do_not_depend_on_how_many_there_are(written, order):
    """A few cells among many regions, and the other way round."""
    regions = [
        feature(shapely.box(300 * k, 300, 300 * k + 200, 500), ("Tumor", "Stroma", "Muscle")[k % 3])
        for k in range(40)
    ]
    for n in (3, 30):
        read = read_annotations(written([*cells(n), *regions][::order]), mpp=0.5)
        assert len(read) == n
        assert read.regions.counts() == {"epithelium": 14, "stroma": 13, "muscle": 13}


def test_a_file_of_regions_alone(written, caplog):
    path = written([feature(shapely.box(0, 0, 200, 100), "Stroma")])
    nuclei = read_annotations(path, mpp=0.5)
    assert len(nuclei) == 0 and nuclei.regions.counts() == {"stroma": 1}
    assert "regions but no nuclei" in caplog.text
    job = plan_render(nuclei, ToyPainter(planes=("epithelial", "stroma", "regions known")))
    assert job.plan.size == (132, 232)
    assert job.planes((0, 0, *job.plan.size)).sum() == 2 * 200 * 100
    with pytest.raises(PlanError, match="none of 1 regions lies on the slide of 50 x 50"):
        plan_render(nuclei.shifted(90, 90), ToyPainter(), size=(50, 50))


def corners(name, box) -> tuple[str, list[tuple[float, float]]]:
    return name, list(shapely.box(*box).exterior.coords)[:-1]


# Of two regions and, between them, four nuclei of a class that is also a region's.
OUTLINES = [
    corners("Stroma", (0, 0, 200, 100)),
    corners("Lumen", (150, 20, 190, 80)),
    *(corners("Tumor", (20 + 30 * k, 40, 36 + 30 * k, 56)) for k in range(4)),
]


def asap() -> str:
    rows = [
        f'<Annotation Name="{k}" Type="Polygon" PartOfGroup="{name}"><Coordinates>'
        + "".join(f'<Coordinate Order="0" X="{x}" Y="{y}"/>' for x, y in ring)
        + "</Coordinates></Annotation>"
        for k, (name, ring) in enumerate(OUTLINES)
    ]
    return f"<ASAP_Annotations><Annotations>{''.join(rows)}</Annotations></ASAP_Annotations>"


def imagescope() -> str:
    layers = [
        f'<Annotation Name="{name}"><Regions><Region Type="0"><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in ring)
        + "</Vertices></Region></Regions></Annotation>"
        for name, ring in OUTLINES
    ]
    return f"<Annotations>{''.join(layers)}</Annotations>"


def archive() -> str:
    elements = [
        {"type": "polyline", "closed": True, "label": {"value": name}, "points": ring}
        for name, ring in OUTLINES
    ]
    return json.dumps({"name": "drawn", "elements": elements})


def coco() -> str:
    names = sorted({name for name, _ in OUTLINES})
    categories = [{"id": k, "name": name} for k, name in enumerate(names, 1)]
    annotations = [
        {
            "id": k,
            "image_id": 1,
            "category_id": names.index(name) + 1,
            "segmentation": [[n for point in ring for n in point]],
        }
        for k, (name, ring) in enumerate(OUTLINES, 1)
    ]
    images = [{"id": 1, "file_name": "a.png", "width": 400, "height": 300}]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def well_known_text() -> str:
    rows = [f'"{shapely.Polygon(ring).wkt}",{name}' for name, ring in OUTLINES]
    return "\n".join(["geometry,class", *rows]) + "\n"


def segmenter() -> str:
    """GeoJSON whose classes are texts, in the properties of no QuPath."""
    features = [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(shapely.Polygon(ring)),
            "properties": {"classification": name.lower()},
        }
        for name, ring in OUTLINES
    ]
    return json.dumps(features)


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".xml", asap),
        (".xml", imagescope),
        (".json", archive),
        (".json", coco),
        (".csv", well_known_text),
        (".geojson", segmenter),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_regions_are_read_from_all_kinds_of_outlines(tmp_path, suffix, text):
    path = tmp_path / f"a{suffix}"
    path.write_text(text())
    nuclei = read_annotations(path, mpp=0.5)
    assert nuclei.counts()["epithelial"] == len(nuclei) == 4
    names = seen(nuclei)
    assert (names == "lumen").sum() == 40 * 60
    assert (names == "stroma").sum() == 200 * 100 - 40 * 60
    assert read_regions(path, mpp=0.5).counts() == {"lumen": 1, "epithelium": 4, "stroma": 1}


# Files of regions


def test_regions_of_another_file_replace_those_of_the_nuclei(written, caplog):
    path = written([feature(shapely.box(0, 0, 200, 100), "Stroma"), *cells()])
    other = written([feature(shapely.Point(50, 50).buffer(9), "Tumor"), *cells(5)], "b.geojson")
    nuclei = read_annotations(path, mpp=0.25, regions=other)
    # In a file of regions, a class that may mean either means regions.
    assert nuclei.regions.counts() == {"epithelium": 3, "stroma": 2} and len(nuclei) == 30
    assert nuclei.regions.mpp == 0.25 and nuclei.sources == (path, other)
    (said,) = caplog.messages  # for most of them are as small as nuclei
    assert "the median region is 4 micrometres wide" in said
    regions = read_regions(other, mpp=0.5, ignore_classes=["Stroma"])
    assert regions.counts() == {"epithelium": 3} and regions.mpp == 0.5


def test_a_file_without_regions_says_what_it_holds(written):
    path = written(cells(names=("Lymphocyte", "Macrophage")))
    with pytest.raises(
        AnnotationError, match="no regions found.*'Lymphocyte', 'Macrophage'.*REGION"
    ):
        read_regions(path, mpp=0.5)


LABELS = np.zeros((60, 80), np.uint8)
LABELS[5:50, 5:70], LABELS[20:30, 20:40], LABELS[55:, 70:] = 3, 1, 7
LABELS[25, 25] = 0


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_label_images_of_regions(tmp_path, suffix, caplog):
    path = tmp_path / f"labels{suffix}"
    if suffix == ".npy":
        np.save(path, LABELS)
    else:
        Image.fromarray(LABELS).save(path)
    named = {"3": "epithelium", "1": "lumen", "7": "blood"}
    regions = read_regions(path, mpp=4, class_map=named)
    nuclei = Nuclei.from_polygons([], [], mpp=4, regions=regions)
    names = seen(nuclei, LABELS.shape)
    for value, name in {**named, "0": "unknown"}.items():
        np.testing.assert_array_equal(names == name, int(value) == LABELS)
    assert not caplog.records


def test_values_of_a_label_image_without_a_name(tmp_path, caplog):
    path = tmp_path / "labels.npy"
    np.save(path, LABELS)
    # As in a mask of glands by their numbers.
    whole = read_regions(path, mpp=4, class_map={"regions": "epithelium", "1": "lumen"})
    assert whole.counts() == {"lumen": 1, "epithelium": 2}
    some = read_regions(path, mpp=4, class_map={"3": "stroma"})
    assert some.counts() == {"stroma": 1}
    assert "value 1, 7 of the labels names no region" in caplog.text
    with pytest.raises(AnnotationError, match="no regions found"):
        read_regions(path, mpp=4)


def test_a_label_image_of_regions_as_the_annotations(tmp_path):
    path = tmp_path / "labels.png"
    Image.fromarray(LABELS).save(path)
    nuclei = read_annotations(path, mpp=2, class_map={"3": "stroma", "1": "lumen", "7": "blood"})
    assert len(nuclei) == 0 and nuclei.regions.counts() == {"lumen": 1, "stroma": 1, "blood": 1}


def test_the_pixel_size_of_regions_is_what_they_state_or_that_of_the_nuclei(written, tmp_path):
    path, labels = written(cells()), tmp_path / "labels.tif"
    named = {"3": "epithelium", "1": "lumen", "7": "blood"}
    for stated, scale in ((None, 1), (2.0, 4)):
        options = {"resolution": (1e4 / stated,) * 2, "resolutionunit": 3} if stated else {}
        tifffile.imwrite(labels, LABELS, **options)
        nuclei = read_annotations(path, mpp=0.5, regions=labels, class_map=named)
        assert nuclei.regions.mpp == nuclei.mpp == 0.5
        assert nuclei.regions.boxes()[:, 2:].max(0).tolist() == [60 * scale, 80 * scale]


@pytest.mark.parametrize(("stated", "fits"), [(None, False), (1.5, True), (3.0, False)])
def test_a_label_image_of_another_size_is_told(written, tmp_path, caplog, stated, fits):
    path, labels = written(cells()), tmp_path / "labels.tif"
    options = {"resolution": (1e4 / stated,) * 2, "resolutionunit": 3} if stated else {}
    tifffile.imwrite(labels, np.ones((100, 100), np.uint8), **options)
    nuclei = read_annotations(path, mpp=0.5, regions=labels, class_map={"1": "stroma"})
    plan_render(nuclei, ToyPainter(mpp=0.5), size=(301, 303))
    side = round(100 * (stated or 0.5) / 0.5)
    told = f"covers {side} x {side} pixels, but the slide has 303 x 301"
    assert (told in caplog.text) != fits
    caplog.clear()
    plan_render(nuclei, ToyPainter(mpp=0.5))  # of whatever size it needs
    assert "label image" not in caplog.text


# Written files


def random_table(seed: int) -> Nuclei:
    """Regions of all names, some smaller than nuclei, and nuclei in and between them."""
    rng = np.random.default_rng(seed)
    polygons, names = [], []
    for k in range(27):
        y, x = rng.uniform(0, 250, 2)
        blob = shapely.Point(x, y).buffer(rng.choice([3.0, 9.0, 40.0]), quad_segs=3)
        polygons.append(blob.difference(shapely.box(x, y, x + 2, y + 2)))
        names.append(REGIONS[k % len(REGIONS)])
    at = rng.uniform(0, 300, (60, 2))
    nuclei = [shapely.Point(point).buffer(7) for point in at]
    return Nuclei.from_polygons(
        nuclei,
        rng.integers(1, 7, len(nuclei)),
        mpp=0.5,
        regions=Regions.from_polygons(polygons, names, mpp=0.5),
        tissue=shapely.union_all([*nuclei[:30], shapely.box(9, 9, 150, 200)]),
    )


@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_is_read_back(tmp_path, seed):
    write_geojson(tmp_path / "a.geojson", random_table(seed))
    first = read_annotations(tmp_path / "a.geojson", mpp=0.5)  # rounded to two decimals
    write_geojson(tmp_path / "b.geojson", first)
    again = read_annotations(tmp_path / "b.geojson", mpp=0.5)
    assert first.fingerprint() == again.fingerprint()
    assert (tmp_path / "a.geojson").read_bytes() == (tmp_path / "b.geojson").read_bytes()
    assert first.types.tolist() == random_table(seed).types.tolist()
    assert first.regions.types.tolist() == random_table(seed).regions.types.tolist()
    inside = Nuclei.from_geojson(first.to_geojson(), mpp=0.5)
    assert inside.fingerprint() == first.fingerprint()


def test_regions_are_annotations_before_the_detections_of_nuclei(tmp_path):
    write_geojson(tmp_path / "a.geojson", random_table(0))
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    kinds = [one["properties"]["objectType"] for one in features]
    assert kinds == ["annotation"] * 28 + ["detection"] * 60
    assert features[0]["properties"]["classification"]["name"] == "Tissue"
    first = features[1]["properties"]["classification"]
    assert first == {"name": "Lumen region", "color": PALETTE[1].tolist()}
    assert len({one["id"] for one in features}) == len(features)


# Commands


def test_render_paints_the_regions_of_the_option(written, tmp_path):
    """In the slide, in the file beside it, in the plan and in the run identity."""
    path = written(cells())
    labels = tmp_path / "labels.png"
    Image.fromarray(LABELS).save(labels)
    command = ["render", path, "-o", tmp_path / "out.ome.tif", "--mpp", 0.5, "--size", 80, 60]
    command += ["--steps", 1, "--lossless", "--device", "cpu", "--regions", labels]
    for name in ("3=stroma", "1=lumen", "7=blood"):
        command += ["--class-map", name]
    command = [str(word) for word in command]
    result = CliRunner().invoke(main, [*command, "--dry-run"])
    assert "regions   1 lumen (4.97e-05 mm2), 1 stroma (0.000681 mm2), 1 blood" in result.output
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    read = {"mpp": 0.5, "class_map": {"3": "stroma", "1": "lumen", "7": "blood"}}
    nuclei = read_annotations(path, regions=labels, **read)
    job = plan_render(nuclei, Painter(steps=1, device="cpu"), size=(60, 80))
    with open_slide(tmp_path / "out.ome.tif") as slide:
        assert facts_of(slide.description)["nuclei"] == job.facts["nuclei"]
        np.testing.assert_array_equal(slide.read((0, 0, 60, 80), mpp=0.5), render_region(job))
    beside = read_annotations(tmp_path / "out.geojson", mpp=0.5)
    shape = LABELS.shape
    assert (seen(beside, shape) == seen(nuclei, shape)).all()
    bare = plan_render(read_annotations(path, mpp=0.5), job.painter, size=(60, 80))
    assert bare.facts["nuclei"] != job.facts["nuclei"]
    assert (render_region(bare) != render_region(job)).any()


def test_a_slide_rendered_from_the_file_beside_it_is_the_same(tmp_path):
    """Also where tissue is outlined: the outline is in the file."""
    table = random_table(2)
    write_geojson(tmp_path / "in.geojson", table)
    read = read_annotations(tmp_path / "in.geojson", mpp=0.5)
    job = plan_render(read, ToyPainter(), size=(160, 192), region=(16, 32, 144, 160))
    render(job, tmp_path / "one.ome.tif", lossless=True)
    beside = read_annotations(tmp_path / "one.geojson", mpp=0.5)
    again = plan_render(beside, ToyPainter(), size=(128, 128))
    box = (0, 0, 128, 128)
    there = job.region
    assert 0.1 < job.tissue(there).mean() < 0.9
    np.testing.assert_array_equal(job.tissue(there), again.tissue(box))
    shown = read.shifted(-16, -32).within(box)
    assert shapely.equals_exact(shown.tissue, beside.tissue, 1e-6)  # nothing is cut
    assert np.abs(shown.regions.coords - beside.regions.coords).max() < 1e-6
    assert np.abs(shown.coords - beside.coords).max() < 1e-6


def test_a_part_alone_and_by_other_workers_shows_the_same_regions(tmp_path):
    table = random_table(1).within((0, 0, 200, 200))
    painter = Painter(steps=1, device="cpu")
    whole = plan_render(table, painter, size=(160, 192))
    pixels = render_region(whole, workers=1)
    np.testing.assert_array_equal(pixels, render_region(whole, workers=3))
    part = plan_render(table, painter, size=(160, 192), region=(33, 40, 97, 130))
    np.testing.assert_array_equal(pixels[33:97, 40:130], render_region(part))


def test_a_job_paints_the_same_regions_in_another_process(tmp_path):
    job = plan_render(random_table(2), ToyPainter(planes=("lumen", "regions known")), size=SIZE)
    there = pickle.loads(pickle.dumps(job))
    assert there.facts == job.facts and job.planes(WHOLE).any()
    np.testing.assert_array_equal(there.planes(WHOLE), job.planes(WHOLE))
    np.testing.assert_array_equal(there.tissue(WHOLE), job.tissue(WHOLE))


def test_an_input_of_regions_is_never_replaced(written, tmp_path):
    path, regions = written(cells()), tmp_path / "a.ome.tif"
    tifffile.imwrite(regions, LABELS)
    command = ["render", path, "-o", regions, "--mpp", 0.5, "--regions", regions, "--overwrite"]
    result = CliRunner().invoke(main, [str(word) for word in command])
    assert result.exit_code == 1 and "is an input" in result.output
    assert (tifffile.imread(regions) == LABELS).all()


def test_info_as_json(written):
    path = written([feature(shapely.box(0, 0, 200, 100), "Adipose tissue"), *cells()])
    assert json.loads(told(path, "--mpp", 1, "--json"))["regions"] == {
        "fat": {"count": 1, "square_millimetres": 0.02}
    }
    assert json.loads(told(path, "--json"))["regions"]["fat"]["square_millimetres"] is None

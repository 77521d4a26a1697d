"""Regions: the table, and what is rasterised of it."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.annotations.regions import GLASS, PLANES, REGIONS, Regions
from nasdm_wsi.annotations.types import PLANES as OF_NUCLEI
from nasdm_wsi.errors import AnnotationError
from nasdm_wsi.geometry import inside, intersect
from nasdm_wsi.model import Painter
from nasdm_wsi.rendering import plan_render, render_region

SIZE = (60, 70)
WHOLE = (0, 0, *SIZE)
NUCLEI = Nuclei.from_polygons([shapely.Point(30.3, 20.2).buffer(6)], [2], mpp=0.5)


def drawn(*regions, nuclei: Nuclei = NUCLEI, **options) -> Nuclei:
    """Nuclei with regions of (polygon, name)."""
    polygons, names = zip(*regions, strict=True)
    table = Regions.from_polygons(polygons, names, mpp=nuclei.mpp)
    return Nuclei.from_polygons(
        nuclei.polygons(), nuclei.types, mpp=nuclei.mpp, regions=table, **options
    )


def random_regions(seed: int, n: int = 12) -> list:
    """Blobs with holes that overlap and reach over the border of the canvas."""
    rng = np.random.default_rng(seed)
    regions = []
    for _ in range(n):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 9))
        ring = np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(5, 30, (9, 1))
        at = rng.uniform(-3, 73, 2)
        blob = shapely.Polygon(ring + at).buffer(0)
        if rng.random() < 0.5:
            blob = blob.difference(shapely.Point(at).buffer(4.3))
        regions.append((blob, REGIONS[rng.integers(len(REGIONS))]))
    return regions


def painted_over(regions, size) -> np.ndarray:
    """Numbers of regions by shapely's own test of points, one region after another."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    numbers = np.zeros(size, int)
    for polygon, name in regions:
        numbers[shapely.contains_xy(polygon, x, y)] = REGIONS.index(name) + 1
    return numbers


@pytest.mark.parametrize("seed", range(4))
def test_regions_are_those_of_shapely_later_over_earlier(seed):
    regions = random_regions(seed)
    numbers = Conditioning(drawn(*regions), SIZE).regions(WHOLE)
    assert numbers.dtype == np.uint8
    np.testing.assert_array_equal(numbers, painted_over(regions, SIZE))


def test_a_region_is_the_mask_of_scikit_image():
    corners = np.array([(3.2, 4.1), (50.7, 9.3), (41.4, 55.2), (12.1, 48.6)])  # y, x
    nuclei = drawn((shapely.Polygon(corners[:, ::-1]), "mucus"))
    expected = polygon2mask(SIZE, corners - 0.5)  # which counts from the centres of pixels
    assert ((Conditioning(nuclei, SIZE).regions(WHOLE) > 0) == expected).all()


def test_stroma_in_a_tumour_and_the_hole_of_a_ring():
    ring = shapely.box(2, 2, 58, 58).difference(shapely.box(40, 40, 50, 50))
    nuclei = drawn((ring, "epithelium"), (shapely.box(10, 10, 30, 30), "stroma"))
    numbers = Conditioning(nuclei, SIZE).regions(WHOLE)
    assert numbers[20, 20] == REGIONS.index("stroma") + 1
    assert numbers[5, 5] == REGIONS.index("epithelium") + 1
    assert numbers[45, 45] == numbers[0, 0] == 0


def test_all_parts_of_a_multipolygon_are_drawn():
    two = shapely.MultiPolygon([shapely.box(0, 0, 5, 5), shapely.box(20, 20, 30, 30)])
    nuclei = drawn((two, "blood"))
    assert len(nuclei.regions) == 2
    assert (Conditioning(nuclei, SIZE).regions(WHOLE) > 0).sum() == 25 + 100


corners = st.tuples(st.integers(-9, 60), st.integers(-9, 70))
boxes = st.builds(
    lambda corner, h, w: (*corner, corner[0] + h, corner[1] + w),
    corners,
    *[st.integers(1, 50)] * 2,
)


@settings(max_examples=40)
@given(a=boxes, b=boxes, seed=st.integers(0, 3))
def test_a_pixel_does_not_depend_on_the_box(a, b, seed):
    conditioning = Conditioning(drawn(*random_regions(seed)), SIZE)
    both = intersect(a, b)
    planes = (*OF_NUCLEI, *PLANES)
    for look in (
        conditioning.regions,
        conditioning.tissue,
        lambda c: conditioning.planes(planes, c),
    ):
        first = look(a)[..., *inside(both, a)]
        assert (first == look(b)[..., *inside(both, b)]).all()


def test_planes_by_name_and_what_is_unknown():
    nuclei = drawn(
        (shapely.box(0, 0, 30, 60), "stroma"),
        (shapely.box(5, 5, 15, 15), "lumen"),
        (shapely.box(40, 0, 60, 30), "fat"),
        (shapely.box(40, 30, 60, 60), "muscle"),
    )
    conditioning = Conditioning(nuclei, SIZE)
    numbers = conditioning.regions(WHOLE)
    names = ("lumen", "edge", "regions known", "stroma")
    lumen, edge, known, stroma = conditioning.planes(names, WHOLE)
    np.testing.assert_array_equal(lumen, numbers == REGIONS.index("lumen") + 1)
    # Muscle had the label of stroma in training; no plane was asked for that could show fat.
    of_stroma = [REGIONS.index(name) + 1 for name in ("stroma", "muscle")]
    np.testing.assert_array_equal(stroma, np.isin(numbers, of_stroma))
    np.testing.assert_array_equal(known, lumen + stroma)
    assert known[45, 50] and not known[15, 50]
    both = conditioning.planes(("muscle", "stroma"), WHOLE)
    np.testing.assert_array_equal(both[0], numbers == of_stroma[1])
    np.testing.assert_array_equal(both[1], numbers == of_stroma[0])
    bare = Conditioning(NUCLEI, SIZE)
    np.testing.assert_array_equal(edge, bare.planes(("edge",), WHOLE)[0])
    # Regions lie under nuclei too.
    assert (stroma * conditioning.planes(("epithelial",), WHOLE)[0]).any()
    assert not bare.planes(PLANES, WHOLE).any() and not bare.regions(WHOLE).any()


def test_nuclei_are_drawn_as_without_regions():
    conditioning = Conditioning(drawn(*random_regions(1)), SIZE)
    bare = Conditioning(NUCLEI, SIZE)
    for box in (WHOLE, (-5, 13, 40, 90)):
        np.testing.assert_array_equal(
            conditioning.planes(OF_NUCLEI, box), bare.planes(OF_NUCLEI, box)
        )
    for ours, theirs in zip(conditioning.labels(WHOLE), bare.labels(WHOLE), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_beyond_the_canvas_no_region_is_known():
    conditioning = Conditioning(drawn((shapely.box(-9, -9, 90, 90), "stroma")), SIZE)
    known = conditioning.planes(("stroma", "regions known"), (-4, -4, 70, 80))
    assert known.sum() == 2 * SIZE[0] * SIZE[1]


@pytest.mark.parametrize("tissue", [None, shapely.box(0, 0, 40, 50)], ids=["bare", "outlined"])
def test_glass_is_cut_out_of_the_tissue_but_not_of_nuclei(tissue):
    hole = shapely.box(20, 10, 35, 30)
    nuclei = drawn((hole, "glass"), (shapely.box(20, 25, 25, 30), "stroma"), tissue=tissue)
    conditioning = Conditioning(nuclei, SIZE)
    outlined = Conditioning(drawn((hole, "stroma"), tissue=tissue), SIZE)
    nucleus = conditioning.labels(WHOLE)[0] > 0
    expected = outlined.tissue(WHOLE) & (conditioning.regions(WHOLE) != GLASS) | nucleus
    found = conditioning.tissue(WHOLE)
    np.testing.assert_array_equal(found, expected)
    assert found[27, 22] and found[20, 30] and not found[28, 34]
    assert conditioning.is_glass((26, 26, 30, 35)) and not conditioning.is_glass((5, 5, 15, 15))


def test_regions_travel_with_the_nuclei(tmp_path):
    nuclei = drawn((shapely.box(4, 4, 40, 40), "mucus"), (shapely.box(50, 50, 60, 60), "fat"))
    moved = nuclei.scaled(0.25).shifted(10, 20)
    assert moved.regions.mpp == moved.mpp == 0.25
    assert moved.regions.boxes().tolist() == [[18, 28, 90, 100], [110, 120, 130, 140]]
    assert moved.extent() == (18, 28, 130, 140)
    assert moved.within((0, 0, 95, 110)).regions.counts() == {"mucus": 1}
    moved.save(tmp_path / "nuclei.npz")
    loaded = Nuclei.load(tmp_path / "nuclei.npz")
    assert loaded.fingerprint() == moved.fingerprint()
    assert repr(loaded.regions) == "<Regions: 2 at 0.25 mpp: 1 mucus, 1 fat>"
    moved.regions.save(tmp_path / "regions.npz")
    assert Regions.load(tmp_path / "regions.npz").fingerprint() == moved.regions.fingerprint()
    with pytest.raises(ValueError, match="scale the regions"):
        Nuclei.from_polygons([], [], mpp=0.5, regions=moved.regions)


def test_fingerprints_tell_regions_apart():
    square, other = shapely.box(4, 4, 40, 40), shapely.box(4, 4, 40, 41)
    prints = {
        NUCLEI.fingerprint(),
        drawn((square, "mucus")).fingerprint(),
        drawn((square, "lumen")).fingerprint(),
        drawn((other, "lumen")).fingerprint(),
        drawn((other, "lumen"), (square, "lumen")).fingerprint(),
    }
    assert len(prints) == 5
    none = Regions.from_polygons([], [], mpp=0.5)
    empty = Nuclei.from_polygons(NUCLEI.polygons(), NUCLEI.types, mpp=0.5, regions=none)
    assert empty.fingerprint() == NUCLEI.fingerprint()


def test_counts_and_areas():
    square = shapely.box(0, 0, 1000, 2000)
    regions = Regions.from_polygons([square, square, square], ["fat", "lumen", "fat"], mpp=0.5)
    assert regions.counts() == {"lumen": 1, "fat": 2}
    assert regions.square_millimetres() == pytest.approx({"lumen": 0.5, "fat": 1.0})


def test_a_name_that_is_no_region():
    with pytest.raises(AnnotationError, match="'tumor' is not a region: choose one of lumen, "):
        Regions.from_polygons([shapely.box(0, 0, 1, 1)], ["tumor"], mpp=0.5)


def test_the_painter_is_told_what_it_knows_and_the_user_what_it_does_not(caplog):
    """Weights of the package: lumen is bright, stroma is not, and fat counts as unknown."""
    half = (shapely.box(0, 0, 64, 128), "lumen"), (shapely.box(64, 0, 128, 128), "stroma")
    painter = Painter(device="cpu")

    def painted(*regions) -> np.ndarray:
        nuclei = drawn(*regions) if regions else NUCLEI
        return render_region(plan_render(nuclei, painter, size=(128, 128)), workers=1).mean(2)

    unknown, told = painted(), painted(*half)
    assert told[16:112, 16:48].mean() > told[16:112, 80:112].mean() + 40
    assert not caplog.records
    everywhere = shapely.box(0, 0, 128, 128)
    assert (painted((everywhere, "fat")) == unknown).all()
    assert (painted((everywhere, "muscle")) == painted((everywhere, "stroma"))).all()
    said = "do not paint regions of fat, which count as unknown", "cannot tell muscle from stroma"
    for record, words in zip(caplog.records, said, strict=True):
        assert words in record.message

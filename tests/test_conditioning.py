from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from nasdm_wsi.annotations.columns import offsets
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Conditioning, edges, planes_of
from nasdm_wsi.annotations.types import PLANES, TYPES
from nasdm_wsi.errors import PlanError
from nasdm_wsi.geometry import inside, intersect

SIZE = (60, 70)
WHOLE = (0, 0, *SIZE)


def random_nuclei(seed: int, n: int = 40, **options) -> Nuclei:
    """Overlapping blobs with some holes, on the border too; vertices with two decimals."""
    rng = np.random.default_rng(seed)
    blobs = []
    for _ in range(n):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 9))
        ring = np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(2, 9, (9, 1))
        at = rng.uniform(-3, 73, 2)
        blob = shapely.make_valid(shapely.Polygon((ring + at).round(2)))
        blobs.append(blob.difference(shapely.Point(at).buffer(1.7)) if rng.random() < 0.3 else blob)
    blobs = [blob for blob in blobs if blob.geom_type == "Polygon"]
    return Nuclei.from_polygons(blobs, rng.integers(1, 7, len(blobs)), mpp=0.5, **options)


def slow_labels(nuclei: Nuclei, box) -> np.ndarray:
    y, x = np.mgrid[box[0] : box[2], box[1] : box[3]] + 0.5
    labels = np.zeros(y.shape, int)
    for number, blob in enumerate(nuclei.polygons(), 1):
        labels[shapely.contains_xy(blob, x, y)] = number
    return labels


@pytest.mark.parametrize("seed", range(4))
def test_labels_agree_with_shapely(seed):
    # Not rounded to hundredths: where a centre lies on an outline, either side is right.
    nuclei = random_nuclei(seed).shifted(0.00371, 0.00513)
    instances, types = Conditioning(nuclei, SIZE).labels(WHOLE)
    assert (instances == slow_labels(nuclei, WHOLE)).all()
    assert (types == np.concatenate([[0], nuclei.types])[instances]).all()
    assert instances.dtype == np.int32 and types.dtype == np.uint8


def inside_exactly(rings, y: int, x: int) -> bool:
    """Even-odd rule at the centre of a pixel, in fractions, one edge after another."""
    odd, at = False, (Fraction(2 * x + 1, 2), Fraction(2 * y + 1, 2))
    for ring in rings:
        points = [[Fraction(round(v * 1024), 1024) for v in point] for point in ring]
        for (xa, ya), (xb, yb) in pairwise(points):
            if (ya <= at[1]) != (yb <= at[1]):
                odd ^= xa + (at[1] - ya) * (xb - xa) / (yb - ya) <= at[0]
    return odd


def exact_labels(polygons, box) -> list[list[int]]:
    def label(y: int, x: int) -> int:
        covers = [k for k, rings in enumerate(polygons, 1) if inside_exactly(rings, y, x)]
        return max(covers, default=0)

    return [[label(y, x) for x in range(box[1], box[3])] for y in range(box[0], box[2])]


def table(polygons, **options) -> Nuclei:
    """Nuclei of closed rings as they are, crossing themselves or not."""
    rings = [ring for polygon in polygons for ring in polygon]
    return Nuclei(
        np.array([point for ring in rings for point in ring], float).reshape(-1, 2),
        offsets([len(ring) for ring in rings]),
        offsets([len(polygon) for polygon in polygons]),
        np.ones(len(polygons), np.uint8),
        0.5,
        **options,
    )


# Halves put centres on vertices and edges or next to them, rectangles on whole edges; outlines
# touch and cross.
halves = st.builds(
    lambda n, k: n / 2 + k / 1024, st.integers(-4, 30), st.sampled_from([0, 0, 0, -1, 1])
)
numbers = halves | st.floats(-2, 15, width=32)
outlines = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=8)
rectangles = st.builds(
    lambda x, y, w, h: [(x, y), (x + w, y), (x + w, y + h), (x, y + h)], *[halves] * 4
)
rings = (outlines | rectangles).map(lambda ring: [*ring, ring[0]])
small_boxes = st.builds(
    lambda y, x, h, w: (y, x, y + h, x + w),
    *[st.integers(-2, 8)] * 2,
    *[st.integers(1, 9)] * 2,
)


@settings(max_examples=150)
@given(polygons=st.lists(st.lists(rings, min_size=1, max_size=2), max_size=4), box=small_boxes)
def test_labels_are_those_of_a_slow_obvious_reference(polygons, box):
    # A wide canvas: the reference knows none.
    instances, _ = Conditioning(table(polygons).shifted(20, 30), (50, 60)).labels(
        (box[0] + 20, box[1] + 30, box[2] + 20, box[3] + 30)
    )
    assert instances.tolist() == exact_labels(polygons, box)


@settings(max_examples=50)
@given(outline=st.lists(rings, min_size=1, max_size=3), box=small_boxes)
def test_tissue_is_that_of_a_slow_obvious_reference(outline, box):
    parts = shapely.MultiPolygon([shapely.Polygon(ring) for ring in outline])
    found = Conditioning(table([], tissue=parts), (50, 60)).tissue(box)
    assert found.tolist() == exact_labels([outline], box)


@settings(max_examples=50)
@given(points=st.lists(st.tuples(*[st.integers(0, 24)] * 2), min_size=1, max_size=12))
def test_polygons_that_share_edges_share_no_pixel_and_leave_none_out(points):
    corners = [(0, 0), (0, 24), (24, 0), (24, 24)]
    net = shapely.delaunay_triangles(shapely.MultiPoint([*points, *corners]))
    triangles = shapely.get_parts(shapely.transform(net, lambda xy: xy / 2))
    covers = [
        Conditioning(Nuclei.from_polygons([t], [1], mpp=0.5), (12, 12)).labels((0, 0, 12, 12))[0]
        for t in triangles
    ]
    assert (np.sum(covers, axis=0) == 1).all()


@pytest.mark.parametrize("seed", range(3))
def test_outlines_along_pixels_give_the_pixels_back(seed):
    labels = np.random.default_rng(seed).integers(0, 4, (15, 17))
    y, x = np.mgrid[:15, :17]
    squares = shapely.box(x, y, x + 1, y + 1)
    outlines = [shapely.union_all(squares[labels == k]) for k in range(1, 4)]
    nuclei = Nuclei.from_polygons(outlines, [1, 2, 3], mpp=0.5)
    _, types = Conditioning(nuclei, labels.shape).labels((0, 0, *labels.shape))
    assert (types == labels).all()


def test_a_nucleus_beyond_all_measure():
    far = 1e15
    polygons = [[[(-far, -far), (far, -far), (far, far), (-far, far), (-far, -far)]]]
    instances, _ = Conditioning(table(polygons), (40, 50)).labels((10, 10, 20, 20))
    assert (instances == 1).all()


def test_holes_show_what_lies_beneath():
    ring = shapely.box(0, 0, 9, 9).difference(shapely.box(3, 3, 6, 6))
    nuclei = Nuclei.from_polygons([shapely.box(0, 0, 9, 9), ring], [1, 2], mpp=0.5)
    _, types = Conditioning(nuclei, (9, 9)).labels((0, 0, 9, 9))
    expected = np.full((9, 9), 2)
    expected[3:6, 3:6] = 1
    assert (types == expected).all()


corners = st.tuples(st.integers(-9, 60), st.integers(-9, 70))
boxes = st.builds(
    lambda corner, size: (*corner, corner[0] + size[0], corner[1] + size[1]),
    corners,
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
)


@settings(max_examples=60)
@given(a=boxes, b=boxes, seed=st.integers(0, 3))
def test_a_pixel_does_not_depend_on_the_box(a, b, seed):
    # Hundredths and quarters, so that centres do lie on outlines.
    nuclei = random_nuclei(seed, tissue=shapely.Polygon([(5, 9), (60, 3), (40, 55)]))
    conditioning = Conditioning(nuclei, SIZE)
    both = intersect(a, b)
    for look in (partial(conditioning.planes, PLANES), conditioning.tissue):
        first = look(a)[..., *inside(both, a)]
        assert (first == look(b)[..., *inside(both, b)]).all()


def test_edges_by_hand():
    instances = np.array([[0, 0, 0, 0], [0, 1, 1, 2], [0, 1, 1, 2], [0, 1, 1, 2]])
    expected = [[0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert (edges(instances) == np.array(expected, bool)).all()
    assert not edges(np.ones((3, 4), int)).any()


def test_edges_see_beyond_the_box_but_not_beyond_an_array():
    nuclei = Nuclei.from_polygons([shapely.box(2, 2, 8, 8)], [5], mpp=0.5)
    conditioning = Conditioning(nuclei, (20, 20))
    assert conditioning.planes(("edge",), (2, 2, 8, 8)).sum() == 6 * 6 - 4 * 4
    assert edges(conditioning.labels((2, 2, 8, 8))[0]).sum() == 0


def test_planes():
    types = np.array([[0, 1, 6], [3, 255, 3]], np.uint8)
    planes = planes_of(PLANES, types, types == 3)
    assert planes.shape == (8, 2, 3) and planes.dtype == np.float32
    assert [plane.sum() for plane in planes] == [1, 0, 2, 0, 0, 1, 2, 6]
    assert planes[2, 1].tolist() == planes[6, 1].tolist() == [1, 0, 1]


def test_conditioning_is_types_and_edges_of_the_labels():
    conditioning = Conditioning(random_nuclei(1), SIZE)
    instances, types = conditioning.labels(WHOLE)
    inner = np.s_[:, 1:-1, 1:-1]
    expected = planes_of(PLANES, types, edges(instances))
    assert (conditioning.planes(PLANES, WHOLE)[inner] == expected[inner]).all()


def test_beyond_the_canvas_is_nothing():
    nuclei = Nuclei.from_polygons([shapely.box(-5, -5, 30, 30)], [2], mpp=0.5)
    conditioning = Conditioning(nuclei, (20, 20))
    epithelial, edge = conditioning.planes(("epithelial", "edge"), (-4, -4, 24, 24))
    assert epithelial.sum() == 20 * 20
    # The nucleus goes on beyond the canvas, so the canvas cuts no edge into it.
    assert edge.sum() == 0


def test_a_nucleus_that_reaches_over_the_border_ends_there():
    nuclei = Nuclei.from_polygons([shapely.box(12, 12, 26, 26)], [2], mpp=0.5)
    box = (5, 5, 30, 30)
    planes = Conditioning(nuclei, (20, 20)).planes(("epithelial", "edge", "nuclei known"), box)
    canvas = inside((5, 5, 20, 20), box)
    beyond = np.ones((25, 25), bool)
    beyond[canvas] = False
    assert not planes[:2, beyond].any() and (planes[2] == 1).all()
    assert planes[0][canvas].sum() == 8 * 8
    # Its upper and left edges, with the background's pixels beside them.
    assert planes[1][canvas].sum() == (2 * 8 - 1) + 2 * 8


@pytest.mark.parametrize("seed", range(2))
def test_planes_are_given_by_name_in_the_order_asked_for(seed):
    conditioning = Conditioning(random_nuclei(seed), SIZE)
    box = (-3, 20, 64, 80)
    every = dict(zip(PLANES, conditioning.planes(PLANES, box), strict=True))
    instances, types = conditioning.labels(box)
    for number, name in enumerate(TYPES[1:], 1):
        np.testing.assert_array_equal(every[name], types == number)
    assert every["nuclei known"].all() and every["edge"].any()
    for names in (("edge",), ("plasma", "nuclei known", "edge", "neutrophil"), ("edge", "edge")):
        found = conditioning.planes(names, box)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, [every[name] for name in names])
    assert conditioning.planes((), box).shape == (0, 67, 60)


def test_a_plane_that_nobody_can_give_is_named():
    conditioning = Conditioning(random_nuclei(0, n=1), SIZE)
    for names in (("known red",), ("edge", "known red"), ("background", "lumen")):
        with pytest.raises(PlanError, match=r"^[^\n]*a plane '(known red|background)'[^\n]*$"):
            conditioning.planes(names, WHOLE)


def test_what_is_asked_for_again_is_the_same_in_little_memory(monkeypatch):
    """Planes that users write into are theirs, and old boxes are let go of."""
    monkeypatch.setattr("nasdm_wsi.annotations.raster.CACHE_BYTES", 3 * 30 * 30)
    nuclei = random_nuclei(2, tissue=shapely.Polygon([(5, 9), (60, 3), (40, 55)]))
    kept, fresh = Conditioning(nuclei, SIZE), Conditioning(nuclei, SIZE)
    corners = [(y, x) for y in range(0, 40, 10) for x in range(0, 40, 10)]
    # Boxes of several sizes share a corner, or all but one side.
    places = [(y, x, y + 30, x + n) for n in (30, 20) for y, x in corners]
    places += [(y + 1, x, y + 30, x + 30) for y, x in corners]
    expected = {box: (fresh.planes(PLANES, box), fresh.tissue(box)) for box in places}

    def look(n: int) -> None:
        box = places[n * 7 % len(places)]
        planes, tissue = kept.planes(PLANES, box), kept.tissue(box)
        np.testing.assert_array_equal(planes, expected[box][0])
        np.testing.assert_array_equal(tissue, expected[box][1])
        planes[...], tissue[...] = 9, False
        assert kept._recent._bytes <= 3 * 30 * 30

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(look, range(300)))
    assert kept._recent._bytes == sum(array.nbytes for array in kept._recent._arrays.values()) > 0


@pytest.mark.parametrize(
    "box",
    [(0, 0, 20, 30), (0, 0, 30, 20), (10, 0, 60, 70), (0, 5, 60, 70), (0, 0, 60, 50)],
    ids=["corner", "other size", "no top", "no left", "no right"],
)
def test_a_box_is_not_taken_for_one_that_shares_its_corner_or_sides(box):
    conditioning = Conditioning(random_nuclei(1, tissue=shapely.box(9, 9, 50, 40)), SIZE)
    planes, tissue = conditioning.planes(PLANES, WHOLE), conditioning.tissue(WHOLE)
    part = inside(box, WHOLE)
    np.testing.assert_array_equal(conditioning.planes(PLANES, box), planes[:, *part])
    np.testing.assert_array_equal(conditioning.tissue(box), tissue[part])


def test_a_window_is_rasterised_once_for_all_phases(monkeypatch):
    conditioning = Conditioning(random_nuclei(2, tissue=shapely.box(0, 0, 50, 50)), SIZE)
    boxes = []
    encoded = Conditioning._encoded
    monkeypatch.setattr(
        Conditioning, "_encoded", lambda self, box: (boxes.append(box), encoded(self, box))[1]
    )
    for _ in range(3):
        conditioning.planes(PLANES, WHOLE)
        conditioning.tissue(WHOLE)
    assert len(boxes) == 1


def test_glass():
    nuclei = Nuclei.from_polygons([shapely.box(80, 80, 88, 88)], [2], mpp=0.5)
    boxes = {"nucleus": (84, 84, 90, 90), "tissue": (10, 10, 20, 20), "bare": (40, 40, 60, 60)}
    unknown = Conditioning(nuclei, (100, 100))
    assert not any(map(unknown.is_glass, boxes.values()))
    assert all(unknown.tissue(box).all() for box in boxes.values())
    outlined = Nuclei.from_polygons(
        nuclei.polygons(), nuclei.types, mpp=0.5, tissue=shapely.box(0, 0, 15.2, 30)
    )
    known = Conditioning(outlined, (100, 100))
    assert {name: known.is_glass(box) for name, box in boxes.items()} == {
        "nucleus": False,
        "tissue": False,
        "bare": True,
    }
    assert {name: known.tissue(box).sum() for name, box in boxes.items()} == {
        "nucleus": 4 * 4,
        "tissue": 10 * 5,
        "bare": 0,
    }


def test_no_nuclei_give_an_empty_mask():
    empty = Conditioning(Nuclei.from_polygons([], [], mpp=0.5), (8, 8))
    assert not empty.planes(PLANES[:-1], (0, 0, 8, 8)).any()

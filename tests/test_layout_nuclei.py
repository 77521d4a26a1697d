"""Nuclei that a network paints: the map, its decoding, and the source of layouts."""

import json
import pickle

import numpy as np
import pytest
import shapely
import tifffile
from click.testing import CliRunner
from skimage.io import imsave
from skimage.measure import regionprops

from nasdm_wsi.annotations.formats import read_contents
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.annotations.regions import Regions
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.checkpoints import read_header
from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import DatasetError
from nasdm_wsi.geometry import inside
from nasdm_wsi.layouts.colon import Colon
from nasdm_wsi.layouts.densities import Densities
from nasdm_wsi.layouts.populate import TILE
from nasdm_wsi.layouts.strip import Strip
from nasdm_wsi.layouts.writing import layout_box
from nasdm_wsi.model import Painter
from nasdm_wsi.model.layouts.conditions import amount, planes
from nasdm_wsi.model.layouts.encoding import decode, encode, outlined
from nasdm_wsi.model.layouts.painting import paint_map
from nasdm_wsi.model.layouts.source import WEIGHTS, Learned
from nasdm_wsi.model.planes import LAYOUT_PLANES, REGIONS_KNOWN
from nasdm_wsi.model.training.maps import Maps
from nasdm_wsi.model.training.train import train


@pytest.fixture(scope="module")
def labels():
    """Instances and types of a layout of adenoma, at 0.5 micrometres a pixel."""
    source = Colon(Strip(256.0, seed=5, tissue="adenoma"), seed=5)
    nuclei = layout_box(source, (0, 0, 256, 256), seed=5).scaled(0.5)
    return Conditioning(nuclei, (512, 512)).labels((0, 0, 512, 512))


def overlaps(a, b):
    """Return intersection over union of all instances of a and b, (a's, b's), from 1."""
    count = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(count, (a.ravel(), b.ravel()), 1)
    union = count.sum(axis=1)[:, None] + count.sum(axis=0) - count
    return (count / np.maximum(union, 1))[1:, 1:]


def test_a_map_keeps_nuclei_with_their_types_and_outlines(labels):
    instances, types = labels
    found, kinds = outlined(encode(instances, types, mpp=0.5))
    sizes = np.bincount(instances.ravel())[1:]
    alike = overlaps(instances, found)[sizes >= 20]
    assert len(alike) > 300
    own = [types[instances == k + 1][0] for k in np.flatnonzero(sizes >= 20)]
    same = (alike.max(axis=1) > 0.5) & (kinds[alike.argmax(axis=1)] == own)
    assert same.mean() >= 0.97
    assert alike.max(axis=1)[same].mean() >= 0.85
    assert len(kinds) <= 1.03 * len(sizes)  # none is split


@pytest.mark.parametrize("kind", range(1, len(TYPES)))
def test_an_ellipse_comes_back_with_its_place_area_and_direction(kind):
    y, x = np.mgrid[:80, :80] + 0.5
    along, across = (x - 44) * 0.8 + (y - 31) * 0.6, (y - 31) * 0.8 - (x - 44) * 0.6
    ellipse = (np.hypot(along / 14, across / 7) < 1).astype(np.int32)
    (centre,), types, (area,), (angle,) = decode(encode(ellipse, kind * ellipse, mpp=0.5))
    assert types.tolist() == [kind]
    assert centre == pytest.approx((15.5, 22), abs=0.3)
    assert area == pytest.approx(ellipse.sum() / 4, rel=0.06)
    assert np.tan(angle) == pytest.approx(0.75, abs=0.06)


def square_planes(box):
    """Epithelium right of 40 micrometres, stroma left of it."""
    numbers = (
        np.where(np.arange(box[1], box[3]) < 40, 3, 2) * np.ones(box[2] - box[0], int)[:, None]
    )
    wanted = np.zeros((6, len(TYPES)))
    wanted[2, 2], wanted[3, 6] = 8000, 3000
    return planes(numbers.astype(np.uint8), wanted)


def test_a_box_of_the_map_alone_equals_the_same_box_of_a_larger_one():
    painter = Painter(WEIGHTS, guidance=0.0, device="cpu", precision="float32")
    whole, part = (-16, -8, 88, 96), (8, 20, 48, 64)
    map_of = paint_map(painter, whole, square_planes, seed=4)
    alone = paint_map(painter, part, square_planes, seed=4)
    assert alone.std() > 0.1
    np.testing.assert_allclose(alone, map_of[:, *inside(part, whole)], atol=0.01)
    other = paint_map(painter, part, square_planes, seed=5)
    assert np.abs(other - alone).mean() > 0.05


def drawn(box):
    """A gland: epithelium round a lumen, in stroma, with muscle at the right."""
    rings = [
        shapely.box(-600, -600, 900, 900),
        shapely.box(200, -600, 900, 900),
        shapely.Point(90, 120).buffer(70),
        shapely.Point(90, 120).buffer(45),
    ]
    return Regions.from_polygons(rings, ["stroma", "muscle", "epithelium", "lumen"], mpp=1.0)


@pytest.fixture(scope="module")
def learned():
    asked = Densities.parse(["plasma=2500", "muscle:connective=900"])
    return Learned(drawn, seed=6, densities=asked)


def test_regions_get_the_nuclei_that_are_asked_for(learned):
    found = learned.nuclei((0, 0, TILE, TILE))
    plasma = (found.types == TYPES.index("plasma")).sum()
    assert plasma == pytest.approx(2500 * 0.256**2, rel=0.15)
    y, x = (found.centres).T
    in_muscle = (x >= 200) & (found.types == TYPES.index("connective"))
    assert in_muscle.sum() == pytest.approx(900 * 0.256 * 0.056, abs=2)
    depth = np.hypot(y - 120, x - 90)
    epithelial = found.types == TYPES.index("epithelial")
    assert epithelial.sum() > 50
    assert ((depth[epithelial] > 40) & (depth[epithelial] < 75)).mean() > 0.98


def test_another_process_and_another_window_give_the_same_nuclei(learned):
    whole = learned.nuclei((0, 0, TILE, TILE))
    again = pickle.loads(pickle.dumps(learned))
    box = (70, 31, 201, 140)
    alone, part = again.nuclei(box), whole.within(box)
    assert len(alone.types) > 30
    for ours, theirs in zip(alone, part, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_command_takes_the_nuclei_from_the_network(tmp_path):
    counts = {}
    for name in ("learned", "rules"):
        path = tmp_path / f"{name}.geojson"
        options = ("-o", path, "--size", 200, 160, "--nuclei", name, "--workers", 1)
        result = CliRunner().invoke(main, ["layout", *map(str, options)])
        assert result.exit_code == 0, result.output
        found = read_contents(path, mpp=0.5).nuclei
        counts[name] = shapely.get_coordinates(shapely.centroid(found.polygons()))
        assert len(found) > 10
    assert not np.isin(counts["learned"], counts["rules"]).any()


@pytest.fixture(scope="module")
def prepared(labels, tmp_path_factory):
    """A prepared dataset of one picture, of which a corner is not published."""
    folder = tmp_path_factory.mktemp("layouts") / "data"
    (folder / "a").mkdir(parents=True)
    instances, types = labels
    types = types.copy()
    types[:200, :100] = 255
    regions = np.where(np.arange(512) < 256, 2, 3)[None].repeat(512, axis=0).astype(np.uint8)
    imsave(folder / "a" / "image.png", np.full((512, 512, 3), 200, np.uint8), check_contrast=False)
    imsave(folder / "a" / "types.png", types, check_contrast=False)
    imsave(folder / "a" / "regions.png", regions, check_contrast=False)
    tifffile.imwrite(folder / "a" / "instances.tif", instances.astype(np.uint32))
    row = {"name": "a", "held_out": [[300, 300, 400, 420]], "stain_mean": [0.5, 0.4, 0.1]}
    row["stain_covariance"] = np.eye(3).tolist()
    row["labels"] = {"nuclei": "published", "regions": "pseudo"}
    manifest = {"format": 2, "mpp": 0.5, "seed": 0, "regions": [row]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_sample_shows_published_nuclei_and_says_how_many_there_are(prepared, labels):
    samples = Maps(prepared, crop=96)
    (picture,) = samples.maps
    known = picture.regions[0] > 0
    assert not known[:100, :50].any() and not known[150:200, 150:210].any()
    assert not picture.image[:, ~known].any()
    instances, types = labels
    visible = np.where(known.repeat(2, axis=0).repeat(2, axis=1), instances, 0)
    nuclei = regionprops(visible, intensity_image=types)
    right = [n for n in nuclei if n.centroid[1] >= 256 and n.intensity_max == 2]
    area = known[:, 128:].sum() / 1e6
    assert picture.densities[3, 2] * area == pytest.approx(len(right), abs=1)
    assert len(decode(picture.image).types) == pytest.approx(len(nuclei), rel=0.15)  # some are cut
    for i in range(8):
        image, told, style = samples[i]
        assert image.shape == (3, 96, 96) and told.shape == (len(LAYOUT_PLANES), 96, 96)
        blank = told[LAYOUT_PLANES.index(REGIONS_KNOWN)] == 0
        assert blank.float().mean() <= 0.5
        assert not image[:, blank].any() and not told[:, blank].any()
        density = told[LAYOUT_PLANES.index("density of epithelial")]
        stroma = told[LAYOUT_PLANES.index("stroma")] > 0
        assert np.allclose(density[stroma], amount(picture.densities[3, 2]))


def test_trained_weights_say_what_they_paint_and_paint_it(prepared, tmp_path):
    out = train(prepared, tmp_path / "run", preset="layout-nuclei", images=32)
    header, _ = read_header(out)
    assert header.mpp == 1.0 and header.planes == LAYOUT_PLANES
    painter = Painter(out, steps=2, guidance=0.0, device="cpu")
    assert np.isfinite(paint_map(painter, (0, 0, 16, 16), square_planes, seed=1)).all()


def test_a_dataset_without_regions_cannot_teach_layouts(dataset):
    with pytest.raises(DatasetError, match="no picture with labelled regions"):
        Maps(dataset, crop=96)

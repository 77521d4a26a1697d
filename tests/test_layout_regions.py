"""Glands that a network paints: the map of regions, its samples, and the source of the glands."""

import json
import pickle
from functools import partial

import numpy as np
import pytest
import shapely
import tifffile
from click.testing import CliRunner
from skimage.io import imsave

from nasdm_wsi.annotations.formats import read_contents
from nasdm_wsi.annotations.raster import Drawing
from nasdm_wsi.annotations.regions import REGIONS
from nasdm_wsi.checkpoints import read_header
from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import DatasetError
from nasdm_wsi.geometry import inside, intersect, shape
from nasdm_wsi.layouts.colon import ADENOMA, GLANDULAR, MUCOSA, STEP, STROMA, WALL, Colon
from nasdm_wsi.layouts.making import layout
from nasdm_wsi.layouts.strip import Strip
from nasdm_wsi.model.layouts.region_map import MPP, decode, encode
from nasdm_wsi.model.layouts.region_source import LearnedGlands
from nasdm_wsi.model.planes import TISSUE_PLANES
from nasdm_wsi.model.training.region_maps import RegionMaps, cleaned
from nasdm_wsi.model.training.train import train
from nasdm_wsi.tools.sources import HISTOLOGIES

NUMBER = {name: number for number, name in enumerate(REGIONS, 1)}


def overlap(a, b):
    """Return intersection over union of two masks."""
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("tissue", HISTOLOGIES)
def test_a_map_keeps_the_regions(tissue):
    box = (256, 0, 512, 384)
    regions = Colon(Strip(800.0, seed=5, tissue=tissue), seed=5).regions(box)
    labels = Drawing(regions).labels(box)[1]
    labels[~np.isin(labels, [NUMBER[n] for n in ("lumen", "epithelium", "mucus")])] = 3
    made = decode(encode(labels, mpp=1.0), finer=4)
    assert (made == labels).mean() > 0.97
    least = {"stroma": 0.97, "epithelium": 0.93, "lumen": 0.85, "mucus": 0.6}
    for name, share in least.items():
        mask = labels == NUMBER[name]
        if mask.sum() > 500:
            assert overlap(made == NUMBER[name], mask) > share, name


def test_a_disc_comes_back_with_its_area_and_its_lumen():
    y, x = np.mgrid[:400, :400] * 0.5 + 0.25
    radius = np.hypot(y - 101, x - 97)
    labels = np.where(radius < 61, NUMBER["epithelium"], NUMBER["stroma"])
    labels[radius < 30] = NUMBER["lumen"]
    image = encode(labels, mpp=0.5)
    assert image.shape == (3, 50, 50) and image.dtype == np.float32
    assert image.min() == -1 and image.max() == 1
    made = decode(image, finer=8)
    assert (made == NUMBER["lumen"]).sum() / 4 == pytest.approx(np.pi * 30**2, rel=0.02)
    assert (made != NUMBER["stroma"]).sum() / 4 == pytest.approx(np.pi * 61**2, rel=0.01)


def pictured():
    """Regions at 2 micrometres a pixel: a gland, a gland cut by the border, a crack, glass."""
    labels = np.full((200, 240), NUMBER["stroma"], np.uint8)
    labels[20:70, 20:100], labels[35:55, 35:85] = NUMBER["epithelium"], NUMBER["lumen"]
    labels[40:46, 40:60] = 0  # unknown, in a lumen
    labels[90:150, :60], labels[105:135, :40] = NUMBER["epithelium"], NUMBER["lumen"]
    labels[72:75, 20:100] = NUMBER["lumen"]  # a crack between the gland and the stroma
    labels[90:94, 150:154] = NUMBER["epithelium"]
    labels[95:105, 100:110] = NUMBER["blood"]
    labels[:, 200:] = NUMBER["lumen"]
    return labels


def test_labels_are_cleaned_of_cracks_specks_and_glass():
    labels = pictured()
    wanted = labels.copy()
    wanted[40:46, 40:60] = NUMBER["lumen"]
    for box in (np.s_[72:75, 20:100], np.s_[90:94, 150:154], np.s_[95:105, 100:110]):
        wanted[box] = NUMBER["stroma"]
    found, known = cleaned(labels, 2.0)
    np.testing.assert_array_equal(found[:, :200], wanted[:, :200])
    assert known[:, :200].all() and not known[:, 200:].any()


def written(folder, pictures):
    """Write a prepared dataset of label images at 2 micrometres a pixel."""
    rows = []
    for name, (labels, histology, held_out) in pictures.items():
        (folder / name).mkdir(parents=True)
        image = np.full((*labels.shape, 3), 200, np.uint8)
        imsave(folder / name / "image.png", image, check_contrast=False)
        imsave(folder / name / "types.png", np.zeros_like(labels), check_contrast=False)
        imsave(folder / name / "regions.png", labels, check_contrast=False)
        tifffile.imwrite(folder / name / "instances.tif", np.zeros(labels.shape, np.uint32))
        row = {"name": name, "held_out": held_out, "stain_mean": [0.5, 0.4, 0.1]}
        row["stain_covariance"] = np.eye(3).tolist()
        row["labels"] = {"nuclei": "none", "regions": "pseudo"}
        rows.append(row | {"histology": histology})
    manifest = {"format": 2, "mpp": 2.0, "seed": 0, "regions": rows}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Pictures of an adenoma, of unknown tissue, of a patient held out, and a small one."""
    labels = pictured()
    pictures = {
        "a": (labels, "adenoma", []),
        "b": (labels[::-1], "", []),
        "c": (labels, "normal", [[0, 0, *labels.shape]]),
        "d": (labels[:100], "normal", []),
    }
    return written(tmp_path_factory.mktemp("regions") / "data", pictures)


def test_a_sample_shows_glands_and_the_tissue_that_has_them(prepared):
    samples = RegionMaps(prepared, crop=80)
    assert [m.histology for m in samples.maps] == ["adenoma", ""]
    seen = set()
    for i in range(30):
        image, planes, style = samples[i]
        assert image.shape == (3, 80, 80) and planes.shape == (len(TISSUE_PLANES), 80, 80)
        glands = image[0].numpy() > 0
        assert 0.1 < glands.mean() < 0.5 and not style.any()
        normal, adenoma, carcinoma, known = planes.numpy() > 0
        assert not normal.any() and not carcinoma.any()
        seen.add(bool(known.any()))
        if known.any():
            assert known.all() and adenoma[glands].all() and not adenoma.all()
        else:
            assert not adenoma.any()
    assert seen == {True, False}


def test_a_dataset_without_room_or_regions_cannot_teach(prepared, dataset):
    for folder in (prepared, dataset):
        with pytest.raises(DatasetError, match="no picture with labelled regions has room"):
            RegionMaps(folder, crop=128)


@pytest.fixture(scope="module")
def weights(prepared, tmp_path_factory):
    return train(
        prepared, tmp_path_factory.mktemp("run") / "run", preset="layout-regions", images=32
    )


def test_trained_weights_say_what_they_paint(weights):
    header, _ = read_header(weights)
    assert header.mpp == MPP == STEP and header.planes == TISSUE_PLANES
    assert tuple(HISTOLOGIES) == ("normal", "adenoma", "carcinoma")
    assert len(GLANDULAR) == len(HISTOLOGIES)


class Ground:
    """A plan: a mucosa left of 600 micrometres, an adenoma to 1,250, then stroma."""

    def ground(self, box):
        x = box[1] + STEP * (np.arange(shape(box)[1] // STEP) + 0.5)
        line = np.select([x < 600, x < 1250], [MUCOSA, ADENOMA], STROMA).astype(np.uint8)
        return np.tile(line, (shape(box)[0] // STEP, 1))


QUICK = partial(LearnedGlands, steps=2)


def test_a_window_alone_has_the_glands_of_the_whole():
    source = Colon(Ground(), seed=2, glands=QUICK)
    other = pickle.loads(pickle.dumps(source))
    square = (384, 384, 1152, 1152)
    heights = [s._painted.heights(square) for s in (source, other)]
    for name, values in heights[0].items():
        np.testing.assert_array_equal(values, heights[1][name])
        assert values.std() > 0.1
    whole, part = (480, 480, 560, 560), (500, 470, 530, 540)
    drawn = Drawing(source.regions(whole)).labels(whole)[1]
    alone = Drawing(other.regions(part)).labels(part)[1]
    both = intersect(part, whole)
    np.testing.assert_array_equal(alone[inside(both, part)], drawn[inside(both, whole)])
    assert (drawn == NUMBER["epithelium"]).mean() > 0.02


def test_the_painter_is_told_the_tissue(weights):
    asked = []

    class Told(LearnedGlands):
        def _planes(self, box):
            asked.append((box, super()._planes(box)))
            return asked[-1][1]

    told = partial(Told, weights=weights, steps=2)
    Colon(Ground(), seed=2, glands=told)._painted.heights((384, 384, 1152, 1152))
    ((box, planes),) = asked
    x = STEP * (np.arange(box[1], box[3]) + 0.5)
    normal, adenoma, carcinoma, known = planes
    assert known.all() and not carcinoma.any()
    assert normal[:, x < 580].all() and not normal[:, x > 600].any()
    assert adenoma[:, (x > 620) & (x < 1230)].all() and not adenoma[:, (x < 600) | (x > 1250)].any()


def test_maps_of_two_blocks_agree_where_they_overlap():
    def tissue(box):
        return np.ones([side // STEP for side in shape(box)], np.uint8)

    glands = LearnedGlands(tissue, seed=4, steps=4)
    left, right = (glands.heights(box) for box in ((0, 0, 512, 640), (0, 384, 512, 1024)))
    for name, values in left.items():
        beside = right[name][:, : 256 // STEP]
        apart = np.abs(values[:, -256 // STEP :] - beside)
        assert values.std() > 0.5 and apart.mean() < 0.1 and apart.max() < 1, name
    assert (left["epithelium"] > left["lumen"]).mean() > 0.9


def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path):
    made = []
    for workers in (1, 2):
        path = tmp_path / f"{workers}.geojson"
        layout(path, (260, 1100), mpp=1.0, tissue="carcinoma", glands=QUICK, workers=workers)
        made.append(path.read_bytes())
    assert made[0] == made[1]


def test_the_command_takes_the_glands_from_the_network(tmp_path):
    drawn = {}
    for name in ("learned", "rules"):
        path = tmp_path / f"{name}.geojson"
        options = ("--size", 300, 300, "--mpp", 1, "--nuclei", "rules", "--workers", 1)
        arguments = ["layout", "-o", path, *options, "--glands", name]
        result = CliRunner().invoke(main, list(map(str, arguments)))
        assert result.exit_code == 0, result.output
        regions = read_contents(path, mpp=1.0).nuclei.regions
        drawn[name] = Drawing(regions).labels((0, 0, 300, 300))[1]
    for labels in drawn.values():
        assert 0.1 < np.isin(labels, (NUMBER["epithelium"], NUMBER["mucus"])).mean() < 0.7
    assert 0.1 < (drawn["learned"] != drawn["rules"]).mean() < 0.7


class Discs:
    """Glands as discs of 80 micrometres every 200, lumens in them, and a speck in the stroma."""

    def __init__(self, tissue, *, seed):
        pass

    def heights(self, box):
        h, w = (side // STEP for side in shape(box))
        y = box[0] + STEP * (np.arange(h) + 0.5)[:, None]
        x = box[1] + STEP * (np.arange(w) + 0.5)
        depth = 80 - np.hypot((y + 100) % 200 - 100, (x + 100) % 200 - 100)
        speck = 10 - np.hypot(y - 300, x - 100)
        return {
            "epithelium": np.maximum(depth, speck).astype(np.float32),
            "lumen": (depth - 20).astype(np.float32),
            "mucus": np.full((h, w), -8, np.float32),
        }


def test_painted_glands_are_drawn_whole_across_squares_and_end_with_their_tissue():
    source = Colon(Ground(), seed=2, glands=Discs)
    box = (100, 900, 700, 1400)
    named = {}
    found = source.regions(box)
    for polygon, number in zip(found.polygons(), found.types, strict=True):
        named.setdefault(REGIONS[number - 1], []).append(polygon)
    epithelium, lumens = (shapely.union_all(named[n]) for n in ("epithelium", "lumen"))
    across = shapely.Point(1000, 400).buffer(95)  # lies over the borders of two squares
    whole = epithelium.intersection(across)
    assert whole.area == pytest.approx(np.pi * 80**2, rel=0.01) and whole.geom_type == "Polygon"
    assert lumens.intersection(across).area == pytest.approx(np.pi * 60**2, rel=0.01)
    end = 1250 - epithelium.bounds[2]
    assert 0 <= end <= 8
    assert 1250 - lumens.bounds[2] == pytest.approx(end + WALL, abs=2)
    assert not epithelium.intersects(shapely.Point(1100, 300))


def test_specks_are_left_out():
    found = Colon(Ground(), seed=2, glands=Discs).regions((250, 50, 350, 150))
    epithelium = found.take(np.flatnonzero(found.types == NUMBER["epithelium"]))
    union = shapely.union_all(epithelium.polygons())
    assert union.area > 0 and not union.intersects(shapely.Point(100, 300).buffer(15))

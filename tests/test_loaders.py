"""Exported training sets, read by the loaders of the packages that are trained on them.

A test is skipped where its package is not installed; docs/training_set.md says how to install them.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import labelled_tissue
from PIL import Image
from skimage.io import imread

from nasdm_wsi.annotations.geojson import write_geojson
from nasdm_wsi.annotations.labels import from_labels
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.tools.export import export

SIZE, SIDE = (160, 320), 160

pytestmark = pytest.mark.filterwarnings("default")  # of the other packages


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A picture with nuclei of all types beside it."""
    path = tmp_path_factory.mktemp("slide") / "slide.png"
    image, instances, types = labelled_tissue(SIZE, seed=4)
    Image.fromarray(image).save(path)
    write_geojson(path.with_suffix(".geojson"), from_labels(instances, types, mpp=0.5))
    return path


@pytest.fixture(scope="module")
def tiles(slide):
    """Name to image, instances and types (h, w) of the two tiles."""
    image, instances, types = labelled_tissue(SIZE, seed=4)
    nuclei = from_labels(instances, types, mpp=0.5)
    drawn, kinds = Conditioning(nuclei, SIZE).labels((0, 0, *SIZE))
    halves = {f"slide_x{x}_y0": np.s_[:, x : x + SIDE] for x in (0, SIDE)}
    return {name: (image[half], drawn[half], kinds[half]) for name, half in halves.items()}


def exported(slide, out, form):
    export(slide, out, form=form, mpp=0.5, tile=SIDE)
    return out


def assert_same_instances(a, b):
    """Both show the same instances, whatever their numbers."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(a)) == len(np.unique(b))
    assert (pairs == 0).all(0).sum() == 1


def test_cellpose_loads_the_masks(slide, tiles, tmp_path):
    io = pytest.importorskip("cellpose.io")
    folder = exported(slide, tmp_path / "set", "masks")
    images, labels, names, *_ = io.load_train_test_data(str(folder), mask_filter="_masks")
    assert [Path(name).stem for name in names] == sorted(tiles)
    for name, image, label in zip(names, images, labels, strict=True):
        expected, instances, _ = tiles[Path(name).stem]
        np.testing.assert_array_equal(image, expected)
        assert_same_instances(label, instances)


def test_stardist_trains_on_the_masks(slide, tiles, tmp_path):
    pytest.importorskip("tensorflow")
    models = pytest.importorskip("stardist.models")
    stardist = pytest.importorskip("stardist")
    folder = exported(slide, tmp_path / "set", "masks")
    masks = [imread(folder / f"{name}_masks.png") for name in sorted(tiles)]
    images = [imread(folder / f"{name}.png") / 255 for name in sorted(tiles)]
    filled = [stardist.fill_label_holes(mask) for mask in masks]
    data = models.StarDistData2D(
        *(images, filled, 1, 32, 2),
        patch_size=(SIDE, SIDE),
        shape_completion=False,
        sample_ind_cache=False,
        foreground_prob=0,
    )
    for (image,), (inside, distances) in (data[k] for k in range(2)):
        (name,) = (n for n, (rgb, *_) in tiles.items() if np.allclose(image[0], rgb / 255))
        _, instances, types = tiles[name]
        np.testing.assert_array_equal(inside[0, ..., 0] > 0, types > 0)
        # The distances along 32 rays from a pixel give back the nucleus around it.
        rays = distances[0, ..., :32]
        for number in np.unique(instances)[1:4]:
            nucleus = instances == number
            y, x = (int(n) for n in np.argwhere(nucleus).mean(0).round())
            outline = stardist.geometry.dist_to_coord(rays[y, x][None], np.array([[y, x]]))
            again = stardist.geometry.polygons_to_label_coord(outline, nucleus.shape) > 0
            assert (again & nucleus).sum() > 0.85 * (again | nucleus).sum()


@pytest.fixture
def hovernet(monkeypatch):
    """The folder of HoVer-Net, whose modules import each other from there."""
    package = pytest.importorskip("hover_net")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(package.__path__[0])
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("dataset", "dataloader", "misc", "models"):
            del sys.modules[name]


def test_hovernet_loads_patches_of_the_tiles(hovernet, slide, tiles, tmp_path):
    from dataloader.train_loader import FileLoader
    from dataset import get_dataset
    from misc.patch_extractor import PatchExtractor
    from models.hovernet.targets import gen_targets

    parser, window, centre = get_dataset("consep"), (270, 270), (80, 80)
    # Its parser of CoNSeP merges that dataset's classes, and says to edit this for others.
    merged = np.array([0, 1, 2, 3, 3, 4, 4])
    folder = exported(slide, tmp_path / "set", "lizard")
    for name, (image, instances, types) in tiles.items():
        rgb = parser.load_img(str(folder / "images" / f"{name}.png"))
        labels = parser.load_ann(str(folder / "labels" / f"{name}.mat"), with_type=True)
        np.testing.assert_array_equal(rgb, image)
        assert_same_instances(labels[..., 0], instances)
        np.testing.assert_array_equal(labels[..., 1], merged[types])
        patches = PatchExtractor(window, centre).extract(np.dstack([rgb, labels]), "mirror")
        np.save(tmp_path / f"{name}.npy", patches[0])
        loader = FileLoader(
            [tmp_path / f"{name}.npy"],
            with_type=True,
            input_shape=window,
            mask_shape=centre,
            mode="valid",
            target_gen=(gen_targets, {}),
        )
        sample = loader[0]
        np.testing.assert_array_equal(sample["tp_map"], merged[types][:80, :80])
        np.testing.assert_array_equal(sample["np_map"], types[:80, :80] > 0)

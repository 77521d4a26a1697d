import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import labelled_tissue
from skimage.io import imread, imsave
from skimage.transform import downscale_local_mean

from nasdm_wsi.annotations.raster import edges
from nasdm_wsi.annotations.types import PLANES
from nasdm_wsi.errors import DatasetError, OutputError
from nasdm_wsi.model.training.data import Crops, Patches, draws
from nasdm_wsi.slides.stain import restain, style_vector
from nasdm_wsi.tools.dataset import at_mpp, dataset_mpp, read_manifest, read_regions
from nasdm_wsi.tools.prepare import prepare


def test_regions_are_what_the_sources_hold(dataset):
    regions = {r.name: r for r in read_regions(dataset)}
    assert sorted(regions) == ["a", "b", "c"]
    image, instances, types = labelled_tissue((160, 200), seed=0)
    np.testing.assert_array_equal(regions["a"].image, image)
    np.testing.assert_array_equal(regions["a"].types, types)
    np.testing.assert_array_equal(regions["a"].instances, instances)
    np.testing.assert_allclose(regions["a"].stain.style, style_vector(image), rtol=1e-5)
    assert (regions["c"].types[:60, :60] == 255).all()
    assert not regions["c"].instances[:60, :60].any()


def test_the_manifest_counts_nuclei(dataset):
    row = next(r for r in read_manifest(dataset)["regions"] if r["name"] == "a")
    _, instances, types = labelled_tissue((160, 200), seed=0)
    _, first = np.unique(instances, return_index=True)
    counts = np.bincount(types.flat[first[1:]], minlength=7)[1:]
    assert list(row["nuclei"].values()) == counts.tolist()
    assert list(row["nuclei"])[0] == "neutrophil"


def test_held_out_rectangles_are_published_and_depend_on_seed_and_name_alone(
    dataset, lizard_source, tmp_path
):
    for region in read_regions(dataset):
        ((y0, x0, y1, x1),) = region.held_out
        published = (region.types != 255).sum()
        assert (y1 - y0) * (x1 - x0) == pytest.approx(0.075 * published, rel=0.03)
        assert (region.types[y0:y1, x0:x1] != 255).all()
    alone = prepare([lizard_source], tmp_path / "alone")
    other = prepare([lizard_source], tmp_path / "other", seed=1)
    together = {r["name"]: r["held_out"] for r in read_manifest(dataset)["regions"]}
    assert {r["name"]: r["held_out"] for r in alone}.items() <= together.items()
    assert [r["held_out"] for r in other] != [r["held_out"] for r in alone]


def test_crops_touch_neither_unpublished_nor_held_out_pixels(dataset):
    """Forbidden pixels are painted green: no crop may show any."""
    crops = Crops(dataset, crop=48)
    for k, region in enumerate(crops.regions):
        image = region.image.copy()
        image[~region.usable] = [0, 255, 0]
        object.__setattr__(crops.regions[k], "image", image)
    for i in range(300):
        pixels, mask, _ = crops[i]
        green = (pixels[1] > 0.9) & (pixels[0] < -0.9)
        assert not green.any()
        assert mask.shape == (8, 48, 48) and (mask[7] == 1).all()
        assert (mask[:6].sum(0) <= 1).all()


def test_edges_of_a_crop_are_those_of_the_region(dataset):
    """A nucleus that the crop cuts has no edge along the cut, as it has none in the slide."""
    crops = Crops(dataset, crop=32)
    whole = [edges(region.instances) for region in crops.regions]
    unlike = 0
    for i in range(40):
        rng = np.random.default_rng([crops.seed, i])
        k, y, x = crops._place(rng, crops.share, rare_types=crops.rare_types)
        cut = np.s_[y : y + 32, x : x + 32]
        edge = crops[i].planes[PLANES.index("edge")].numpy() > 0
        turned = {
            np.rot90(whole[k][cut], turn)[:, ::flip].tobytes()
            for turn in range(4)
            for flip in (1, -1)
        }
        assert edge.tobytes() in turned
        unlike += (edges(crops.regions[k].instances[cut]) != whole[k][cut]).any()
    assert unlike > 20  # there is something to tell


def test_a_crop_is_a_function_of_seed_and_index(dataset):
    a, b = Crops(dataset, crop=32, seed=1), Crops(dataset, crop=32, seed=1)
    b[5]
    for x, y in zip(a[9], b[9], strict=True):
        assert (x == y).all()
    assert not (a[9][0] == Crops(dataset, crop=32, seed=2)[9][0]).all()


def test_mask_and_pixels_are_turned_together(dataset):
    """Nuclei are dark: where the mask has one, pixels are darker, whichever way the crop lies."""
    crops = Crops(dataset, crop=48)
    for i in range(50):
        pixels, mask, _ = crops[i]
        nucleus = mask[:6].sum(0) > 0
        assert pixels[1][nucleus].mean() < pixels[1][~nucleus].mean() - 0.3


def test_rare_types_are_met_more_often_than_by_area(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    image, _, types = labelled_tissue((400, 400), seed=3)
    rare = np.zeros_like(types)
    rare[8:18, 8:18] = 5
    types = np.where(rare, 5, np.where(types == 5, 2, types)).astype(np.uint8)
    imsave(folder / "x.png", image)
    imsave(folder / "x_classes.png", types, check_contrast=False)
    prepare([folder], tmp_path / "d", held_out=0.01)

    def share(rare_types):
        crops = Crops(tmp_path / "d", crop=32, rare_types=rare_types)
        return np.mean([crops[i][1][4].any().item() for i in range(300)])

    assert share(0.0) < 0.02
    assert share(1.0) > 0.1


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: shutil.rmtree(f / "labels"), "neither images"),
        (lambda f: (f / "labels" / "a.mat").unlink(), "a.png: its labels a.mat are missing"),
        (lambda f: (f / "images" / "a.png").write_bytes(b"no"), "cannot be read"),
        (lambda f: imsave(f / "images" / "a.png", np.zeros((9, 9, 3), np.uint8),
                          check_contrast=False), "do not fit"),
    ],
)  # fmt: skip
def test_bad_sources_are_named_and_leave_no_dataset(lizard_source, tmp_path, spoil, message):
    source = shutil.copytree(lizard_source, tmp_path / "source")
    spoil(source)
    with pytest.raises(DatasetError, match=message) as caught:
        prepare([source], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    shutil.rmtree(source)
    shutil.copytree(lizard_source, source)
    assert len(prepare([source], tmp_path / "out")) == 2  # what the failure left does no harm


def test_types_with_colours_are_refused(region_source, tmp_path):
    source = shutil.copytree(region_source, tmp_path / "source")
    types = imread(source / "c_classes.png")
    imsave(source / "c_classes.png", np.dstack([types] * 3), check_contrast=False)
    with pytest.raises(DatasetError, match="c_classes.png has 3 channels: save the types as one"):
        prepare([source], tmp_path / "out")


def test_pictures_without_tissue_are_left_out_with_a_warning(lizard_source, tmp_path, caplog):
    source = shutil.copytree(lizard_source, tmp_path / "source")
    glass = np.full((160, 200, 3), 255, np.uint8)
    imsave(source / "images" / "a.png", glass, check_contrast=False)
    assert [row["name"] for row in prepare([source], tmp_path / "out")] == ["b"]
    assert [region.name for region in read_regions(tmp_path / "out")] == ["b"]
    assert "a.png is left out: no tissue" in caplog.text
    imsave(source / "images" / "b.png", glass, check_contrast=False)
    with pytest.raises(DatasetError, match="no picture has tissue"):
        prepare([source], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_existing_damaged_and_foreign_datasets_are_refused(dataset, lizard_source, tmp_path):
    with pytest.raises(OutputError, match="exists"):
        prepare([lizard_source], dataset)
    with pytest.raises(DatasetError, match="two pictures are called 'a'"):
        prepare([lizard_source, lizard_source], tmp_path / "twice")
    with pytest.raises(DatasetError, match="no picture 'z' to exclude"):
        prepare([lizard_source], tmp_path / "out", exclude=("z",))
    assert [r["name"] for r in prepare([lizard_source], tmp_path / "b", exclude=("a",))] == ["b"]
    with pytest.raises(DatasetError, match="not a prepared dataset"):
        read_manifest(tmp_path)
    copy = shutil.copytree(dataset, tmp_path / "copy")
    (copy / "a" / "types.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="damaged"):
        list(read_regions(copy))
    (copy / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(DatasetError, match="format 99"):
        read_manifest(copy)
    with pytest.raises(DatasetError, match="no region has room"):
        Crops(dataset, crop=512)
    assert imread(dataset / "c" / "types.png").max() == 255


def test_patches_of_the_paper_cover_what_is_usable_with_half_overlap(dataset):
    patches = Patches(dataset, side=32)
    for region in read_regions(dataset):
        h, w = region.types.shape
        starts = [sorted({*range(0, n - 31, 16), n - 32}) for n in (h, w)]
        expected = [
            (y, x)
            for y in starts[0]
            for x in starts[1]
            if region.usable[y : y + 32, x : x + 32].all()
        ]
        assert [(y, x) for r, _, y, x in patches.places if r.name == region.name] == expected
    seen = [patches[i] for i in range(len(patches))]
    assert len({s[0].numpy().tobytes() for s in seen}) == len(patches)  # each one once
    again = [patches[len(patches) + i][0] for i in range(5)]
    assert not all(torch.equal(a, s[0]) for a, s in zip(again, seen, strict=False))


@pytest.mark.parametrize("magnification, step", [(20, 1), (10, 2)])
def test_a_patch_is_the_region_or_half_of_it(dataset, magnification, step):
    patches = Patches(dataset, side=32, magnification=magnification)
    order = np.random.default_rng([0, 0]).permutation(len(patches))
    for index in range(4):
        region, _, y, x = patches.places[order[index]]
        pixels, mask, _ = patches[index]
        cut = np.s_[y : y + 32 * step, x : x + 32 * step]
        halved = downscale_local_mean(region.image[cut].astype(float), (step, step, 1))
        np.testing.assert_allclose(pixels, halved.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)
        types, whole = region.types[cut][::step, ::step], edges(region.instances[::step, ::step])
        np.testing.assert_array_equal(mask[:6].argmax(0)[types > 0] + 1, types[types > 0])
        assert (mask[:6].sum(0).numpy() == (types > 0)).all() and mask[7].all()
        if y % step == x % step == 0:
            inner = np.s_[y // step : y // step + 32, x // step : x // step + 32]
            np.testing.assert_array_equal(mask[6], whole[inner])


def test_what_training_draws_does_not_depend_on_how_samples_are_shared():
    whole = draws(3, range(10, 18), (3, 8, 8))
    halves = [draws(3, range(10, 14), (3, 8, 8)), draws(3, range(14, 18), (3, 8, 8))]
    for a, b, both in zip(*halves, whole, strict=True):
        assert torch.equal(torch.cat([a, b]), both)
    level, _, noise = draws(0, range(4000), (1, 2, 2))
    assert abs(level.mean() - 0.5) < 0.02 and abs(noise.std() - 1) < 0.02


def test_normalised_sources_have_the_stain_of_the_target(lizard_source, region_source, tmp_path):
    image, *_ = labelled_tissue((300, 300), seed=5)
    target = restain(image, np.diag([0.6, 1.5, 1.0]))
    imsave(tmp_path / "target.png", target)
    seen = []
    prepare(
        [lizard_source, region_source],
        tmp_path / "data",
        normalise_to=tmp_path / "target.png",
        progress=lambda *told: seen.append(told),
    )
    assert seen[:2] == [("fitting stains", 1, 2), ("fitting stains", 2, 2)]
    assert read_manifest(tmp_path / "data")["normalised"]["backend"] == "vahadane"
    wanted = style_vector(target)
    for region in read_regions(tmp_path / "data"):
        known = region.types != 255
        np.testing.assert_allclose(style_vector(region.image[known])[:2], wanted[:2], atol=0.05)
        assert (region.image[~known] == 0).all()


def spoiled(dataset, out, change):
    """A copy of a dataset whose manifest is changed."""
    shutil.copytree(dataset, out)
    manifest = json.loads((out / "manifest.json").read_text())
    change(manifest)
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def test_each_region_keeps_its_pixel_size(lizard_source, tmp_path):
    prepare([lizard_source], tmp_path / "d", mpp=0.25)
    assert {region.mpp for region in read_regions(tmp_path / "d")} == {0.25}
    assert dataset_mpp(tmp_path / "d") == Crops(tmp_path / "d", crop=32).mpp == 0.25
    assert Patches(tmp_path / "d", side=32, magnification=10).mpp == 0.5
    for mpp in (0, -1, float("nan"), 1e6):
        with pytest.raises(DatasetError, match="micrometres"):
            prepare([lizard_source], tmp_path / "x", mpp=mpp)


def test_a_manifest_from_before_regions_had_pixel_sizes_is_read(dataset, tmp_path):
    def older(manifest):
        for row in manifest["regions"]:
            del row["mpp"]

    old = spoiled(dataset, tmp_path / "old", older)
    assert dataset_mpp(old) == 0.5 and len(list(read_regions(old))) == 3


def test_regions_of_several_pixel_sizes_are_no_dataset_to_train_on(dataset, tmp_path):
    mixed = spoiled(dataset, tmp_path / "d", lambda m: m["regions"][1].update(mpp=0.25))
    for samples in (Crops, Patches):
        with pytest.raises(DatasetError, match="0.25 and 0.5 micrometres"):
            samples(mixed, **{"crop" if samples is Crops else "side": 32})


def test_a_region_is_halved_with_its_labels(dataset):
    region = next(r for r in read_regions(dataset) if r.name == "c")
    region = replace(region, regions=region.types % 3)
    small = at_mpp(region, 1.0)
    assert small.mpp == 1.0 and at_mpp(region, 0.5) is region
    means = downscale_local_mean(region.image.astype(float), (2, 2, 1))
    np.testing.assert_allclose(small.image, means, atol=0.5)
    for name in ("types", "instances", "regions"):
        np.testing.assert_array_equal(getattr(small, name), getattr(region, name)[::2, ::2])
    assert small.held_out == tuple(tuple(n // 2 for n in box) for box in region.held_out)
    for mpp in (0.25, 0.7):
        with pytest.raises(DatasetError, match="cannot be brought"):
            at_mpp(region, mpp)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["regions"][0].pop("held_out"),
        lambda m: m["regions"][0].update(held_out=[[1, 2]]),
        lambda m: m["regions"][0].pop("name"),
        lambda m: m["regions"][0].update(name=7),
        lambda m: m["regions"][0].update(mpp="wide"),
        lambda m: m["regions"][0].update(stain_mean=None),
        lambda m: m.pop("regions"),
        lambda m: m.update(regions=[1]),
        lambda m: m.update(regions=5),
    ],
)
def test_a_damaged_manifest_is_told_in_one_line(dataset, tmp_path, change):
    with pytest.raises(DatasetError, match=r"/d(:| is) [^\n]+: (prepare|make)[^\n]*$"):
        list(read_regions(spoiled(dataset, tmp_path / "d", change)))


def test_labels_of_another_size_than_the_picture_are_told(dataset, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "d")
    imsave(copy / "a" / "types.png", np.zeros((9, 9), np.uint8), check_contrast=False)
    with pytest.raises(DatasetError, match="a is damaged"):
        list(read_regions(copy))
    shutil.rmtree(copy)
    shutil.copytree(dataset, copy)
    data = (copy / "a" / "instances.tif").read_bytes()
    (copy / "a" / "instances.tif").write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match="a is damaged"):
        list(read_regions(copy))

"""Folders of labelled pictures in the layouts that people have them in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import labelled_tissue
from PIL import Image
from scipy.io import savemat

from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import AnnotationError, DatasetError
from nasdm_wsi.tools.dataset import read_manifest, read_regions
from nasdm_wsi.tools.labelling import read_rgb
from nasdm_wsi.tools.prepare import prepare

SIZE = (60, 80)


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labelled_tissue(SIZE, seed=seed)[0]).save(path)


def mat(path: Path, seed: int) -> None:
    """Lizard's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, instances, types = labelled_tissue(SIZE, seed=seed)
    ids, first = np.unique(instances, return_index=True)
    classes = types.flat[first[1:]][:, None]
    savemat(path, {"inst_map": instances, "id": ids[1:, None], "class": classes})


def lizard_as_downloaded(folder: Path, *, nested: bool, info: str) -> Path:
    """Three archives, unpacked; some programs put each into a folder of its name."""
    first, second, labels = ("lizard_images1", "lizard_images2", "lizard_labels")
    inner = ("Lizard_Images1", "Lizard_Images2", "Lizard_Labels")
    one, two, three = (
        folder / outer / name if nested else folder / name
        for outer, name in zip((first, second, labels), inner, strict=True)
    )
    picture(one / "consep_1.png", 0)
    picture(one / "crag_2.png", 1)
    picture(two / "glas_3.png", 2)
    for seed, name in enumerate(("consep_1", "crag_2", "glas_3")):
        mat(three / "Labels" / f"{name}.mat", seed)
    (three / "info.csv").write_text(info)
    (folder / "__MACOSX" / inner[0]).mkdir(parents=True)
    (folder / "__MACOSX" / inner[0] / "._crag_2.png").write_bytes(b"")
    return folder


INFO = "Filename,Source,Split\nconsep_1,consep,1\ncrag_2,crag,2\nglas_3,glas,3\n"


@pytest.mark.parametrize("nested", [True, False])
def test_lizard_as_downloaded_goes_straight_in(tmp_path, nested):
    source = lizard_as_downloaded(tmp_path / "lizard", nested=nested, info=INFO)
    prepare([source], tmp_path / "all")
    rows = read_manifest(tmp_path / "all")["regions"]
    assert [(r["name"], r["fold"]) for r in rows] == [("consep_1", 1), ("crag_2", 2), ("glas_3", 3)]
    for seed, region in enumerate(read_regions(tmp_path / "all")):
        image, instances, types = labelled_tissue(SIZE, seed=seed)
        np.testing.assert_array_equal(region.image, image)
        np.testing.assert_array_equal(region.types, types)
        np.testing.assert_array_equal(region.instances, instances)


def test_fold_takes_the_pictures_of_a_fold(tmp_path):
    source = lizard_as_downloaded(tmp_path / "lizard", nested=True, info=INFO)
    command = ["prepare", str(source), "-o", str(tmp_path / "d"), "--fold", "1", "--fold", "3"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert [r["name"] for r in read_manifest(tmp_path / "d")["regions"]] == ["consep_1", "glas_3"]
    with pytest.raises(DatasetError, match="there is no fold 4: `folds` are those of info.csv"):
        prepare([source], tmp_path / "e", folds=(4,))


def test_an_info_csv_with_other_columns_is_named(tmp_path):
    source = lizard_as_downloaded(tmp_path / "lizard", nested=True, info="a,b\n1,2\n")
    with pytest.raises(DatasetError, match="info.csv: columns Filename and Split are needed"):
        prepare([source], tmp_path / "d")


def test_pictures_may_have_any_suffix_in_capitals_or_not(tmp_path):
    for seed, name in enumerate(("a.PNG", "b.png", "c.tif", "d.TIFF", "e.bmp")):
        picture(tmp_path / "s" / "images" / name, seed)
        mat(tmp_path / "s" / "labels" / f"{name[0]}.mat", seed)
    prepare([tmp_path / "s"], tmp_path / "d")
    assert [r.name for r in read_regions(tmp_path / "d")] == list("abcde")


def test_labels_without_picture_and_names_that_are_taken_twice_are_named(tmp_path):
    images, labels = tmp_path / "s" / "images", tmp_path / "s" / "labels"
    picture(images / "a.png", 0)
    for name in ("a", "b", "c"):
        mat(labels / f"{name}.mat", 0)
    with pytest.raises(DatasetError, match=r"b.mat has no picture \(2 such labels\): add it as"):
        prepare([tmp_path / "s"], tmp_path / "d")
    for name in ("b.png", "c.png", "c.tif"):
        picture(images / name, 0)
    with pytest.raises(DatasetError, match="c.png and .*c.tif have one name: remove one of them"):
        prepare([tmp_path / "s"], tmp_path / "d")


def test_numbers_of_hovernet_and_consep_are_named_by_the_user(tmp_path):
    _, instances, types = labelled_tissue(SIZE, seed=0)
    picture(tmp_path / "s" / "images" / "a.png", 0)
    (tmp_path / "s" / "labels").mkdir()
    maps = {"inst_map": instances.astype(float), "type_map": types.astype(float)}
    savemat(tmp_path / "s" / "labels" / "a.mat", {**maps, "inst_type": [[1.0]]})
    with pytest.raises(AnnotationError, match="a.mat: no nucleus type is known for class"):
        prepare([tmp_path / "s"], tmp_path / "d")
    options = [f"--class-map={k}=plasma" for k in range(1, 6)] + ["--ignore-class", "6"]
    command = ["prepare", str(tmp_path / "s"), "-o", str(tmp_path / "d"), *options]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    (region,) = read_regions(tmp_path / "d")
    expected = np.where(types == 6, 255, np.where(types > 0, 4, 0))
    np.testing.assert_array_equal(region.types, expected)
    np.testing.assert_array_equal(region.instances, np.where(types == 6, 0, instances))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_a_picture_of_other_colours_is_refused(tmp_path, mode):
    Image.new(mode, (8, 8)).save(tmp_path / "a.tif")
    with pytest.raises(DatasetError, match=f"its colours are {mode}: convert it to RGB"):
        read_rgb(tmp_path / "a.tif")

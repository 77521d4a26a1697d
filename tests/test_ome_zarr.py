"""OME-Zarr, through its reference models and plain zarr, against a plain numpy mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from helpers import DESCRIPTION, SETTINGS, SIZES, Failing, mean_of_four, tissue
from ome_zarr_models import v04
from ome_zarr_models.v05 import Image, ImageLabel, Labels

from nasdm_wsi.errors import OutputError, SlideError
from nasdm_wsi.model import Painter
from nasdm_wsi.rendering import plan_render, read_annotations, render, render_region
from nasdm_wsi.slides import ome_zarr
from nasdm_wsi.slides.formats import format_of
from nasdm_wsi.slides.reading import open_slide
from nasdm_wsi.tools.export import export
from nasdm_wsi.tools.info import describe


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "slide.ome.zarr"


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("width", [301, 1100])  # one shard a row, and three, then two
def test_levels_scales_and_channels(target, width):
    image = tissue(203, width)
    ome_zarr.write(target, image, **SETTINGS)
    group = zarr.open_group(target, mode="r")
    assert group.attrs["description"] == DESCRIPTION
    ome = Image.from_zarr(group).attributes.ome
    (multiscale,) = ome.multiscales
    assert [(a.name, a.type, a.unit) for a in multiscale.axes] == [
        ("c", "channel", None),
        ("y", "space", "micrometer"),
        ("x", "space", "micrometer"),
    ]
    assert [c["color"] for c in ome.omero["channels"]] == ["FF0000", "00FF00", "0000FF"]
    expected = image
    for k, dataset in enumerate(multiscale.datasets):
        (transformation,) = dataset.coordinateTransformations
        assert transformation.scale == [1, 0.5 * 2**k, 0.5 * 2**k]
        level = group[dataset.path]
        assert level.chunks == (1, 64, 64) and level.metadata.dimension_names == ("c", "y", "x")
        np.testing.assert_array_equal(np.moveaxis(level[:], 0, -1), expected)
        expected = mean_of_four(expected)
    assert max(level.shape) <= 64 < 2 * max(level.shape)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
def test_labels_take_every_second_pixel(target, dtype):
    labels = np.arange(150 * 97).reshape(150, 97).astype(dtype)
    ome_zarr.write(target, labels, **SETTINGS)
    group = zarr.open_group(target, mode="r")
    assert len(ImageLabel.from_zarr(group).attributes.ome.multiscales[0].datasets) == 3
    for level in range(3):
        np.testing.assert_array_equal(group[str(level)][:], labels[:: 2**level, :: 2**level])


def test_version_04_has_its_metadata_and_the_same_pixels(target):
    path, image = target.with_name("slide.v04.ome.zarr"), tissue(203, 301)
    format_of(path).write(path, image, **SETTINGS)
    group = zarr.open_group(path, mode="r", zarr_format=2)
    assert group.attrs["description"] == DESCRIPTION
    attributes = v04.Image.from_zarr(group).attributes
    (multiscale,) = attributes.multiscales
    assert multiscale.version == "0.4" and len(multiscale.datasets) == 4
    assert [c.color for c in attributes.omero.channels] == ["FF0000", "00FF00", "0000FF"]
    expected = image
    for dataset in multiscale.datasets:
        level = group[dataset.path]
        assert level.chunks == (3, 64, 64)  # a file holds a tile with all its channels
        np.testing.assert_array_equal(np.moveaxis(level[:], 0, -1), expected)
        expected = mean_of_four(expected)
    assert (path / "0/0/3/4").is_file()  # nested, as 0.4 asks for
    with open_slide(path) as slide:
        assert slide.mpp == 0.5 and slide.description == DESCRIPTION
        np.testing.assert_array_equal(slide.read((0, 0, 203, 301), mpp=0.5), image)


@pytest.mark.parametrize("name", ["slide.ome.zarr", "slide.v04.ome.zarr"])
def test_labels_in_an_image_are_listed_there_and_change_nothing_else(name, annotations, tmp_path):
    slide = tmp_path / name
    format_of(slide).write(slide, tissue(150, 200), mpp=0.5, description="")
    older = files(slide)
    for form in ("types", "instances"):
        export(slide, slide / "labels" / form, form=form, labels=annotations, mpp=0.25)
    now = files(slide)
    assert older == {path: now[path] for path in older}
    assert all(path.startswith("labels/") for path in now.keys() - older.keys())
    group = zarr.open_group(slide / "labels", mode="r")
    model = Labels if slide.name == "slide.ome.zarr" else v04.Labels
    found = model.from_zarr(group).attributes
    assert getattr(found, "ome", found).labels == ["types", "instances"]
    assert set(np.unique(group["types/0"][:])) == set(range(7))
    told = group["types"].attrs.asdict()
    assert told.get("ome", told)["image-label"]["source"] == {"image": "../../"}
    with pytest.raises(OutputError, match="types is a part of the input"):
        export(slide, slide / "labels/types", form="types", labels=annotations, mpp=0.25)
    nothing = tmp_path / "none.ome.zarr"
    nothing.mkdir()
    with pytest.raises(SlideError, match="none.ome.zarr: is not an OME-Zarr image"):
        export(slide, nothing / "labels/types", form="types", labels=annotations, mpp=0.25)
    assert not list(nothing.iterdir())


def test_an_older_one_is_replaced_by_the_same_bytes(target):
    image = tissue(*SIZES[0])
    ome_zarr.write(target, image, **SETTINGS)
    first = files(target)
    (target / "stray").write_text("of the older one")
    ome_zarr.write(target, image, **SETTINGS)
    assert files(target) == first
    assert list(target.parent.iterdir()) == [target]


class ByRows:
    """An image of which no more than a row of tiles may be taken at once."""

    def __init__(self, image: np.ndarray) -> None:
        self.image, self.shape, self.dtype = image, image.shape, image.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        assert rows.stop - rows.start <= 64
        return self.image[rows]


def test_pixels_are_taken_by_rows_and_counted(target):
    seen: list[tuple[int, int]] = []
    pixels = ByRows(tissue(*SIZES[0]))
    ome_zarr.write(target, pixels, **SETTINGS, progress=lambda *now: seen.append(now))
    assert seen == [(n, 8) for n in range(1, 9)]


def test_a_failure_leaves_nothing_and_loses_nothing(target):
    ome_zarr.write(target, tissue(40, 50), **SETTINGS)
    older = files(target)
    with pytest.raises(RuntimeError, match="no more"):
        ome_zarr.write(target, Failing(RuntimeError("no more")), **SETTINGS)
    with pytest.raises(OutputError, match="slide.ome.zarr: .*No space left"):
        ome_zarr.write(target, Failing(OSError(28, "No space left on device")), **SETTINGS)
    assert list(target.parent.iterdir()) == [target] and files(target) == older
    with pytest.raises(ValueError, match="neither RGB nor labels"):
        ome_zarr.write(target, np.zeros((9, 9, 4), np.uint8), **SETTINGS)


def test_a_slide_rendered_to_ome_zarr(target, annotations, weights):
    painter = Painter(weights, steps=2, device="cpu")
    nuclei = read_annotations(annotations, mpp=0.25)
    job = plan_render(nuclei, painter, size=(100, 120), seed=3)
    render(job, target)
    assert sorted(p.name for p in target.parent.iterdir()) == ["slide.geojson", "slide.ome.zarr"]
    group = zarr.open_group(target, mode="r")
    np.testing.assert_array_equal(np.moveaxis(group["0"][:], 0, -1), render_region(job))
    assert '"seed": 3' in group.attrs["description"]
    assert "not for diagnosis" in group.attrs["description"]

    with pytest.raises(OutputError, match="slide.ome.zarr exists"):
        render(job, target)
    render(replace(job, seed=4), target, overwrite=True)
    assert '"seed": 4' in zarr.open_group(target, mode="r").attrs["description"]
    (target / "zarr.json").unlink()  # now it may be anything
    with pytest.raises(OutputError, match="is a folder: choose another name"):
        render(job, target, overwrite=True)


def test_damage_and_other_images_are_told_in_a_line(target):
    with pytest.raises(SlideError, match="slide.ome.zarr: no such file"):
        open_slide(target)
    ome_zarr.write(target, tissue(40, 50), **SETTINGS)
    shard = target / "0/c/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-9])
    with open_slide(target) as slide:
        with pytest.raises(SlideError, match=r"slide.ome.zarr: cannot be read [^\n]*$"):
            slide.read((0, 0, 40, 50), mpp=0.5)
    (target / "zarr.json").unlink()
    with pytest.raises(SlideError, match=r"slide.ome.zarr: cannot be read [^\n]*$"):
        open_slide(target)
    ome_zarr.write(target, np.ones((40, 50), np.uint8), **SETTINGS)
    with pytest.raises(SlideError, match="only RGB images with axes c, y, x"):
        open_slide(target)


def test_info_tells_of_it(target):
    ome_zarr.write(target, tissue(203, 301), **SETTINGS)
    rows = dict(describe(target))
    assert rows["size"] == "301 x 203 pixels" and rows["mpp"] == "0.5"

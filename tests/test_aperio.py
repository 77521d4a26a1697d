"""Aperio SVS, through the readers that pipelines use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pyvips
from helpers import SETTINGS, SIZES, Failing, tissue
from openslide import OpenSlide
from tifffile import TiffFile
from tiffslide import TiffSlide

from nasdm_wsi.errors import OutputError
from nasdm_wsi.model import Painter
from nasdm_wsi.rendering import plan_render, read_annotations, render, render_region
from nasdm_wsi.slides import aperio
from nasdm_wsi.slides.associated import label_picture, macro_picture
from nasdm_wsi.slides.reading import open_slide


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "slide.svs"


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("options", [{}, {"quality": 95}, {"lossless": True}])
def test_every_reader_sees_every_level_power_and_pixel_size(target, options, big, monkeypatch):
    if big:
        monkeypatch.setattr("nasdm_wsi.slides.tiff.BIGTIFF_BYTES", 0)
    image = tissue(*SIZES[0])
    aperio.write(target, image, **SETTINGS, **options)
    with TiffFile(target) as file:
        assert file.is_bigtiff is big
        baseline, thumbnail, label, macro = file.series
        assert [series.name for series in file.series[1:]] == ["Thumbnail", "Label", "Macro"]
        levels = [level.asarray() for level in baseline.levels]
    error = np.abs(levels[0].astype(int) - image)
    assert error.max() == 0 if options.get("lossless") else error.mean() < 7
    for reader, library in ((OpenSlide, "openslide"), (TiffSlide, "tiffslide")):
        with reader(target) as slide:
            told = {k.removeprefix(f"{library}."): str(v) for k, v in slide.properties.items()}
            assert (told["vendor"], told["objective-power"]) == ("aperio", "20")
            assert (told["mpp-x"], told["mpp-y"]) == ("0.5", "0.5")
            assert [size[::-1] for size in slide.level_dimensions] == SIZES
            for number, size in enumerate(slide.level_dimensions):
                seen = np.asarray(slide.read_region((0, 0), number, size).convert("RGB"))
                np.testing.assert_array_equal(seen, levels[number])
    for page, level in zip((0, 2, 3, 4), levels, strict=True):  # libvips counts pages
        seen = pyvips.Image.tiffload(str(target), page=page)
        assert seen.xres == pytest.approx(2000)  # pixels in a millimetre
        np.testing.assert_array_equal(seen.numpy(), level)


def test_thumbnail_label_and_macro(target):
    aperio.write(target, tissue(*SIZES[0]), **SETTINGS)
    with OpenSlide(target) as slide:
        seen = {k: np.asarray(v.convert("RGB")) for k, v in slide.associated_images.items()}
        last = slide.read_region((0, 0), 3, slide.level_dimensions[3]).convert("RGB")
    made = label_picture()
    assert set(seen) == {"thumbnail", "label", "macro"}
    expected = {"thumbnail": last, "label": made, "macro": macro_picture(np.asarray(last))}
    for name, picture in expected.items():
        assert np.abs(seen[name].astype(int) - picture).mean() < 3, name
    red = (made[..., 0] > 120) & (made[..., 1:] < 90).all(-1)  # "SYNTHETIC, not for diagnosis"
    assert 0.02 < red.mean() < 0.2
    np.testing.assert_array_equal(macro_picture(np.asarray(last))[16:416, 16:416], made)


def test_a_slide_of_one_tile(target):
    aperio.write(target, tissue(40, 50), **SETTINGS)
    with OpenSlide(target) as slide:
        assert slide.level_dimensions == ((50, 40),) and len(slide.associated_images) == 3


def test_the_description_is_read_back_whatever_it_holds(target):
    text = 'a|b = c\n label and macro: {"d": "|", "e": "ü"}'
    aperio.write(target, tissue(40, 50), **{**SETTINGS, "description": text})
    with open_slide(target) as slide:
        assert slide.description == text.replace("|", "\\u007c").replace("\n", "")
    with OpenSlide(target) as slide:
        assert slide.properties["openslide.objective-power"] == "20"
        assert "synthetic" in slide.properties["openslide.comment"]


def test_a_rendered_slide_is_the_same_bytes_and_knows_how_it_was_made(target, annotations, weights):
    painter = Painter(weights, steps=2, device="cpu")
    nuclei = read_annotations(annotations, mpp=0.25)
    job = plan_render(nuclei, painter, size=(100, 120), seed=3)
    render(job, target, lossless=True)
    with open_slide(target) as slide:
        np.testing.assert_array_equal(slide.read((0, 0, 100, 120), mpp=0.5), render_region(job))
        assert '"seed": 3' in slide.description and "not for diagnosis" in slide.description
    first = target.read_bytes()
    render(job, target, lossless=True, overwrite=True)
    assert target.read_bytes() == first
    assert sorted(p.name for p in target.parent.iterdir()) == ["slide.geojson", "slide.svs"]


def test_a_failure_leaves_nothing_and_loses_nothing(target):
    target.write_bytes(b"precious")
    with pytest.raises(RuntimeError, match="no more"):
        aperio.write(target, Failing(RuntimeError("no more")), **SETTINGS)
    with pytest.raises(OutputError, match="slide.svs: .*No space left"):
        aperio.write(target, Failing(OSError(28, "No space left on device")), **SETTINGS)
    assert list(target.parent.iterdir()) == [target] and target.read_bytes() == b"precious"
    for wrong in ({"pixels": np.zeros((9, 9), np.uint8)}, {"mpp": 0.0}):
        with pytest.raises(ValueError, match="RGB|positive"):
            aperio.write(target, **{"pixels": tissue(40, 50), **SETTINGS, **wrong})
    assert target.read_bytes() == b"precious"

"""Slides and label pyramids through Bio-Formats, which is what QuPath asks."""

from __future__ import annotations

import re

import numpy as np
import pytest
import shapely
from bioformats_tools import MARKS, bioformats, level
from helpers import DESCRIPTION, SETTINGS, SIZES, tissue
from openslide import OpenSlide
from tifffile import TiffFile

from nasdm_wsi.geometry import shape
from nasdm_wsi.slides import aperio, dicom, ome_tiff, patched
from nasdm_wsi.slides.formats import format_of

pytestmark = MARKS


@pytest.mark.parametrize(
    ("name", "big", "options"),
    [
        ("slide.ome.tif", False, {}),
        ("slide.ome.tif", True, {"quality": 95}),
        ("slide.tif", False, {"lossless": True}),
    ],
)
def test_bioformats_sees_one_series_with_all_levels_in_the_right_colours(
    tmp_path, monkeypatch, name, big, options
):
    if big:
        monkeypatch.setattr("nasdm_wsi.slides.tiff.BIGTIFF_BYTES", 0)
    path, image = tmp_path / name, tissue(*SIZES[0])
    ome_tiff.write(path, image, **SETTINGS, **options)

    told = bioformats("ImageInfo", "-nopix", "-noflat", "-omexml", path)
    assert "Checking file format [OME-TIFF]" in told and "No validation errors found" in told
    assert "Series count = 1\n" in told and "RGB = true (3)" in told
    assert f"Resolutions = {len(SIZES)}\n" in told
    assert [int(w) for w in re.findall(r"sizeX\[\d\] = (\d+)", told)] == [w for _, w in SIZES]
    assert 'PhysicalSizeX="0.5" PhysicalSizeXUnit="µm"' in told
    assert 'NominalMagnification="20.0"' in told and DESCRIPTION.split("µ")[1] in told

    with TiffFile(path) as tiff:
        expected = [page.asarray() for page in tiff.series[0].levels]
    for number in (0, 2):
        seen = level(path, number)
        error = np.abs(seen.astype(int) - expected[number])
        assert error.max() <= (0 if options.get("lossless") else 3)  # decoders round differently
        assert np.abs(seen.mean((0, 1)) - image.mean((0, 1))).max() < 1.5  # and not pink


def test_bioformats_sees_all_levels_of_an_svs_and_its_label_and_macro(tmp_path):
    path, image = tmp_path / "slide.svs", tissue(*SIZES[0])
    aperio.write(path, image, **SETTINGS)
    told = bioformats("ImageInfo", "-nopix", "-noflat", "-omexml", path)
    assert "Checking file format [Aperio SVS]" in told and "No validation errors found" in told
    assert "Series count = 3\n" in told and f"Resolutions = {len(SIZES)}\n" in told
    assert [int(w) for w in re.findall(r"sizeX\[\d\] = (\d+)", told)] == [w for _, w in SIZES]
    assert "label image" in told and "macro image" in told
    assert 'PhysicalSizeX="0.5" PhysicalSizeXUnit="µm"' in told
    assert 'NominalMagnification="20.0"' in told
    with TiffFile(path) as tiff:
        expected = [page.asarray() for page in tiff.series[0].levels]
    for number in (0, 2):
        assert np.abs(level(path, number).astype(int) - expected[number]).max() <= 3


def test_bioformats_sees_all_levels_of_a_dicom_slide(tmp_path):
    path, image = tmp_path / "slide.dcm", tissue(*SIZES[0])
    dicom.write(path, image, **SETTINGS)
    told = bioformats("ImageInfo", "-nopix", "-noflat", "-omexml", path / "level-0.dcm")
    assert "Checking file format [DICOM]" in told and "No validation errors found" in told
    assert "Series count = 4\n" in told and f"Resolutions = {len(SIZES)}\n" in told
    assert [int(w) for w in re.findall(r"sizeX\[\d\] = (\d+)", told)] == [w for _, w in SIZES]
    assert 'PhysicalSizeX="5.0E-4" PhysicalSizeXUnit="mm"' in told
    with OpenSlide(path / "level-0.dcm") as slide:
        expected = slide.read_region((0, 0), 2, slide.level_dimensions[2]).convert("RGB")
    assert np.abs(level(path / "level-0.dcm", 2).astype(int) - expected).max() <= 3


def test_bioformats_reads_label_pyramids(tmp_path):
    path = tmp_path / "labels.ome.tif"
    labels = np.arange(203 * 301, dtype=np.uint32).reshape(203, 301)
    ome_tiff.write(path, labels, **SETTINGS, lossless=True)
    told = bioformats("ImageInfo", "-nopix", "-noflat", path)
    assert "Pixel type = uint32" in told and f"Resolutions = {len(SIZES)}\n" in told
    np.testing.assert_array_equal(level(path, 1), labels[::2, ::2])


@pytest.mark.parametrize("name", ["slide.ome.tif", "slide.svs"])
def test_bioformats_sees_a_slide_that_was_changed_in_place(tmp_path, name):
    """The description is legible, and the changed tiles are as other readers see them."""
    path, image = tmp_path / name, tissue(*SIZES[0])
    format_of(path).write(path, image, **SETTINGS)
    green = np.uint8([20, 200, 60])
    area = shapely.box(48, 32, 80, 64)
    patched.change(path, lambda box: np.broadcast_to(green, (*shape(box), 3)), area)
    patched.describe(path, "changed: µ")
    told = bioformats("ImageInfo", "-nopix", "-noflat", "-omexml", path)
    assert "No validation errors found" in told and "changed: " in told
    assert f"Resolutions = {len(SIZES)}\n" in told
    assert 'PhysicalSizeX="0.5" PhysicalSizeXUnit="µm"' in told
    seen = level(path, 0).astype(int)
    assert np.abs(seen[34:62, 50:78] - green).max() <= 8
    with TiffFile(path) as tiff:
        assert np.abs(seen - tiff.series[0].levels[0].asarray()).max() <= 3

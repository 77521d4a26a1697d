"""The pyramid, seen through every reader at hand and against a plain numpy mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pyvips
import zarr
from helpers import SETTINGS, SIZES, Failing, mean_of_four, tissue
from openslide import OpenSlide
from tifffile import TiffFile, imread
from tiffslide import TiffSlide

from nasdm_wsi.errors import OutputError
from nasdm_wsi.slides import ome_tiff


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "slide.tif"


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("options", [{}, {"quality": 95}, {"lossless": True}])
def test_every_reader_sees_every_level(target, options, big, monkeypatch):
    if big:
        monkeypatch.setattr("nasdm_wsi.slides.tiff.BIGTIFF_BYTES", 0)
    image = tissue(*SIZES[0])
    ome_tiff.write(target, image, **SETTINGS, **options)

    with TiffFile(target) as tiff:
        assert tiff.is_bigtiff is big
        levels = [level.asarray() for level in tiff.series[0].levels]
    assert [level.shape[:2] for level in levels] == SIZES
    with TiffFile(target, is_ome=False) as tiff:
        assert len(tiff.pages) == len(SIZES)
        for number, page in enumerate(tiff.pages):
            assert np.array_equal(page.asarray(), levels[number])
            assert page.is_reduced is (number > 0)
            assert page.tags["XResolution"].value == (20000, 1)
            if not options.get("lossless"):
                assert page.subsampling == ((2, 1) if options else (2, 2))
    for reader, prefix in ((OpenSlide, "openslide"), (TiffSlide, "tiffslide")):
        with reader(target) as slide:
            assert [size[::-1] for size in slide.level_dimensions] == SIZES
            assert float(slide.properties[f"{prefix}.mpp-x"]) == pytest.approx(0.5, rel=1e-6)
            assert float(slide.properties[f"{prefix}.mpp-y"]) == pytest.approx(0.5, rel=1e-6)
            for number, size in enumerate(slide.level_dimensions):
                seen = np.asarray(slide.read_region((0, 0), number, size).convert("RGB"))
                assert np.array_equal(seen, levels[number])
    assert OpenSlide.detect_format(target) == "generic-tiff"
    for number, size in enumerate(SIZES):
        page = pyvips.Image.new_from_file(str(target), page=number)
        assert page.get("n-pages") == len(SIZES) and page.interpretation == "srgb"
        assert page.xres == page.yres == pytest.approx(2000)  # pixels in a millimetre
        assert np.array_equal(page.numpy(), levels[number]) and page.numpy().shape[:2] == size

    expected = image
    for level in levels:
        error = np.abs(level.astype(int) - expected)
        assert error.max() == 0 if options.get("lossless") else error.mean() < 7
        assert np.abs(level.mean((0, 1)) - expected.mean((0, 1))).max() < 1.5
        expected = mean_of_four(expected)


def test_beyond_the_image_is_white(target):
    ome_tiff.write(target, tissue(40, 50), **SETTINGS, lossless=True)
    with TiffFile(target) as tiff:
        page = tiff.pages[0]
        (segment,) = page.segments()
        assert (segment[0][0, 40:] == 255).all() and (segment[0][0, :, 50:] == 255).all()
        assert len(tiff.pages) == 1


def test_description_and_scale_in_the_ome_xml(target):
    ome_tiff.write(target, tissue(70, 70), **SETTINGS)
    assert b"&#" not in target.read_bytes()
    with TiffFile(target) as tiff:
        assert tiff.is_ome
        xml = tiff.ome_metadata
    assert "synthetic &amp; &lt;not&gt; for diagnosis: 0.5 µm, é" in xml
    assert 'PhysicalSizeX="0.5" PhysicalSizeXUnit="µm"' in xml
    assert 'NominalMagnification="20"' in xml


def test_same_pixels_same_bytes_also_from_zarr(tmp_path):
    image = tissue(203, 301)
    stored = zarr.create_array(store={}, shape=image.shape, chunks=(50, 70, 3), dtype="u1")
    stored[:] = image
    files = [tmp_path / name for name in ("a.tif", "b.ome.tif", "c.tif")]
    for path, pixels in zip(files, (image, image, stored), strict=True):
        ome_tiff.write(path, pixels, **SETTINGS)
    assert len({path.read_bytes() for path in files}) == 1
    assert sorted(tmp_path.iterdir()) == sorted(files)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
def test_labels_take_every_second_pixel(target, dtype):
    labels = np.arange(150 * 97).reshape(150, 97).astype(dtype)
    ome_tiff.write(target, labels, **SETTINGS, lossless=True)
    for level in range(3):
        assert np.array_equal(
            imread(target, series=0, level=level), labels[:: 2**level, :: 2**level]
        )


def test_progress_counts_all_tiles(target):
    seen: list[tuple[int, int]] = []
    ome_tiff.write(target, tissue(130, 70), **SETTINGS, progress=lambda *now: seen.append(now))
    assert seen == [(n, 9) for n in range(1, 10)]


@pytest.mark.parametrize("older", [False, True])
def test_a_failure_leaves_nothing_and_loses_nothing(target, older):
    if older:
        target.write_bytes(b"precious")
    with pytest.raises(RuntimeError, match="no more"):
        ome_tiff.write(target, Failing(RuntimeError("no more")), **SETTINGS)
    with pytest.raises(OutputError, match="slide.tif: .*No space left.* make room"):
        ome_tiff.write(target, Failing(OSError(28, "No space left on device")), **SETTINGS)
    assert list(target.parent.iterdir()) == [target] * older
    if older:
        assert target.read_bytes() == b"precious"


def test_an_older_file_is_replaced_and_a_missing_folder_named(target):
    target.write_bytes(b"old")
    ome_tiff.write(target, tissue(30, 30), **SETTINGS)
    assert imread(target).shape == (30, 30, 3)
    with pytest.raises(OutputError, match="nowhere"):
        ome_tiff.write(target.parent / "nowhere" / "a.tif", tissue(30, 30), **SETTINGS)


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (np.zeros((9, 9), np.int16), {}),
        (np.zeros((9, 9, 4), np.uint8), {}),
        (np.zeros((9, 9, 3), np.float32), {}),
        (np.zeros((0, 9, 3), np.uint8), {}),
        (np.zeros((9, 9, 3), np.uint8), {"tile": 100}),
        (np.zeros((9, 9, 3), np.uint8), {"mpp": 0.0}),
    ],
)
def test_refuses_what_it_cannot_write(target, pixels, options):
    with pytest.raises(ValueError):
        ome_tiff.write(target, pixels, **{**SETTINGS, **options})
    assert not target.exists()

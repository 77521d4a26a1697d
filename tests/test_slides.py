"""Reading at a given resolution, with slides written here and a real one where it is present."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tifffile import TiffFile, TiffWriter, imwrite

from nasdm_wsi.errors import SlideError
from nasdm_wsi.slides import ome_tiff, ome_zarr, patched
from nasdm_wsi.slides.reading import find_style, open_slide, size_like, tissue_sample
from nasdm_wsi.slides.stain import STYLES, style_vector

REAL = Path(__file__).parents[2] / "shared/data/slides/CMU-1-Small-Region.svs"


def smooth_tissue(h: int, w: int) -> np.ndarray:
    """Pink waves, uint8 (h, w, 3), glass in the left third."""
    y, x = np.mgrid[:h, :w]
    waves = np.stack(
        [200 + 30 * np.sin(x / 9), 120 + 40 * np.cos(y / 11), 170 + 20 * np.sin(y / 7)]
    )
    return np.where(x < w // 3, 255, waves).transpose(1, 2, 0).astype(np.uint8)


IMAGE = smooth_tissue(256, 384)
IN_ANOTHER_FILE = """\
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">
    <Image ID="Image:0">
        <Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="384" SizeY="256" SizeC="3"
            SizeZ="1" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5">
            <Channel ID="Channel:0:0" SamplesPerPixel="3"/>
            <TiffData><UUID FileName="slide.tif">urn:uuid:2</UUID></TiffData>
        </Pixels>
    </Image>
</OME>"""
HALF = IMAGE.reshape(128, 2, 192, 2, 3).mean((1, 3))


@pytest.fixture
def tiff_path(tmp_path: Path) -> Path:
    path = tmp_path / "slide.tif"
    ome_tiff.write(path, IMAGE, mpp=0.5, description="", lossless=True, tile=64)
    return path


@pytest.fixture(params=["tif", "zarr"])
def slide_path(tiff_path: Path, request) -> Path:
    if request.param == "tif":
        return tiff_path
    path = tiff_path.with_name("slide.ome.zarr")
    ome_zarr.write(path, IMAGE, mpp=0.5, description="", tile=64)
    return path


def test_a_pyramid_says_what_it_is(slide_path):
    with open_slide(slide_path) as slide:
        assert slide.size == (256, 384)
        assert slide.mpp == pytest.approx(0.5)
        assert slide.levels == ((256, 384), (128, 192), (64, 96), (32, 48))
        assert slide.format == ("ome-zarr" if slide_path.suffix == ".zarr" else "generic-tiff")
        assert slide.bounds == (0, 0)


def test_reads_levels_as_they_are(slide_path):
    with open_slide(slide_path) as slide:
        assert np.array_equal(slide.read((10, 20, 110, 170), mpp=0.5), IMAGE[10:110, 20:170])
        seen = slide.read((5, 10, 105, 160), mpp=1.0)
        assert seen.dtype == np.uint8
        assert np.abs(seen - HALF[5:105, 10:160]).max() <= 0.5


@pytest.mark.parametrize("mpp", [0.25, 0.4, 0.7, 1.6])
def test_neighbouring_boxes_meet_without_a_seam(slide_path, mpp):
    with open_slide(slide_path) as slide:
        whole = slide.read((0, 0, 60, 80), mpp=mpp)
        parts = [slide.read((0, x, 60, x + 20), mpp=mpp) for x in range(0, 80, 20)]
    assert np.abs(np.concatenate(parts, 1).astype(int) - whole).max() <= 1


@pytest.mark.parametrize("mpp", [0.25, 0.4, 0.7, 1.3])
def test_between_levels_the_picture_stays_in_place(slide_path, mpp):
    y0, x0 = round(30 / mpp), round(90 / mpp)
    with open_slide(slide_path) as slide:
        seen = slide.read((y0, x0, y0 + 40, x0 + 30), mpp=mpp)
    y = ((y0 + np.arange(40) + 0.5) * mpp / 0.5).astype(int)
    x = ((x0 + np.arange(30) + 0.5) * mpp / 0.5).astype(int)
    assert np.abs(seen.astype(int) - IMAGE[y][:, x]).mean() < 3


def test_outside_and_transparent_is_white(slide_path, tmp_path):
    with open_slide(slide_path) as slide:
        seen = slide.read((-10, 374, 10, 394), mpp=0.5)
        assert (seen[:10] == 255).all() and (seen[:, 10:] == 255).all()
        assert np.array_equal(seen[10:, :10], IMAGE[:10, 374:])
        assert (slide.read((-50, -50, -10, -10), mpp=0.5) == 255).all()
    glassy = np.dstack([IMAGE, np.where(np.arange(384) < 200, 0, 255) * np.ones((256, 1))])
    Image.fromarray(glassy.astype(np.uint8)).save(tmp_path / "glassy.png")
    with open_slide(tmp_path / "glassy.png") as slide:
        seen = slide.read((0, 0, 256, 384), mpp=0.5)
    assert (seen[:, :200] == 255).all()
    assert np.array_equal(seen[:, 200:], IMAGE[:, 200:])


@pytest.mark.parametrize("name", ["image.png", "image.tif", "image.bmp"])
def test_an_ordinary_image_has_the_asked_resolution(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(IMAGE).save(path, dpi=(72, 72))
    with open_slide(path) as slide:
        assert slide.mpp is None
        assert np.array_equal(slide.read((3, 4, 50, 60), mpp=0.37), IMAGE[3:50, 4:60])
        slide.mpp = 0.5
        seen = slide.read((5, 10, 105, 160), mpp=1.0)
        assert np.abs(seen - HALF[5:105, 10:160]).mean() < 1


def test_all_levels_of_an_ome_tiff_without_chain(tmp_path):
    path = tmp_path / "subifds.ome.tif"
    odd = smooth_tissue(255, 383)
    settings = dict(tile=(64, 64), photometric="rgb", resolutionunit="CENTIMETER")
    with TiffWriter(path) as tiff:
        tiff.write(odd, subifds=1, resolution=(2e4, 2e4), metadata={"axes": "YXS"}, **settings)
        tiff.write(odd[::2, ::2], subfiletype=1, resolution=(1e4, 1e4), **settings)
    with open_slide(path) as slide:
        assert slide.levels == ((255, 383), (128, 192))
        assert slide.mpp == pytest.approx(0.5)
        for y, x in ((7, 11), (60, 100), (101, 150), (120, 185)):  # at any fraction of a pixel
            assert np.array_equal(
                slide.read((y, x, 128, 192), mpp=1.0), odd[2 * y :: 2, 2 * x :: 2]
            )


def damaged(path: Path, *, keep: float) -> Path:
    """Cut off the end of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def test_a_pyramid_of_ours_that_is_cut_short_is_not_read_as_grey(tmp_path):
    whole, part = tmp_path / "whole.ome.tif", tmp_path / "part.ome.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    ome_tiff.write(whole, pixels, mpp=0.5, description="")
    data = whole.read_bytes()
    for cut in (5000, len(data) // 2, len(data) - 100):
        part.write_bytes(data[:cut])
        with pytest.raises(SlideError, match="cut short|is it complete"), open_slide(part) as slide:
            slide.read((0, 0, 300, 300), mpp=0.5)


def test_a_slide_whose_pixels_lie_in_another_file(tiff_path):
    path = tiff_path.with_name("a.ome.tif")
    imwrite(path, np.zeros((16, 16, 3), np.uint8), description=IN_ANOTHER_FILE, metadata=None)
    with open_slide(path) as slide:
        assert slide.levels == ((256, 384), (128, 192), (64, 96), (32, 48)) and slide.mpp == 0.5
        np.testing.assert_array_equal(slide.read((0, 0, 256, 384), mpp=0.5), IMAGE)
    assert patched.grid_of(tiff_path) == (1, 1) and patched.grid_of(path) is None
    with TiffFile(tiff_path) as tiff:
        last = tiff.series[0].levels[-1].keyframe
        end = last.dataoffsets[-1] + last.databytecounts[-1]
    os.truncate(tiff_path, end - 1)
    with pytest.raises(SlideError, match="a.ome.tif: the file is cut short"), open_slide(path):
        pass
    tiff_path.unlink()
    with pytest.raises(SlideError, match="its pixels lie in slide.tif: copy"), open_slide(path):
        pass


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5])
def test_truncated_files_are_one_line(tiff_path, tmp_path, keep):
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    imwrite(tmp_path / "flat.tif", IMAGE, tile=(64, 64), compression="zlib", metadata=None)
    for path in (tiff_path, tmp_path / "image.png", tmp_path / "flat.tif"):
        with pytest.raises(SlideError, match=rf"^.*{path.name}: [^\n]*$"):
            with open_slide(damaged(path, keep=keep)) as slide:
                slide.read((0, 0, *slide.size), mpp=0.5)


def test_what_is_no_slide_is_one_line(tmp_path):
    Path(tmp_path, "notes.tif").write_text("not a slide")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    for name, reason in (
        ("none.svs", "no such file"),
        ("notes.tif", "is it complete"),
        ("deep.png", "8-bit"),
    ):
        with pytest.raises(SlideError, match=rf"^.*{name}: [^\n]*{reason}[^\n]*$"):
            open_slide(tmp_path / name)


def test_tissue_sample_takes_tissue_and_no_glass(slide_path):
    tiles = tissue_sample(slide_path, size=32, count=10, seed=3)
    assert tiles.shape == (10, 32, 32, 3) and tiles.dtype == np.uint8
    assert ((tiles < 250).any(-1).mean((1, 2)) >= 0.4).all()
    assert np.array_equal(tiles, tissue_sample(slide_path, size=32, count=10, seed=3))
    assert not np.array_equal(tiles, tissue_sample(slide_path, size=32, count=10, seed=4))
    assert tissue_sample(slide_path, size=64, mpp=1.0).shape[1:] == (64, 64, 3)


def test_tissue_sample_of_small_images_and_of_glass(tmp_path):
    Image.fromarray(IMAGE[:100, 200:]).save(tmp_path / "small.png")
    assert tissue_sample(tmp_path / "small.png").shape == (2, 64, 64, 3)
    Image.fromarray(np.full((300, 300, 3), 245, np.uint8)).save(tmp_path / "glass.png")
    with pytest.raises(SlideError, match="glass.png: no tissue"):
        tissue_sample(tmp_path / "glass.png")


@pytest.mark.skipif(not REAL.exists(), reason="the real slide is not here")
def test_a_real_slide():
    with open_slide(REAL) as slide:
        assert slide.size == (2967, 2220)
        assert slide.mpp == pytest.approx(0.499)
        assert slide.format == "aperio"
        fine, coarse = (
            slide.read((400, 400, 528, 528), mpp=0.5),
            slide.read((200, 200, 264, 264), mpp=1.0),
        )
    mean = fine.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(mean - coarse).mean() < 3
    assert tissue_sample(REAL, count=5).shape == (5, 256, 256, 3)


def test_a_style_is_a_name_or_a_picture(tmp_path):
    for name, style in STYLES.items():
        np.testing.assert_allclose(find_style(name), style, rtol=1e-6)
    picture = np.random.default_rng(0).normal([170, 110, 170], 20, (300, 300, 3))
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    np.testing.assert_allclose(
        find_style(str(tmp_path / "picture.png")), style_vector(picture), atol=0.01
    )
    with pytest.raises(SlideError, match="neither a file nor one of lizard"):
        find_style("nowhere.svs")


# What slides say of themselves


def ome_tiff_of(path: Path, resolution=(1, 1), **said) -> Path:
    """An OME-TIFF as tifffile writes it, whose TIFF tags know no pixel size."""
    imwrite(
        path,
        IMAGE,
        ome=True,
        photometric="rgb",
        tile=(64, 64),
        resolution=resolution,
        resolutionunit="NONE" if resolution == (1, 1) else "CENTIMETER",
        metadata={"axes": "YXS", **said},
    )
    return path


@pytest.mark.parametrize(
    "size, unit",
    [
        (0.25, None),
        (0.25, "\u00b5m"),
        (0.25, "\u03bcm"),
        (0.25, "um"),
        (250, "nm"),
        (0.00025, "mm"),
        (0.000025, "cm"),
    ],
)
def test_the_pixel_size_in_ome_xml_is_read_in_any_unit(tmp_path, size, unit):
    said = {"PhysicalSizeX": size, "PhysicalSizeY": size}
    units = {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit} if unit else {}
    with open_slide(ome_tiff_of(tmp_path / "a.ome.tif", **said, **units)) as slide:
        assert slide.mpp == pytest.approx(0.25)


def test_ome_xml_tells_the_pixel_size_where_the_tags_are_meant_for_printers(tmp_path):
    """28 dots per centimetre, as programs write that know no better, are 357 micrometres."""
    said = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    with open_slide(ome_tiff_of(tmp_path / "a.ome.tif", resolution=(28, 28), **said)) as slide:
        assert slide.mpp == 0.25


@pytest.mark.parametrize("unit, scale", [("nanometer", 250), ("millimeter", 0.00025)])
def test_ome_zarr_tells_its_pixel_size_in_any_unit(tmp_path, unit, scale):
    path = tmp_path / "a.ome.zarr"
    ome_zarr.write(path, IMAGE, mpp=scale, description="")
    metadata = path / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"micrometer"', f'"{unit}"'))
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.25)


def test_a_unit_that_is_no_length_leaves_the_pixel_size_unknown(tmp_path):
    units = {"PhysicalSizeXUnit": "pixel", "PhysicalSizeYUnit": "pixel"}
    path = ome_tiff_of(tmp_path / "a.ome.tif", PhysicalSizeX=1, PhysicalSizeY=1, **units)
    with open_slide(path) as slide:
        assert slide.mpp is None


def test_a_slide_that_does_not_tell_its_pixel_size_takes_the_given_one(tmp_path):
    path = ome_tiff_of(tmp_path / "a.ome.tif")
    height, width = IMAGE.shape[:2]
    assert size_like(path, 0.5, slide_mpp=0.25) == (round(height / 2), round(width / 2))
    with pytest.raises(SlideError, match="does not state its pixel size: give it with `mpp`"):
        size_like(path, 0.5)


def test_pixels_that_are_not_square_are_refused_in_one_line(tmp_path):
    for path in (
        ome_tiff_of(tmp_path / "a.ome.tif", PhysicalSizeX=0.25, PhysicalSizeY=0.5),
        ome_tiff_of(tmp_path / "b.ome.tif", resolution=(40000, 20000)),
    ):
        with pytest.raises(SlideError, match=f"^{path}: pixels of 0.25 x 0.5 micrometres: resamp"):
            open_slide(path)
    nearly = ome_tiff_of(tmp_path / "c.ome.tif", PhysicalSizeX=0.252, PhysicalSizeY=0.2522)
    with open_slide(nearly) as slide:
        assert slide.mpp == pytest.approx(0.2521)


@pytest.mark.parametrize("compression", ["jpeg2000", "webp", "jpegxl"])
def test_tiles_that_openslide_does_not_know_are_read(tmp_path, compression):
    path = tmp_path / "a.ome.tif"
    options = {"compression": compression, "compressionargs": {"lossless": True}}
    if compression == "jpeg2000":
        options["compressionargs"] = {"reversible": True}
    imwrite(path, IMAGE, ome=True, photometric="rgb", tile=(64, 64), **options)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read((0, 0, 100, 90), mpp=0.5), IMAGE[:100, :90])


@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr"])
def test_colours_that_are_not_rgb_are_shown_as_they_are_meant(tmp_path, mode):
    """tiffslide takes their numbers for RGB."""
    pure = np.where(IMAGE > 150, 255, 0).astype(np.uint8)  # which all modes can express
    Image.fromarray(pure).convert(mode).save(tmp_path / "a.tif")
    with open_slide(tmp_path / "a.tif") as slide:
        away = slide.read((0, 0, *slide.size), mpp=0.5).astype(int) - pure
    assert np.abs(away).mean() < 3


def test_a_tiff_whose_first_picture_is_a_small_one_is_refused(tmp_path):
    levels = (IMAGE[::4, ::4], IMAGE[::2, ::2], IMAGE)
    for name, tile in (("tiled", (64, 64)), ("striped", None)):
        with TiffWriter(tmp_path / f"{name}.tif") as tiff:
            for level in levels:
                tiff.write(level, photometric="rgb", tile=tile)
        with pytest.raises(SlideError, match=f"{name}.tif: its first picture is not its largest"):
            open_slide(tmp_path / f"{name}.tif")

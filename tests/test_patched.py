"""Changed copies of tiled slides: what did not change keeps its bytes, and readers see the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely
from helpers import tissue
from PIL import Image
from tifffile import TiffFile, TiffWriter

from nasdm_wsi.errors import SlideError
from nasdm_wsi.geometry import shape
from nasdm_wsi.slides import ome_tiff, patched
from nasdm_wsi.slides.formats import format_of
from nasdm_wsi.slides.jpeg import unit_of, with_blocks
from nasdm_wsi.slides.reading import open_slide

ROOM = (700, 900)
GREEN = np.uint8([20, 200, 60])
REAL = Path(__file__).parents[2] / "shared/data/slides/CMU-1-Small-Region.svs"
# On cells of 16 pixels: one inside a tile, one across tiles, one at the corner of the slide.
AREA = shapely.MultiPolygon(
    [shapely.box(96, 64, 128, 96), shapely.box(496, 304, 544, 336), shapely.box(880, 688, 900, 700)]
)


def noisy(size):
    noise = np.random.default_rng(0).normal(0, 12, (*size, 3))
    return np.clip(tissue(*size) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(params=["a.ome.tif", "wide.ome.tif", "lossless.ome.tif", "a.svs", "real.svs"])
def slide(request, tmp_path):
    """A slide of each layout that can be changed."""
    path = tmp_path / request.param
    if request.param == "real.svs":
        if not REAL.exists():
            pytest.skip("the real slide is not here")
        shutil.copyfile(REAL, path)
        return path
    encoding = {"wide.ome.tif": {"quality": 95}, "lossless.ome.tif": {"lossless": True}}
    settings = encoding.get(request.param, {})
    format_of(path).write(path, noisy(ROOM), mpp=0.5, description="first", **settings)
    return path


def painted(box):
    return np.broadcast_to(GREEN, (*shape(box), 3))


def whole(path):
    with open_slide(path) as slide:
        return slide.read((0, 0, *slide.size), mpp=slide.mpp)


def tiles(path):
    """The bytes of each tile of each level as they are stored."""
    with TiffFile(path) as tiff:
        pages = [level.keyframe for level in tiff.series[0].levels]
        spans = [zip(page.dataoffsets, page.databytecounts, strict=True) for page in pages]
        content = path.read_bytes()
        return [[content[a : a + n] for a, n in span] for span in spans]


def test_only_what_changes_differs_on_all_levels(slide, tmp_path):
    copy = tmp_path / f"copy{''.join(slide.suffixes)}"
    shutil.copyfile(slide, copy)
    cells = patched.grid_of(copy)
    patched.change(copy, painted, AREA)
    before, after = whole(slide), whole(copy)
    inside = np.zeros(before.shape[:2], bool)
    for part in AREA.geoms:
        x0, y0, x1, y1 = map(int, part.bounds)
        inside[y0:y1, x0:x1] = True
    if slide.name == "real.svs":  # the third part lies in the middle, on whole cells around it
        inside[688:704, 880:904] = True
    near = np.abs(after[inside].astype(int) - GREEN)
    assert np.median(near) <= 3
    # Chroma of half the resolution is mixed over one pixel.
    mixed = inside if cells in ((1, 1), (8, 8)) else np.pad(inside, 1)
    if mixed is not inside:
        h, w = inside.shape
        mixed = np.any([mixed[y : y + h, x : x + w] for y in range(3) for x in range(3)], axis=0)
    np.testing.assert_array_equal(after[~mixed], before[~mixed])
    old, new = tiles(slide), tiles(copy)
    assert sum(a != b for a, b in zip(old[0], new[0], strict=True)) == 3
    with open_slide(copy) as changed:
        for level, size in enumerate(changed.levels[1:], 1):
            down = changed.size[0] / size[0]
            pixels = np.asarray(changed._read_level(level, (0, 0, *size)))
            at = tuple(int(n / down) for n in (320, 520))
            assert np.abs(pixels[at].astype(int) - GREEN).max() < 40


def test_a_note_joins_the_description(slide, tmp_path):
    with open_slide(slide) as source:
        first = source.description, source.mpp, source.format
    patched.describe(slide, 'A note: µ | {"a": 1}')
    with open_slide(slide) as source:
        text, *others = source.description, source.mpp, source.format
    assert "A note: µ" in text and tuple(others) == first[1:]
    assert slide.name == "real.svs" or text.startswith("first")


def test_files_that_cannot_be_changed_have_no_grid(tmp_path):
    Image.fromarray(noisy((64, 64))).save(tmp_path / "a.png")
    Image.fromarray(noisy((64, 64))).save(tmp_path / "striped.tif")
    with TiffWriter(tmp_path / "grey.tif") as tiff:
        tiff.write(noisy((64, 64))[..., 0], tile=(32, 32))
    with TiffWriter(tmp_path / "j2k.tif") as tiff:
        tiff.write(noisy((64, 64)), tile=(32, 32), photometric="rgb", compression="jpeg2000")
    with TiffWriter(tmp_path / "deep.tif") as tiff:
        tiff.write(noisy((64, 64)).astype(np.uint16) * 257, tile=(32, 32), photometric="rgb")
    with TiffWriter(tmp_path / "ycbcr.tif") as tiff:
        tiff.write(noisy((64, 64)), tile=(32, 32), photometric="ycbcr")
    for name in ("a.png", "striped.tif", "grey.tif", "j2k.tif", "deep.tif", "ycbcr.tif"):
        assert patched.grid_of(tmp_path / name) is None, name


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_blocks_of_a_jpeg_keep_their_coefficients(tmp_path, subsampling):
    """jpeglib, which reads coefficients, is the judge."""
    import jpeglib

    first, other = noisy((96, 128)), noisy((96, 128))[::-1]
    Image.fromarray(first).save(tmp_path / "a.jpg", quality=70, subsampling=subsampling)
    jpeg = (tmp_path / "a.jpg").read_bytes()
    y, x = unit_of(jpeg)
    assert (y, x) == [(8, 8), (8, 16), (16, 16)][subsampling]
    blocks = np.zeros((96 // y, 128 // x), bool)
    blocks[1, 2] = blocks[-1, -1] = True
    (tmp_path / "b.jpg").write_bytes(with_blocks(jpeg, other, blocks))
    a, b = (jpeglib.read_dct(str(tmp_path / name)) for name in ("a.jpg", "b.jpg"))
    np.testing.assert_array_equal(a.qt, b.qt)
    for name in ("Y", "Cb", "Cr"):
        one, two = getattr(a, name), getattr(b, name)
        mask = blocks.repeat(one.shape[0] // len(blocks), 0)
        mask = mask.repeat(one.shape[1] // mask.shape[1], 1)
        np.testing.assert_array_equal(one[~mask], two[~mask])
        assert (one[mask] != two[mask]).any()


def test_progressive_and_grey_jpegs_are_refused(tmp_path):
    Image.fromarray(noisy((32, 32))).save(tmp_path / "a.jpg", progressive=True)
    with pytest.raises(SlideError, match="unusual"):
        unit_of((tmp_path / "a.jpg").read_bytes())
    with pytest.raises(SlideError, match="cannot be read"):
        unit_of(b"\xff\xd8 nothing")


def test_a_classic_tiff_does_not_grow_beyond_what_it_can_address(tmp_path, monkeypatch):
    path = tmp_path / "a.ome.tif"
    ome_tiff.write(path, noisy(ROOM), mpp=0.5, description="")
    monkeypatch.setattr(patched, "MOST_CLASSIC", path.stat().st_size)
    with pytest.raises(patched.OutputError, match="4 GB"):
        patched.change(path, painted, AREA)

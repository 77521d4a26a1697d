"""What each reader sees of each format: the table of docs/formats_out.md, cell by cell.

Readers of OME-Zarr that are not installed are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import pyvips
from bioformats_tools import MARKS, bioformats, level
from helpers import SETTINGS, SIZES, mean_of_four, tissue
from openslide import OpenSlide
from tifffile import TiffFile
from tiffslide import TiffSlide
from wsidicom import WsiDicom

from nasdm_wsi.slides.formats import FORMATS
from nasdm_wsi.slides.reading import open_slide

PAGE = Path(__file__).parents[1] / "docs/formats_out.md"
COLUMNS = ("OME-TIFF", "Aperio SVS", "DICOM", "OME-Zarr", "OME-Zarr 0.4")  # names in FORMATS
SECOND = mean_of_four(tissue(*SIZES[0]))  # the second level


class Seen(NamedTuple):
    """What a reader says of a slide.

    ``pixels`` are those of the second level, (h, w, 3).
    """

    sizes: list[tuple[int, ...]]
    mpp: float | None
    power: float | None
    pixels: np.ndarray

    def words(self) -> list[str]:
        error = self.pixels.astype(int) - SECOND  # of JPEG, where it is
        right = {
            "levels": self.sizes == SIZES,
            "mpp": self.mpp is not None and abs(self.mpp - 0.5) < 1e-6,
            "power": self.power == 20,
            "colour": np.abs(error).mean() < 8 and np.abs(error.mean((0, 1))).max() < 1.5,
        }
        return [word for word, yes in right.items() if yes]


def first_file(path: Path) -> Path:
    return path / "level-0.dcm" if path.suffix == ".dcm" else path


def by_slide_library(library: Callable[..., Any], path: Path) -> Seen:
    with library(first_file(path)) as slide:
        told = {name.partition(".")[2]: value for name, value in slide.properties.items()}
        region = slide.read_region((0, 0), 1, slide.level_dimensions[1]).convert("RGB")
        mpp, power = told.get("mpp-x"), told.get("objective-power")
        return Seen(
            [size[::-1] for size in slide.level_dimensions],
            float(mpp) if mpp else None,
            float(power) if power else None,
            np.asarray(region),
        )


def by_libvips(path: Path) -> Seen:
    pages = pyvips.Image.new_from_file(str(path)).get("n-pages")
    images = [pyvips.Image.new_from_file(str(path), page=page) for page in range(pages)]
    by_size = {(image.height, image.width): image for image in images}
    sizes = [size for size in SIZES if size in by_size]
    return Seen(sizes, 1000 / images[0].xres, None, by_size[SIZES[1]].numpy())


def by_tifffile(path: Path) -> Seen:
    with TiffFile(path) as file:
        levels = [level.asarray() for level in file.series[0].levels]
    return Seen([image.shape[:2] for image in levels], None, None, levels[1])


def by_bioformats(path: Path) -> Seen:
    told = bioformats("ImageInfo", "-nopix", "-noflat", "-omexml", first_file(path))
    widths = [int(width) for width in re.findall(r"sizeX\[\d\] = (\d+)", told)]
    number, unit = re.search(r'PhysicalSizeX="(\S+)" PhysicalSizeXUnit="(\S+)"', told).groups()
    power = re.search(r'NominalMagnification="(\S+)"', told)
    return Seen(
        [size for size, width in zip(SIZES, widths, strict=True) if size[1] == width],
        float(number) * {"mm": 1000, "µm": 1}[unit],
        float(power[1]) if power else None,
        level(first_file(path), 1),
    )


def by_wsidicom(path: Path) -> Seen:
    with WsiDicom.open(path) as slide:
        return Seen(
            [(level.size.height, level.size.width) for level in slide.pyramid],
            slide.mpp.width,
            slide.metadata.pyramid.optical_paths[0].objective.objective_power,
            np.asarray(slide.read_region((0, 0), 1, SIZES[1][::-1])),
        )


def by_us(path: Path) -> Seen:
    with open_slide(path) as slide:
        pixels = slide.read((0, 0, *slide.levels[1]), mpp=2 * slide.mpp)
        return Seen(list(slide.levels), slide.mpp, None, pixels)


def by_ome_zarr(path: Path) -> Seen:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    (node, *_) = Reader(parse_url(str(path)))()
    scale = node.metadata["coordinateTransformations"][0][0]["scale"]
    assert node.metadata["channel_names"] == ["Red", "Green", "Blue"]
    pixels = np.moveaxis(np.asarray(node.data[1]), 0, -1)
    return Seen([data.shape[1:] for data in node.data], scale[-1], None, pixels)


def by_bioio(path: Path) -> Seen:
    from bioio_ome_zarr import Reader

    reader, sizes = Reader(str(path)), []
    assert reader.channel_names == ["Red", "Green", "Blue"]
    mpp = reader.physical_pixel_sizes.X
    for number in reader.resolution_levels:
        reader.set_resolution_level(number)
        sizes.append(reader.shape[-2:])
    reader.set_resolution_level(1)
    pixels = np.moveaxis(reader.data.reshape(3, *SIZES[1]), 0, -1)
    return Seen(sizes, mpp, None, pixels)


def by_ngff_zarr(path: Path) -> Seen:
    from ngff_zarr import from_ngff_zarr

    images = from_ngff_zarr(str(path)).images
    pixels = np.moveaxis(np.asarray(images[1].data), 0, -1)
    return Seen([image.data.shape[1:] for image in images], images[0].scale["x"], None, pixels)


def by_napari(path: Path) -> Seen:
    """Three layers, in red, green and blue, which napari adds up."""
    from napari_ome_zarr import napari_get_reader

    ((data, told, kind),) = napari_get_reader(str(path))(str(path))
    assert kind == "image" and told["channel_axis"] == 0
    assert [colours.name for colours in told["colormap"]] == ["red", "green", "blue"]
    pixels = np.moveaxis(np.asarray(data[1]), 0, -1)
    return Seen([each.shape[1:] for each in data], told["scale"][-1], None, pixels)


READERS: dict[str, tuple[str, Callable[[Path], Seen]]] = {
    "OpenSlide": ("openslide", lambda path: by_slide_library(OpenSlide, path)),
    "tiffslide": ("tiffslide", lambda path: by_slide_library(TiffSlide, path)),
    "libvips": ("pyvips", by_libvips),
    "tifffile": ("tifffile", by_tifffile),
    "Bio-Formats (QuPath)": ("bioformats", by_bioformats),
    "wsidicom": ("wsidicom", by_wsidicom),
    "nasdm-wsi": ("nasdm_wsi", by_us),
    "ome-zarr": ("ome_zarr", by_ome_zarr),
    "bioio-ome-zarr": ("bioio_ome_zarr", by_bioio),
    "ngff-zarr": ("ngff_zarr", by_ngff_zarr),
    "napari-ome-zarr": ("napari_ome_zarr", by_napari),
}


def table() -> dict[tuple[str, str], str]:
    """The cells of the page by reader and format."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    begin = next(k for k, row in enumerate(rows) if row.startswith("| reader"))
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[begin + 1 :]]
    return {
        (reader, form): cell
        for reader, *row in cells
        for form, cell in zip(COLUMNS, row, strict=True)
    }


CELLS = table()


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> dict[str, Path]:
    folder, image = tmp_path_factory.mktemp("formats"), tissue(*SIZES[0])
    paths = {form.name: folder / f"slide{form.suffixes[0]}" for form in FORMATS}
    for form in FORMATS:
        form.write(paths[form.name], image, **SETTINGS)
    return paths


def test_the_table_has_all_formats_and_readers():
    assert {form for _, form in CELLS} == {form.name for form in FORMATS}
    assert {reader for reader, _ in CELLS} == set(READERS)


@pytest.mark.parametrize(
    ("reader", "form"),
    [pytest.param(*cell, marks=MARKS if cell[0].startswith("Bio") else []) for cell in CELLS],
)
@pytest.mark.filterwarnings("default")  # of the readers
def test_a_reader_sees_what_the_table_says(reader, form, slides):
    module, look = READERS[reader]
    if not find_spec(module):
        pytest.skip(f"{reader} is not installed")
    if CELLS[reader, form] == "-":
        with pytest.raises(Exception):  # noqa: B017  (each reader raises its own)
            look(slides[form])
    else:
        assert ", ".join(look(slides[form]).words()) == CELLS[reader, form]

"""Sets of tiles from many slides: their pixel sizes, tables and splits, read back."""

import csv
import math

import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from helpers import tissue
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.io import imread, imsave
from tifffile import TiffFile

from nasdm_wsi.annotations.geojson import write_geojson
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import DatasetError, OutputError, SlideError
from nasdm_wsi.slides import ome_tiff
from nasdm_wsi.slides.reading import open_slide
from nasdm_wsi.tools.export import export
from nasdm_wsi.tools.prepare import prepare
from nasdm_wsi.tools.sets import SPLITS, Source, export_set, find_sources, split

SIZE = (120, 150)


def drawn():
    places = np.stack(np.meshgrid(np.arange(12, 140, 20), np.arange(12, 110, 20)), -1)
    discs = shapely.buffer(shapely.points(places.reshape(-1, 2)), 6)
    return Nuclei.from_polygons(discs, np.arange(len(discs)) % 6 + 1, mpp=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six slides with their nuclei beside them, and files that are no slides."""
    folder = tmp_path_factory.mktemp("slides")
    for k in range(6):
        pixels = np.roll(tissue(*SIZE), 7 * k, axis=1)
        ome_tiff.write(folder / f"s{k}.ome.tif", pixels, mpp=0.5, description="", lossless=True)
        write_geojson(folder / f"s{k}.geojson", drawn())
    (folder / "notes.txt").write_text("no slide")
    (folder / "s1.csv").write_text("a,b\n1,2\n")
    (folder / "s2.ome.tif.run").mkdir()
    return folder


def table(path):
    with open(path / "tiles.csv", newline="") as file:
        return list(csv.DictReader(file))


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


# Other pixel sizes


@pytest.mark.parametrize("mpp_out", [0.25, 0.75, 1.0])
def test_tiles_have_the_pixel_size_that_was_asked_for_and_tell_it(folder, tmp_path, mpp_out):
    """Masks are rasterised at that size, pictures are the slide read at it."""
    slide, out = folder / "s0.ome.tif", tmp_path / "out"
    run("export", slide, "-o", out, "--format", "masks", "--tile", 64, "--mpp-out", mpp_out)
    rows, size = table(out), tuple(round(n * 0.5 / mpp_out) for n in SIZE)
    instances, _ = Conditioning(drawn().scaled(mpp_out), size).labels((0, 0, *size))
    assert len(rows) == math.prod(math.ceil(n / 64) for n in size)
    with open_slide(slide) as opened:
        for row in rows:
            x, y = (int(part[1:]) for part in row["name"].rsplit("_", 2)[1:])
            picture = imread(out / row["image"])
            mask = imread(out / f"{row['name']}_masks.png")
            box = (y, x, y + mask.shape[0], x + mask.shape[1])
            np.testing.assert_array_equal(picture, opened.read(box, mpp=mpp_out))
            inside = instances[box[0] : box[2], box[1] : box[3]]
            np.testing.assert_array_equal(mask > 0, inside > 0)
            assert float(row["mpp"]) == mpp_out and row["patient"] == "s0"
            for name in (row["image"], f"{row['name']}_masks.png"):
                with Image.open(out / name) as picture:
                    dpi = picture.info["dpi"]
                assert dpi == pytest.approx((25400 / mpp_out,) * 2, rel=1e-5)


def test_prepare_reads_the_pixel_size_of_tiles(folder, tmp_path):
    """As a table, tiles are brought to the pixel size of the dataset."""
    export(folder / "s0.ome.tif", tmp_path / "tiles", form="lizard", mpp_out=0.25)
    for mpp, size in ((0.25, [240, 300]), (0.5, [120, 150])):
        (row,) = prepare([tmp_path / "tiles" / "tiles.csv"], tmp_path / f"{mpp}", mpp=mpp)
        assert row["size"] == size and sum(row["nuclei"].values()) == len(drawn())


def test_label_pyramids_have_the_pixel_size_that_was_asked_for(folder, tmp_path):
    export(folder / "s0.ome.tif", tmp_path / "types.tif", form="types", mpp_out=1.0)
    with open_slide(tmp_path / "types.tif") as slide:
        assert slide.size == (60, 75) and slide.mpp == pytest.approx(1.0)
    _, types = Conditioning(drawn().scaled(1.0), (60, 75)).labels((0, 0, 60, 75))
    np.testing.assert_array_equal(imread(tmp_path / "types.tif"), types)


@pytest.mark.parametrize("mpp_out", [0, 0.01, 100, float("nan")])
def test_impossible_pixel_sizes_are_refused(folder, tmp_path, mpp_out):
    with pytest.raises(SlideError, match="s0.ome.tif has 0.5 .* give a `mpp_out` of 0.0625 to 60"):
        export(folder / "s0.ome.tif", tmp_path / "a", form="coco", mpp_out=mpp_out)
    with pytest.raises(OutputError, match="counts in pixels of the slide"):
        export(folder / "s0.ome.tif", tmp_path / "a.db", form="tiatoolbox", mpp_out=1.0)
    assert not list(tmp_path.iterdir())


# Many slides


def test_a_folder_of_slides_is_one_set(folder, tmp_path):
    assert "masks of 6 slides" in run("export", folder, "-o", tmp_path / "a", "--format", "masks")
    assert [row["name"] for row in table(tmp_path / "a")] == [f"s{k}_x0_y0" for k in range(6)]
    for k in range(6):
        export(folder / f"s{k}.ome.tif", tmp_path / f"{k}", form="masks")
        name = f"s{k}_x0_y0.png"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / f"{k}" / name).read_bytes()


@pytest.mark.parametrize("form", ["coco", "masks"])
def test_a_split_has_every_slide_once(folder, tmp_path, form):
    out = tmp_path / "set"
    command = ["export", folder, "-o", out, "--format", form, "--split", 0.5, 0.25, 0.25]
    said = run(*command, "--seed", 3)
    assert f"set: {form} of 6 slides, 3 in train, 2 in val, 1 in test" in said
    found = {name: {row["patient"] for row in table(out / name)} for name in SPLITS}
    assert sorted(s for names in found.values() for s in names) == [f"s{k}" for k in range(6)]
    other = split(find_sources([folder]), (0.5, 0.25, 0.25), seed=4)
    assert found != {name: {s.name for s in sources} for name, sources in other.items()}


def test_the_slides_of_a_patient_stay_together(folder, tmp_path):
    patients = ["ann", "bob", "ann", "cy", "bob", ""]
    lines = [f"{folder}/s{k}.ome.tif,{name}" for k, name in enumerate(patients)]
    (tmp_path / "slides.csv").write_text("\n".join(["slide,patient", *lines]))
    parts = export_set(
        *(find_sources([tmp_path / "slides.csv"]), tmp_path / "set"),
        form="masks",
        shares=(1, 0, 1),
    )
    assert set(parts) == {"train", "test"} and all(len(found) == 3 for found in parts.values())
    of = {row["patient"]: name for name in parts for row in table(tmp_path / "set" / name)}
    assert set(of) == {"ann", "bob", "cy", "s5"}
    assert sum(len(table(tmp_path / "set" / name)) for name in parts) == 6


@given(
    counts=st.lists(st.integers(1, 5), min_size=3, max_size=30),
    shares=st.tuples(*(st.floats(0.05, 1) for _ in SPLITS)),
    seed=st.integers(0, 9),
)
@settings(max_examples=60)
def test_splits_keep_to_their_shares(counts, shares, seed):
    sources = [
        Source(slide=f"{name}-{k}.svs", patient=f"p{name}")
        for name, count in enumerate(counts)
        for k in range(count)
    ]
    found = split(sources, shares, seed=seed)
    assert found == split(sources, shares, seed=seed)
    assert found == split(sources, [4 * share for share in shares], seed=seed)  # proportions
    of = [(s.patient, name) for name, members in found.items() for s in members]
    assert len(of) == len(sources) and len(set(of)) == len(counts)
    for name, share in zip(SPLITS, shares, strict=True):
        wanted = len(sources) * share / sum(shares)
        assert found[name] and (len(found[name]) < wanted + max(counts) + 1)


def test_a_table_says_where_the_labels_are(folder, tmp_path):
    write_geojson(tmp_path / "half.geojson", drawn().take(np.arange(9)))
    text = f"slide,labels\n{folder}/s0.ome.tif,half.geojson\n{folder}/s1.ome.tif,\n"
    (tmp_path / "slides.csv").write_text(text, encoding="utf-8-sig")
    export_set(find_sources([tmp_path / "slides.csv"]), tmp_path / "set", form="masks")
    counts = [imread(tmp_path / "set" / f"s{k}_x0_y0_masks.png").max() for k in (0, 1)]
    assert counts == [9, len(drawn())]


@pytest.mark.parametrize("split", [(), ("--split", 1, 1, 0)])
def test_a_slide_that_fails_does_not_stop_the_others(folder, tmp_path, split):
    """One cannot be opened, one has no nuclei, and one ends within its pixels."""
    whole = (folder / "s0.ome.tif").read_bytes()
    for name, content in (("broken", whole[:2000]), ("bare", whole)):
        (tmp_path / f"{name}.ome.tif").write_bytes(content)
    write_geojson(tmp_path / "broken.geojson", drawn())
    slides = (tmp_path / "broken.ome.tif", folder, tmp_path / "bare.ome.tif")
    said = run("export", *slides, "-o", tmp_path / "set", "--format", "coco", *split, code=1)
    lines = said.splitlines()
    assert "set: coco of 8 slides" in lines[0] and lines[0].endswith("2 failed")
    assert sorted(line[:16] for line in lines[1:]) == ["Error: bare.ome.", "Error: broken.om"]
    assert "--labels" in said
    sets = [tmp_path / "set" / name for name in ("train", "val")] if split else [tmp_path / "set"]
    rows = [row["patient"] for place in sets for row in table(place)]
    assert sorted(rows) == [f"s{k}" for k in range(6)]


def test_tiles_before_a_damaged_part_are_kept_and_told(folder, tmp_path):
    damaged = tmp_path / "damaged.ome.tif"
    pixels = tissue(512, 1536)
    ome_tiff.write(damaged, pixels, mpp=0.5, description="", lossless=True)
    with TiffFile(damaged) as file:
        place, length = file.pages[0].dataoffsets[1], file.pages[0].databytecounts[1]
    with open(damaged, "r+b") as file:
        file.seek(place)
        file.write(bytes(length))
    discs = shapely.buffer(shapely.points([(100, 100), (700, 100), (1200, 100)]), 6)
    write_geojson(tmp_path / "damaged.geojson", Nuclei.from_polygons(discs, [1, 2, 3], mpp=0.5))
    slides = (damaged, folder / "s0.ome.tif")
    said = run("export", *slides, "-o", tmp_path / "set", "--format", "masks", code=1)
    assert said.count("Error: ") == 1 and "(tiles kept: 1)" in said
    names = [row["name"] for row in table(tmp_path / "set")]
    assert names == ["damaged_x0_y0", "s0_x0_y0"]


def test_mistakes_are_one_line_and_leave_nothing(folder, tmp_path):
    a = folder / "s0.ome.tif"
    (tmp_path / "empty").mkdir()
    imsave(tmp_path / "s0.png", tissue(*SIZE))
    cases = {
        "column.csv": (f"slide,patients\n{a},ann\n", "row 1: unknown column 'patients': use slide"),
        "none.csv": ("slide\n", "no slides: give a CSV"),
        "gone.csv": ("slide\ngone.svs\n", "row 1: there is no file .*gone.svs: correct slide"),
        "blank.csv": (f"slide,patient\n{a},ann\n,bob\n", "row 2: slide is empty"),
        "other.csv": ("image\na.png\n", "no column named slide"),
        "twice.csv": (f"slide\n{a}\ns0.png\n", "s0.ome.tif and .*s0.png would give tiles of the"),
    }
    for name, (text, message) in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DatasetError, match=message):
            find_sources([tmp_path / name])
    with pytest.raises(DatasetError, match="no slide there has its nuclei beside it"):
        find_sources([tmp_path / "empty"])
    out = ("-o", tmp_path / "out", "--format")
    assert "give more slides, or --split" in run(
        "export", a, *out, "masks", "--split", 1, 1, 1, code=1
    )
    assert "--format types is for one slide" in run("export", folder, *out, "types", code=1)
    labels = ("--labels", folder / "s0.geojson")
    assert "--labels are of one slide" in run("export", folder, *out, "masks", *labels, code=1)
    assert "such as 0.7 0.15 0.15" in run("export", a, *out, "masks", "--split", 0, 0, 0, code=1)
    for name in ("broken", "damaged"):
        (tmp_path / f"{name}.ome.tif").write_bytes(a.read_bytes()[:2000])
    said = run("export", *tmp_path.glob("*.ome.tif"), *out, "coco", code=1)
    assert said.count("Error: ") == 1 and "no slide can be exported: " in said
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))
    (tmp_path / "out").mkdir()
    assert "out exists" in run("export", folder, *out, "masks", code=1)

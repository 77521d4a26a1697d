"""The stress test of segmenters: its pairs of pictures, and how it scores what is read there."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shapely
from helpers import PATIENCE, labelled_tissue
from PIL import Image

from nasdm_wsi.annotations.geojson import read_geojson, write_geojson
from nasdm_wsi.annotations.labels import from_labels
from nasdm_wsi.annotations.raster import Conditioning, Cover
from nasdm_wsi.errors import NasdmError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
KINDS = {"added", "removed", "retyped", "thinned", "stained", "blurred"}


@pytest.fixture(scope="module")
def stress():
    sys.path.insert(0, str(BENCHMARKS))
    import stress

    yield stress
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def folder(fitting_weights, tmp_path_factory):
    """A pair of each kind, of a made-up slide."""
    folder = tmp_path_factory.mktemp("stress")
    image, instances, types = labelled_tissue((210, 240), seed=3)
    Image.fromarray(image).save(folder / "slide.png")
    write_geojson(folder / "slide.geojson", from_labels(instances, types, mpp=0.5))
    settings = f"--mpp 0.5 --count 1 --side 160 --weights {fitting_weights}".split()
    command = BENCHMARKS / "stress.py", "pairs", folder / "slide.png", "-o", folder / "pairs"
    subprocess.run([sys.executable, *command, *settings], check=True, timeout=PATIENCE)
    return folder / "pairs"


def views(pair, folder):
    return [
        np.array(Image.open(folder / f"{pair.name}-{v}.png"))
        for v in ("control", "before", "after")
    ]


def predictions(stress, folder, out, read):
    """Write what a segmenter reads: ``read`` gives the view whose truth it says for each view."""
    out.mkdir()
    for pair in stress.load(folder):
        for view in stress.VIEWS:
            truth = folder / "truth" / f"{pair.name}-{read(view)}.geojson"
            shutil.copy(truth, out / f"{pair.name}-{view}.geojson")
    return out


def rows(text):
    """The cells of the table that `score` prints, by what was changed."""
    cells = [[c.strip() for c in line.strip("| \n").split(" | ")] for line in text.splitlines()]
    return {row[0]: dict(zip(cells[1], row, strict=False)) for row in cells[3:]}


def test_only_the_area_differs(stress, folder):
    pairs = stress.load(folder)
    assert {pair.kind for pair in pairs} == KINDS
    for pair in pairs:
        control, before, after = views(pair, folder)
        assert (before != after).any()
        if area := shapely.from_wkt(pair.area):
            outside = ~Cover(area).mask((0, 0, *before.shape[:2]))
            np.testing.assert_array_equal(before[outside], after[outside])
            np.testing.assert_array_equal(control[outside], before[outside])
            assert (control != before).any()


def test_places_tell_what_the_truth_shows(stress, folder):
    for pair in stress.load(folder):
        assert bool(pair.places) == (pair.kind not in ("stained", "blurred"))
        for column, view in enumerate(("before", "after"), 2):
            truth = read_geojson(folder / "truth" / f"{pair.name}-{view}.geojson", mpp=0.5)
            _, types = Conditioning(truth, (160, 160)).labels((0, 0, 160, 160))
            for place in pair.places:
                assert types[int(place[1]), int(place[0])] == place[column]


def test_the_truth_scores_all_and_a_blind_segmenter_nothing(stress, folder, tmp_path, capsys):
    stress.score(folder, folder / "truth", {})
    right = rows(capsys.readouterr().out)
    blind = predictions(stress, folder, tmp_path / "blind", lambda view: "before")
    stress.score(folder, blind, {})
    wrong = rows(capsys.readouterr().out)
    for kind in ("added", "removed", "retyped", "thinned"):
        assert right[kind]["change seen (95 %)"].startswith("100%")
        assert right[kind]["as asked"] == "100%"
        assert right[kind]["elsewhere lost"] == right[kind]["gained"] == "0.0%"
        assert wrong[kind]["change seen (95 %)"].startswith("0%")
        assert wrong[kind]["place read as annotated before"] == "100%"


def test_what_is_seen_without_a_change_is_told(stress, folder, tmp_path, capsys):
    swapped = {"control": "before", "before": "after", "after": "after"}
    stress.score(folder, predictions(stress, folder, tmp_path / "p", swapped.get), {})
    row = rows(capsys.readouterr().out)["removed"]
    assert row["seen without a change"] == "100%" and row["change seen (95 %)"].startswith("0%")


def test_neighbours_that_change_are_counted(stress, tmp_path):
    area = shapely.Point(50, 50).buffer(10)
    outlines = shapely.buffer(
        shapely.points([(50, 50), (70, 50), (50, 75), (30, 50), (150, 50)]), 4
    )

    def reading(name, kept, types):
        from nasdm_wsi.annotations.nuclei import Nuclei

        write_geojson(tmp_path / name, Nuclei.from_polygons(outlines[kept], types, mpp=0.5))
        return stress.Reading(tmp_path / name, 0.5, {})

    first = reading("a.geojson", [0, 1, 2, 4], [1, 2, 3, 4])
    second = reading("b.geojson", [1, 3], [6, 2])
    # The one in the middle is in the area, and the last is 40 micrometres off.
    assert stress.differences(first, second, area).tolist() == [2, 1, 1, 1]
    assert stress.differences(first, second, shapely.Polygon()).tolist() == [4, 3, 1, 1]


def test_label_images_of_one_class_are_scored_without_types(stress, folder, tmp_path, capsys):
    for path in (folder / "truth").iterdir():
        truth = read_geojson(path, mpp=0.5)
        instances, _ = Conditioning(truth, (160, 160)).labels((0, 0, 160, 160))
        np.save(tmp_path / f"{path.stem}.npy", instances)
    stress.score(folder, tmp_path, {"nuclei": "epithelial"})
    found = rows(capsys.readouterr().out)
    assert found["removed"]["change seen (95 %)"].startswith("100%")
    assert found["retyped"]["change seen (95 %)"].startswith("0%")
    assert found["added"]["as asked"] == found["added"]["retyped"] == ""


def test_a_picture_without_prediction_is_named(stress, folder, tmp_path):
    with pytest.raises(NasdmError, match=r"no file added-000-control\.\*: segment all pictures"):
        stress.score(folder, tmp_path, {})

"""Every option of every command reaches what it is about: a test sees the effect of each."""

import csv
import json
import re
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner
from helpers import labelled_tissue
from PIL import Image
from skimage.io import imread, imsave
from werkzeug.test import Client

from nasdm_wsi import Nuclei, find_style, plan_render, read_annotations, render, render_region
from nasdm_wsi.annotations.raster import Conditioning
from nasdm_wsi.cli.main import main
from nasdm_wsi.model import Painter
from nasdm_wsi.model.config import PRESETS
from nasdm_wsi.model.evaluation import evaluate as measures
from nasdm_wsi.model.families import build
from nasdm_wsi.mosaic import cluster as clusters
from nasdm_wsi.slides import ome_tiff
from nasdm_wsi.viewer import app

TESTS = Path(__file__).parent
SEEN: dict[tuple[str, str], str] = {  # by a test of another file
    ("", "--version"): "test_docs.py::test_the_version_tells_what_a_bug_report_needs",
    **{
        ("edit", option): f"test_edit.py::test_{test}"
        for test, given in {
            "outside_the_mask_every_pixel_is_that_of_the_slide": "--out --remove --mask",
            "labels_say_what_has_become_of_each_nucleus": "--insert --swap",
            "the_same_command_gives_the_same_bytes_and_another_seed_others": (
                "--seed --style --guidance --margin"
            ),
            "an_edit_resumes_and_existing_outputs_are_kept": "--thin --overwrite",
            "other_formats_are_written_anew_without_loss": "--mpp",
            "what_is_painted_follows_the_area_and_the_difference": "--area --before",
            "what_cannot_be_edited_is_refused": "--weights",
            "regions_inside_the_area_are_painted": "--regions",
            "annotations_are_read_as_the_options_say": (
                "--class-map --ignore-class --tissue-class --class-property --contours --max-pixels"
            ),
            "steps_device_and_workers_are_those_of_the_options": (
                "--steps --device --workers --quiet"
            ),
        }.items()
        for option in given.split()
    },
    ("render", "--like"): "test_formats.py::test_render_like_a_slide",
    ("render", "--suffix"): "test_many.py::test_a_folder_becomes_a_folder_of_slides",
    ("render", "--mpp-out"): (
        "test_resampling.py::test_annotations_at_40x_get_a_slide_at_40x_with_their_own_coordinates"
    ),
    ("render", "--device"): "test_cli.py::test_a_mistake_ends_in_one_line_and_leaves_nothing",
    ("render", "--dry-run"): "test_cli.py::test_dry_run_prints_the_plan_and_touches_nothing",
    ("render", "--overwrite"): "test_cli.py::test_existing_outputs_are_kept_unless_told_otherwise",
    ("render", "--max-canvas"): (
        "test_plausible.py::test_canvases_are_weighed_before_anything_is_made"
    ),
    ("export", "--mpp-out"): (
        "test_sets.py::test_tiles_have_the_pixel_size_that_was_asked_for_and_tell_it"
    ),
    ("export", "--split"): "test_sets.py::test_a_split_has_every_slide_once",
    ("export", "--seed"): "test_sets.py::test_a_split_has_every_slide_once",
    ("render", "--regions"): "test_region_files.py::test_render_paints_the_regions_of_the_option",
    ("info", "--mpp"): "test_plausible.py::test_the_size_of_the_nuclei_is_weighed",
    ("seams", "--stride"): "test_seams.py::test_what_cannot_be_measured_is_one_line",
    ("prepare", "--fold"): "test_sources.py::test_fold_takes_the_pictures_of_a_fold",
    ("prepare", "--held-out-patient"): (
        "test_tables.py::test_the_command_reads_a_csv_and_follows_its_options"
    ),
    ("prepare", "--max-pixels"): (
        "test_tables.py::test_the_command_reads_a_csv_and_follows_its_options"
    ),
    ("prepare", "--class-map"): (
        "test_sources.py::test_numbers_of_hovernet_and_consep_are_named_by_the_user"
    ),
    ("prepare", "--ignore-class"): (
        "test_sources.py::test_numbers_of_hovernet_and_consep_are_named_by_the_user"
    ),
    ("convert", "--out"): "test_cli.py::test_convert_and_its_mistakes",
    ("view", "--port"): "test_view.py::test_mistakes_end_in_one_line",
    ("layout", "--nuclei"): (
        "test_layout_nuclei.py::test_the_command_takes_the_nuclei_from_the_network"
    ),
    ("layout", "--glands"): (
        "test_layout_regions.py::test_the_command_takes_the_glands_from_the_network"
    ),
    ("layout", "--workers"): (
        "test_layouts.py::test_the_bytes_do_not_depend_on_the_number_of_processes"
    ),
    ("evaluate", "--inception"): (
        "test_evaluate.py::test_the_command_prints_the_figures_and_writes_the_report"
    ),
}


def sees(command, *options):
    """Mark a test of this file as one that fails if the command drops one of the options."""

    def mark(test):
        place = f"{Path(__file__).name}::{test.__name__}"
        SEEN.update({(command, option): place for option in options})
        return test

    return mark


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A picture of tissue in another stain."""
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    image, *_ = labelled_tissue((160, 200), seed=1)
    imsave(path, image // 2 + 90)
    return path


# Rendering


SETTINGS = {"steps": 3, "guidance": 2.5, "style": "deep"}
REGION = ("--region", 10, 20, 90, 40)  # x, y, width, height


def region_of(annotations, weights, *, seed=5, mpp=0.25, size=(100, 130), **settings):
    settings = {**SETTINGS, **settings}
    style = settings.pop("style")
    painter = Painter(weights, device="cpu", style=style and find_style(style), **settings)
    nuclei = read_annotations(annotations, mpp=mpp)
    return plan_render(nuclei, painter, size=size, region=(20, 10, 60, 100), seed=seed)


@sees(
    "render",
    *("--out", "--mpp", "--size", "--region", "--seed", "--steps", "--guidance", "--style"),
    *("--weights", "--lossless"),
)
def test_render_paints_what_the_options_say(annotations, weights, tmp_path):
    command = ["render", annotations, "-o", tmp_path / "a.tif", "--weights", weights, "--lossless"]
    command += ["--mpp", 0.25, "--size", 130, 100, *REGION, "--seed", 5]
    run(*command, "--steps", 3, "--guidance", 2.5, "--style", "deep", "--device", "cpu")
    painted = tifffile.imread(tmp_path / "a.tif")
    job = region_of(annotations, weights)
    np.testing.assert_array_equal(painted, render_region(job))
    others = [
        *({"seed": 0}, {"mpp": 0.3}, {"size": (130, 100)}),
        *({"steps": 4}, {"guidance": 1.0}, {"style": None}),
    ]
    for other in others:
        assert not np.array_equal(painted, render_region(region_of(annotations, weights, **other)))


@sees("render", "--quality", "--lossless")
def test_the_tiles_are_encoded_as_the_options_say(annotations, weights, tmp_path):
    job, files = region_of(annotations, weights), {}
    command = ["render", annotations, "--mpp", 0.25, "--size", 130, 100, *REGION, "--seed", 5]
    command += ["--weights", weights, "--steps", 3, "--guidance", 2.5, "--style", "deep"]
    for name, options, encoding in (
        ("plain", (), {}),
        ("poor", ("--quality", 30), {"quality": 30}),
        ("exact", ("--lossless",), {"lossless": True}),
    ):
        run(*command, "-o", tmp_path / f"{name}.tif", "--device", "cpu", *options)
        render(job, tmp_path / "same.tif", overwrite=True, **encoding)
        files[name] = (tmp_path / f"{name}.tif").read_bytes()
        assert files[name] == (tmp_path / "same.tif").read_bytes()
    assert len(set(files.values())) == 3


@pytest.mark.skipif(bool(find_spec("dask_cuda")), reason="has what the message asks for")
def test_gpus_are_left_alone_with_device_cpu(annotations, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    command = ["render", annotations, "-o", tmp_path / "a.tif", "--mpp", 0.25, "--size", 40, 40]
    command += ["--weights", weights, "--steps", 2, "--device"]
    assert "several GPUs need dask-cuda" in run(*command, "cuda", code=1)
    run(*command, "cpu")


@pytest.mark.slow
@sees("render", "--workers", "--scheduler")
def test_the_workers_that_were_asked_for_paint(annotations, weights, tmp_path, monkeypatch):
    """The bytes are the same whoever paints: so the clients are watched."""
    seen = []

    def watched(connect):
        @contextmanager
        def connecting(*arguments, **named):
            with connect(*arguments, **named) as client:
                seen.append(len(client.nthreads()))
                yield client

        return connecting

    monkeypatch.setattr(clusters, "local", watched(clusters.local))
    monkeypatch.setattr(clusters, "connect", watched(clusters.connect))
    command = ["render", annotations, "--mpp", 0.25, "--size", 60, 40, "--weights", weights]
    command += ["--steps", 2, "--device", "cpu"]
    run(*command, "-o", tmp_path / "a.tif", "--workers", 2)
    with clusters.LocalCluster(n_workers=3, dashboard_address="127.0.0.1:0") as cluster:
        address = cluster.scheduler_address
        run(*command, "-o", tmp_path / "b.tif", "--scheduler", address)
    assert seen == [2, 3]


# Reading


@pytest.fixture
def unusual(tmp_path):
    """Nuclei and tissue of unusual classes, with integer coordinates; and what reads them."""

    def feature(kind, name, x, y, side):
        ring = [(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)]
        return {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": kind, "cell type": name},
        }

    features = [
        feature("annotation", "Biopsy", 0, 0, 60),
        feature("detection", "Odd", 10, 10, 8),
        feature("detection", "Dirt", 30, 10, 8),
        feature("detection", "Plasma", 10, 30, 8),
    ]
    path = tmp_path / "unusual.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    options = ("--class-map", "Odd=eosinophil", "--ignore-class", "Dirt", "--tissue-class")
    return path, (*options, "Biopsy", "--class-property", "cell type", "--contours", "cv2")


READING = ("--class-map", "--ignore-class", "--tissue-class", "--contours", "--class-property")
PLASMA_AREA = 9 * 9 - 2  # pixel centres 0 to 8 belong to it; as OpenCV traces, corners are cut


def test_each_option_of_reading_matters(unusual):
    """What the tests below look for is there with all five options, and gone without any."""
    path, _ = unusual
    chosen = {
        "class_map": {"Odd": "eosinophil"},
        "ignore_classes": ("Dirt",),
        "tissue_classes": ("Biopsy",),
        "contours": "cv2",
        "class_property": "cell type",
    }
    nuclei = read_annotations(path, mpp=0.5, **chosen)
    assert nuclei.counts()["eosinophil"] == nuclei.counts()["plasma"] == 1
    assert nuclei.tissue is not None and nuclei.extent()[2:] > (60, 60)
    other = read_annotations(path, mpp=0.5, **{**chosen, "contours": "corner"})
    assert other.polygons()[0].area == 64 < nuclei.polygons()[0].area


@sees("render", *READING)
def test_render_reads_as_the_options_say(unusual, weights, tmp_path):
    path, options = unusual
    command = ["render", path, "-o", tmp_path / "a.tif", "--mpp", 0.5, "--size", 90, 80]
    command += ["--lossless", "--weights", weights, "--steps", 2, "--device", "cpu"]
    run(*command, *options)
    written = read_annotations(tmp_path / "a.geojson", mpp=0.5)
    assert written.counts()["eosinophil"] == written.counts()["plasma"] == 1
    assert len(written) == 2 and written.polygons()[0].area > 64
    pixels = tifffile.imread(tmp_path / "a.tif")
    assert (pixels[62:, 62:] == pixels[-1, -1]).all() and pixels[:60, :60].std() > 10  # glass


@sees("info", *READING)
def test_info_reads_as_the_options_say(unusual):
    path, options = unusual
    said = run("info", path, *options)
    assert re.search(r"^Odd +eosinophil +1$", said, re.M)
    assert re.search(r"^Dirt +left out +1$", said, re.M)
    assert re.search(r"^Biopsy +tissue outline +1$", said, re.M)
    assert "extent          x 0.0 to 60.0" in run("info", path, *options[:-1], "corner")
    assert "extent          x 0.0 to 60.0" not in said


@sees("export", "--out", "--format", "--labels", "--mpp", *READING)
def test_export_reads_as_the_options_say(unusual, tmp_path):
    path, options = unusual
    slide, out = tmp_path / "slide.tif", tmp_path / "types.tif"
    ome_tiff.write(slide, np.full((80, 90, 3), 200, np.uint8), mpp=0.25, description="")
    command = ["export", slide, "-o", out, "--format", "types", "--labels", path]
    run(*command, "--mpp", 0.5, *options)
    types = tifffile.imread(out)
    nuclei = read_annotations(
        path,
        mpp=0.5,
        class_map={"Odd": "eosinophil"},
        ignore_classes=("Dirt",),
        tissue_classes=("Biopsy",),
        contours="cv2",
        class_property="cell type",
    )
    _, expected = Conditioning(nuclei.scaled(0.25), (80, 90)).labels((0, 0, 80, 90))
    np.testing.assert_array_equal(types, expected)
    assert set(np.unique(types)) == {0, 4, 5}


@sees("render", "--max-pixels")
@sees("info", "--max-pixels")
@sees("export", "--max-pixels")
@sees("view", "--max-pixels")
def test_commands_limit_the_pixels_of_label_images(tmp_path, weights, monkeypatch):
    labels, slide = tmp_path / "labels.png", tmp_path / "slide.tif"
    imsave(labels, np.full((20, 20), 7, np.uint8), check_contrast=False)
    ome_tiff.write(slide, np.full((80, 90, 3), 200, np.uint8), mpp=0.25, description="")
    few, mpp = ("--max-pixels", 399), ("--mpp", 0.5)
    out = ("-o", tmp_path / "out.tif")
    render = ("render", labels, *out, *mpp, "--size", 90, 80, "--weights", weights)
    export = ("export", slide, *out, "--format", "types", "--labels", labels, *mpp)
    for command in (render, export, ("info", labels)):
        assert "raise --max-pixels" in run(*command, *few, code=1)
    heard = []

    class Listening:
        host, port = "127.0.0.1", 9

        def serve_forever(self):
            pass

    @contextmanager
    def listen(viewer, *, port):
        heard.append(Client(viewer).get(f"/0/nuclei?token={viewer.token}").text)
        yield Listening()

    monkeypatch.setattr(app, "serve", listen)
    run("view", slide, "--labels", labels, *few, "--no-browser")
    assert "raise --max-pixels" in heard[0]


@sees("view", "--labels", "--no-browser", *READING)
def test_view_reads_as_the_options_say(unusual, tmp_path, monkeypatch):
    """The real page answers; only listening is left out."""
    path, options = unusual
    heard, opened = [], []

    class Listening:
        host, port = "127.0.0.1", 9

        def serve_forever(self):
            pass

    @contextmanager
    def listen(viewer, *, port):
        heard.append(Client(viewer).get(f"/0/nuclei?token={viewer.token}").json)
        heard.append(viewer._slides[0].overlay.nuclei)
        yield Listening()

    monkeypatch.setattr(app, "serve", listen)
    monkeypatch.setattr("webbrowser.open", opened.append)
    slide = tmp_path / "slide.tif"
    ome_tiff.write(slide, np.full((80, 90, 3), 200, np.uint8), mpp=0.5, description="")
    run("view", slide, "--labels", path, *options, "--no-browser")
    counts, nuclei = heard
    assert counts["eosinophil"] == counts["plasma"] == 1 and sum(counts.values()) == 2
    assert isinstance(nuclei, Nuclei) and nuclei.polygons()[0].area > 64
    assert not opened


# Other commands


@sees("", "--verbose")
def test_verbose_says_more(annotations, tmp_path):
    """In a process of its own: logging is set up once."""
    slide = tmp_path / "slide.tif"
    ome_tiff.write(slide, np.full((80, 90, 3), 200, np.uint8), mpp=0.25, description="")
    command = ["export", slide, "--format", "tiatoolbox", "--labels", annotations, "-o"]
    for flags in ([], ["-v"]):
        words = [*flags, *command, tmp_path / f"{len(flags)}.db"]
        done = subprocess.run(
            [sys.executable, "-m", "nasdm_wsi.cli", *map(str, words)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert ("INFO: " in done.stderr and "50 nuclei" in done.stderr) is bool(flags)


WITH_QUIET = ("render", "export", "prepare", "train", "convert", "evaluate", "layout")
for name in ("", *WITH_QUIET):
    SEEN[name, "--quiet"] = "test_manners.py::test_quiet_prints_results_and_mistakes_only"


@sees("info", "--json")
def test_info_prints_what_programs_read(unusual):
    path, options = unusual
    told = json.loads(run("info", path, *options, "--json"))
    assert told["kind"] == "annotations" and told["types"]["eosinophil"] == 1 and told["tissue"]


@sees("seams", "--seed")
def test_seams_draws_by_the_seed(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 12, (1100, 1100, 1)) + [150, 90, 160]
    slide = tmp_path / "slide.tif"
    ome_tiff.write(slide, noise.clip(0, 255).astype(np.uint8), mpp=0.5, description="")
    said = [run("seams", slide, "--stride", 128, "--seed", seed) for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


@sees("export", "--tile", "--overwrite")
def test_export_cuts_tiles_and_replaces_as_the_options_say(annotations, tmp_path):
    slide = tmp_path / "slide.tif"
    ome_tiff.write(slide, np.full((300, 400, 3), 200, np.uint8), mpp=0.25, description="")
    command = ["export", slide, "--labels", annotations]
    run(*command, "-o", tmp_path / "tiles", "--format", "masks", "--tile", 70)
    sizes = {imread(path).shape[:2] for path in (tmp_path / "tiles").glob("*.png")}
    assert sizes and max(map(max, sizes)) <= 70
    store = ["-o", tmp_path / "a.db", "--format", "tiatoolbox"]
    run(*command, *store)
    assert "give --overwrite" in run(*command, *store, code=1)
    run(*command, *store, "--overwrite")


@sees(
    "prepare",
    *("--out", "--held-out", "--mpp", "--exclude", "--normalise-to", "--stain-backend", "--seed"),
)
def test_prepare_follows_its_options(lizard_source, picture, tmp_path):
    def manifest(*options):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        run("prepare", lizard_source, "-o", out, *options)
        return json.loads((out / "manifest.json").read_text())

    plain, other = manifest(), manifest("--held-out", 0.3, "--exclude", "b", "--seed", 9)
    assert [region["name"] for region in other["regions"]] == ["a"]

    def held(settings):
        return settings["regions"][0]["held_out"]

    def area(boxes):
        return sum((y1 - y0) * (x1 - x0) for y0, x0, y1, x1 in boxes)

    assert area(held(other)) == pytest.approx(0.3 * 160 * 200, rel=0.1)
    assert area(held(plain)) == pytest.approx(0.075 * 160 * 200, rel=0.1)
    assert held(manifest("--held-out", 0.3)) != held(other) and other["seed"] == 9
    assert manifest("--mpp", 0.25)["regions"][0]["mpp"] == 0.25
    assert manifest("--normalise-to", picture)["normalised"]["target"] == str(picture)
    out = tmp_path / "staintools"
    command = ["prepare", lizard_source, "-o", out, "--normalise-to", picture]
    try:
        import staintools  # noqa: F401
    except ImportError:
        assert "staintools" in run(*command, "--stain-backend", "staintools", code=1)


@sees("train", "--out", "--preset", "--images", "--seed", "--device", "--init")
def test_train_follows_its_options(dataset, tmp_path):
    def said(out, *options):
        run("train", dataset, "-o", tmp_path / out, "--preset", "tiny", "--images", 8, *options)
        return run("info", tmp_path / out / "weights.safetensors")

    first = said("a", "--device", "cpu")
    said("b", "--device", "cpu", "--seed", 3)
    assert "tiny" in first and re.search(r"'?images'?[:=] ?8\b", first)
    last = [run("info", tmp_path / name / "last.safetensors") for name in "ab"]
    assert re.search(r"seed +0$", last[0], re.M) and re.search(r"seed +3$", last[1], re.M)
    said("c", "--device", "cpu", "--init", tmp_path / "b" / "weights.safetensors")
    weights = {(tmp_path / name / "weights.safetensors").read_bytes() for name in "abc"}
    assert len(weights) == 3
    command = ["train", dataset, "-o", tmp_path / "d", "--preset", "tiny", "--images", 8]
    assert "cuda:99" in run(*command, "--device", "cuda:99", code=1)


@sees("train", "--compile")
def test_train_compiles_the_network(dataset, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *_, **__: compiled.append(self))
    run("train", dataset, "-o", tmp_path, "--preset", "tiny", "--images", 4, "--compile")
    assert compiled


def colours(pictures):
    """Features that need no network."""
    means = pictures.mean(axis=(1, 2))
    return np.concatenate([means, pictures.std(axis=(1, 2))], axis=1), means / means.sum(1)[:, None]


@sees("evaluate", "--out", "--weights", "--steps", "--guidance", "--seed", "--device", "--ablate")
def test_evaluate_follows_its_options(weights, tmp_path, monkeypatch):
    image, _, types = labelled_tissue((400, 400), seed=3)
    imsave(tmp_path / "a.png", image)
    imsave(tmp_path / "a_classes.png", types, check_contrast=False)
    run("prepare", tmp_path, "-o", tmp_path / "data", "--held-out", 0.2)
    monkeypatch.setattr(measures, "efficientnet", lambda: measures.Features("colours", colours))

    def table(name, *options):
        command = ["evaluate", tmp_path / "data", "-o", tmp_path / name, "--device", "cpu"]
        run(*command, *options)
        with open(tmp_path / name / "table.csv", newline="") as file:
            return list(csv.DictReader(file))

    plain = ("--weights", weights, "--steps", 3)
    base = table("base", *plain)
    for name, options in (
        ("seed", (*plain, "--seed", 7)),
        ("guidance", (*plain, "--guidance", 7)),
        ("steps", ("--weights", weights, "--steps", 2)),
        ("weights", ("--steps", 3)),
    ):
        assert table(name, *options) != base, name
    rows = table("ablate", *plain, "--ablate", "guidance")
    assert len({row["guidance"] for row in rows}) == len(rows) > 2
    command = ["evaluate", tmp_path / "data", "--weights", weights, "--device", "cuda:99"]
    assert "cuda:99" in run(*command, code=1)


@sees("convert", "--overwrite")
def test_convert_replaces_when_told(tmp_path):
    network = build(PRESETS["nasdm-tiny"].network)
    torch.save(network.state_dict(), tmp_path / "ema.pt")
    command = ["convert", tmp_path / "ema.pt", "-o", tmp_path / "a.safetensors"]
    (tmp_path / "a.safetensors").write_text("older")
    assert "give --overwrite" in run(*command, code=1)
    run(*command, "--overwrite")
    assert (tmp_path / "a.safetensors").stat().st_size > 1000


@sees(
    "layout",
    *("--out", "--size", "--mpp", "--seed", "--count", "--tissue", "--density", "--share"),
    *("--overwrite", "--plan", "--regions", "--like", "--class-map", "--ignore-class"),
)
def test_layout_makes_what_the_options_say(tmp_path):
    def made(*options, name="a", size=(240, 240)):
        path = tmp_path / f"{name}.geojson"
        fixed = ("--nuclei", "rules", "--workers", 1, "--overwrite")
        run("layout", "-o", path, "--size", *size, *fixed, *options)
        return read_annotations(path, mpp=0.5)

    base = made()
    assert base.extent()[2:] == (240, 240)
    assert made("--size", 250, 230).extent()[2:] == (230, 250)
    assert made("--seed", 1).fingerprint() != base.fingerprint()
    assert made("--tissue", "carcinoma").fingerprint() != base.fingerprint()
    # The same tissue in pixels of a quarter of a micrometre.
    fine = made("--mpp", 0.25, size=(480, 480))
    assert fine.counts()["lymphocyte"] == base.counts()["lymphocyte"] and fine.extent()[2:] == (
        480,
        480,
    )
    pair = made(size=(480, 480)), made("--share", "lymphocyte=3x", size=(480, 480))
    few, many = (nuclei.counts()["lymphocyte"] for nuclei in pair)
    assert 2 * few < many < 4 * few
    assert made("--density", "eosinophil=3000").counts()["eosinophil"] > 25
    like = made("--like", tmp_path / "a.geojson", name="c").counts()
    assert like["eosinophil"] > base.counts()["eosinophil"]
    # The regions of the canvas that they were drawn on.
    filled = made("--regions", tmp_path / "a.geojson", name="c")
    assert len(filled.regions) == len(base.regions)
    Image.fromarray(np.full((2, 2), 6, np.uint8)).save(tmp_path / "plan.png")
    assert made("--plan", tmp_path / "plan.png").regions.counts() == {"muscle": 1, "stroma": 1}
    labels = np.ones((240, 240), np.uint8)
    labels[60:180, 60:180] = 7
    Image.fromarray(labels).save(tmp_path / "labels.png")
    drawn = ("--regions", tmp_path / "labels.png", "--class-map", "1=stroma")
    named = made(*drawn, "--class-map", "7=mucus", name="c").regions
    assert named.counts() == {"stroma": 1, "mucus": 1}
    assert made(*drawn, "--ignore-class", 7, name="c").regions.counts() == {"stroma": 1}
    tiny = ("layout", "-o", tmp_path / "b.geojson", "--size", 99, 99, "--nuclei", "rules")
    run(*tiny, "--seed", 4, "--count", 2)
    names = sorted(path.name for path in tmp_path.glob("b*"))
    assert names == ["b_4.geojson", "b_5.geojson"]
    assert "give --overwrite" in run(*tiny, "--seed", 5, "--count", 3, code=1)
    assert not (tmp_path / "b_6.geojson").exists()


def test_every_option_of_every_command_is_seen_by_a_test():
    wanted = {
        (name, max(option.opts, key=len))
        for name, command in {"": main, **main.commands}.items()
        for option in command.params
        if isinstance(option, click.Option)
    }
    assert wanted - set(SEEN) == set() and set(SEEN) - wanted == set()
    for place in SEEN.values():
        file, test = place.split("::")
        assert f"def {test}(" in (TESTS / file).read_text(encoding="utf-8"), place

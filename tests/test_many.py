"""Many slides by one call: a queue that survives failures, and goes on where it was stopped."""

import csv
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from helpers import PATIENCE, wait_for
from skimage.io import imsave
from toy import ToyPainter, toy_job

from nasdm_wsi.annotations.geojson import write_geojson
from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import AnnotationError, OutputError, PlanError
from nasdm_wsi.rendering import plan_render, render
from nasdm_wsi.slides.formats import FORMATS
from nasdm_wsi.tools import many
from nasdm_wsi.tools.many import Order, annotations_in, outputs_of, read_manifest, render_many

EXACT = {"lossless": True}


def small_job(k, painter=None):
    """A slide of four blocks."""
    nuclei = toy_job().nuclei.shifted(-70, -70)
    return plan_render(nuclei, painter or ToyPainter(), size=(60, 40 + k), seed=k)


def orders_in(folder, count=4, job=small_job):
    return [Order(folder / f"{k}.ome.tif", partial(job, k), encoding=EXACT) for k in range(count)]


def states(outcomes):
    """The first letters of failed, rendered, complete."""
    return "".join("f" if o.failure else "c" if o.painted is None else "r" for o in outcomes)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# The queue


def test_every_slide_is_what_render_makes_of_it(tmp_path):
    for name in ("one", "many"):
        (tmp_path / name).mkdir()
    for order in orders_in(tmp_path / "one"):
        render(order.plan(), order.out, **EXACT)
    seen, ended = [], []
    outcomes = render_many(
        orders_in(tmp_path / "many"),
        workers=3,
        progress=lambda *now: seen.append(now),
        finished=ended.append,
    )
    assert files(tmp_path / "one") == files(tmp_path / "many")
    assert states(outcomes) == "rrrr" and sorted(map(id, ended)) == sorted(map(id, outcomes))
    assert [o.order.out.name for o in outcomes] == [f"{k}.ome.tif" for k in range(4)]
    assert seen[-1] == ("rendering", 400, 400)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_one_failure_does_not_stop_the_others(tmp_path):
    def job(k):
        if k == 1:
            raise AnnotationError("damaged:\n no nuclei")
        if k == 2:
            raise ZeroDivisionError("a mistake of ours")
        return small_job(k)

    outcomes = render_many(orders_in(tmp_path, job=job))
    assert states(outcomes) == "rffr"
    assert outcomes[1].failure == "damaged: no nuclei"
    assert outcomes[2].failure == "ZeroDivisionError: a mistake of ours"
    assert sorted(p.name for p in tmp_path.glob("*.tif")) == ["0.ome.tif", "3.ome.tif"]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_complete_slides_are_left_as_they_are(form, tmp_path):
    out = tmp_path / f"a{form.suffixes[0]}"

    def go(seed, **encoding):
        order = Order(out, partial(small_job, seed), encoding=encoding)
        return states(render_many([order]))

    assert go(1) == "r"
    before = out.stat().st_mtime_ns
    assert go(1) == "c" and out.stat().st_mtime_ns == before
    assert go(2) == "f"  # another job
    if form.tiled:
        assert go(1, quality=50) == "f"  # other bytes
    assert out.stat().st_mtime_ns == before
    assert states(render_many([Order(out, partial(small_job, 2))], overwrite=True)) == "r"
    assert states(render_many([Order(out, partial(small_job, 2))], overwrite=True)) == "c"


def test_a_queue_that_was_stopped_goes_on(tmp_path):
    class Slow(ToyPainter):
        def solve(self, phase, windows):
            calls.append(phase)
            time.sleep(0.01)
            return super().solve(phase, windows)

    def stop(outcome):
        ended.append(outcome)
        if len(ended) == 2:
            raise KeyboardInterrupt

    calls, ended = [], []
    orders = orders_in(tmp_path, job=lambda k: small_job(k, Slow()))
    with pytest.raises(KeyboardInterrupt):
        render_many(orders, workers=1, finished=stop)
    assert not [t for t in threading.enumerate() if t.name.startswith("slide")]
    first, calls = len(calls), []
    outcomes = render_many(orders, workers=1)
    assert states(outcomes).count("c") >= 2 and set(states(outcomes)) == {"c", "r"}
    assert 0 < len(calls) < first + len(calls) <= 1.2 * _all_calls(orders)
    other = tmp_path / "other"
    other.mkdir()
    render_many(orders_in(other))
    assert files(other) == {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}


def _all_calls(orders):
    jobs = [order.plan() for order in orders]
    return sum(len(job.blocks) * len(job.plan.phases) for job in jobs)


def test_small_slides_are_painted_at_a_time_and_large_ones_one_after_another(tmp_path):
    """Seen by which slides are planned but not yet ended."""
    begun, most, ended = [], [], []

    def job(k, make):
        begun.append(k)
        most.append(len(begun) - len(ended))
        return make(k)

    def large(k):
        return toy_job()

    for make, workers, at_once in ((small_job, 8, range(3, 7)), (large, 1, range(1, 4))):
        begun, most, ended = [], [], []
        orders = orders_in(tmp_path, count=6, job=partial(job, make=make))
        render_many(orders, workers=workers, overwrite=True, finished=ended.append)
        assert max(most) in at_once, (make, most)


def test_two_slides_of_one_name_are_refused(tmp_path):
    a, b = (Order(tmp_path / name, small_job, name=name) for name in ("a.ome.tif", "A.ome.tif"))
    with pytest.raises(OutputError, match="a.ome.tif and A.ome.tif would both become .*A.ome.tif"):
        render_many([a, b])


@pytest.mark.slow
def test_the_workers_of_a_cluster_paint_many(tmp_path, monkeypatch):
    from nasdm_wsi.mosaic.cluster import local

    with local(2) as client, monkeypatch.context() as here:
        here.setattr(ToyPainter, "solve", None)  # this process cannot paint
        outcomes = render_many(orders_in(tmp_path), client=client)
    assert states(outcomes) == "rrrr"
    for order in orders_in(tmp_path):
        render(order.plan(), tmp_path / "one.ome.tif", overwrite=True, **EXACT)
        assert order.out.read_bytes() == (tmp_path / "one.ome.tif").read_bytes()


# The command


@pytest.fixture
def folder(annotations, tmp_path):
    """Two annotation files, a damaged one, and files that are no annotations."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    text = annotations.read_text()
    (folder / "a.geojson").write_text(text)
    (folder / "b.json").write_text(text.replace("Plasma", "Epithelial"))
    (folder / "damaged.geojson").write_text(text[:2000])
    (folder / "notes.txt").write_text("no annotations")
    (folder / ".hidden.geojson").write_text(text)
    imsave(folder / "photo.jpg", np.full((9, 9, 3), 200, np.uint8), check_contrast=False)
    return folder


@pytest.fixture
def command(weights):
    return ["--mpp", 0.25, "--size", 60, 50, "--steps", 2, "--weights", weights, "--device", "cpu"]


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_a_folder_becomes_a_folder_of_slides(folder, command, tmp_path, caplog):
    out = tmp_path / "out"
    result = run("render", folder, "-o", out, *command, code=1)
    assert "3 slides: 2 rendered, 0 complete before, 1 failed" in result.output
    assert len(re.findall("^Error: damaged.geojson: ", result.stderr, re.M)) == 1
    assert result.stderr.count("damaged.geojson") == 1
    assert "no annotations, left out: notes.txt, photo.jpg" in caplog.text
    names = ["a.geojson", "a.ome.tif", "b.geojson", "b.ome.tif"]
    assert sorted(p.name for p in out.iterdir()) == names
    run("render", folder / "a.geojson", "-o", tmp_path / "a.ome.tif", *command)
    assert (tmp_path / "a.ome.tif").read_bytes() == (out / "a.ome.tif").read_bytes()
    again = run("render", folder, "-o", out, *command, code=1)
    assert "0 rendered, 2 complete before, 1 failed" in again.output
    other = run("render", folder, "-o", out, *command, "--seed", 3, code=1)
    assert "3 failed" in other.output and "Error: a.geojson: " in other.stderr
    assert "give --overwrite" in other.stderr
    (folder / "damaged.geojson").unlink()
    zarrs = tmp_path / "zarrs"
    quiet = run("render", folder, "-o", zarrs, *command, "--suffix", ".ome.zarr", "-q")
    assert not quiet.output and (zarrs / "b.ome.zarr").is_dir()


def test_a_manifest_gives_each_slide_its_options(folder, command, tmp_path):
    rows = [
        {"annotations": "annotations/a.geojson", "out": "first.ome.tif", "seed": "5"},
        {"annotations": "annotations/b.json", "mpp-out": "0.25", "lossless": "yes"},
        {
            **{"annotations": "annotations/a.geojson", "out": "mapped.ome.tif"},
            **{"size": "40 30", "class_map": "Plasma=connective; Epithelial=plasma"},
        },
        {"annotations": "annotations/a.geojson", "out": "bad.ome.tif", "seed": "-1"},
        {"annotations": "annotations/gone.geojson"},
    ]
    manifest = tmp_path / "slides.csv"
    columns = ["annotations", "out", "seed", "mpp-out", "lossless", "size", "class_map"]
    with manifest.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)
    out = tmp_path / "out"
    result = run("render", manifest, "-o", out, *command, code=1)
    assert "5 slides: 3 rendered, 0 complete before, 2 failed" in result.output
    assert re.search("^Error: annotations/a.geojson: .*--seed.*-1", result.stderr, re.M)
    assert re.search("^Error: annotations/gone.geojson: .*gone.geojson", result.stderr, re.M)
    a, b = folder / "a.geojson", folder / "b.json"
    alone = {
        "first.ome.tif": (a, "--seed", 5),
        "b.ome.tif": (b, "--mpp-out", 0.25, "--lossless"),
        "mapped.ome.tif": (
            *(a, "--class-map", "Plasma=connective", "--class-map", "Epithelial=plasma"),
            *("--size", 40, 30),
        ),
    }
    for name, (source, *settings) in alone.items():
        run("render", source, "-o", tmp_path / name, *command, *settings)
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    assert tifffile.imread(out / "b.ome.tif").shape == (50, 60, 3)


def test_a_dry_run_plans_all_and_writes_nothing(folder, command, tmp_path):
    result = run("render", folder, "-o", tmp_path / "out", *command, "--dry-run", code=1)
    assert result.output.count("60 x 50 pixels at 0.5 mpp") == 2
    assert re.search("^Error: damaged.geojson: (?!.*damaged)", result.stderr, re.M)
    assert not (tmp_path / "out").exists()


def test_the_network_is_loaded_once(folder, command, tmp_path, monkeypatch):
    from nasdm_wsi.model import painter

    loaded = []
    load = painter.load_weights
    monkeypatch.setattr(painter, "load_weights", lambda path: loaded.append(path) or load(path))
    (folder / "damaged.geojson").unlink()
    (tmp_path / "slides.csv").write_text(
        "annotations,style\nannotations/a.geojson,pale\nannotations/b.json,deep\n"
    )
    run("render", folder, "-o", tmp_path / "out", *command)
    run("render", tmp_path / "slides.csv", "-o", tmp_path / "styled", *command)
    assert len(loaded) == 2  # one for each command
    run("render", folder / "a.geojson", "-o", tmp_path / "a.tif", *command, "--style", "pale")
    painted = tifffile.imread(tmp_path / "styled" / "a.ome.tif")
    np.testing.assert_array_equal(painted, tifffile.imread(tmp_path / "a.tif"))


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_warnings_say_which_slide_they_are_about(folder, command, tmp_path, caplog, dry):
    (folder / "damaged.geojson").unlink()
    run("render", folder, "-o", tmp_path / "out", *command, *dry)
    for name in ("a.geojson", "b.json"):
        assert re.search(f" {name}: 41 nuclei lie outside", caplog.text)


def test_mistakes_are_one_line(folder, command, tmp_path):
    def said(*words, code=1):
        return " ".join(run("render", *words, *command, code=code).stderr.split())

    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    out = tmp_path / "out"
    assert "empty: this folder contains no annotations" in said(tmp_path / "empty", "-o", out)
    assert "choose another --out" in said(folder, "-o", folder)
    assert "many slides need a folder as --out" in said(folder, "-o", tmp_path / "file")
    assert "must end in .ome.tif" in said(folder, "-o", out, "--suffix", ".png")
    assert "--suffix is for many" in said(
        folder / "a.geojson", "-o", tmp_path / "a.ome.tif", "--suffix", ".tif", code=2
    )
    (folder / "a.json").write_text((folder / "b.json").read_text())
    assert "a.geojson and a.json would both become" in said(folder, "-o", out)
    cases = {
        "annotations,sead\na.geojson,1\n": "column 'sead' is not an option of render",
        "annotations,workers\na.geojson,1\n": "--workers applies to all slides",
        "annotations,lossless\na.geojson,maybe\n": "'maybe' is neither yes nor no",
        "annotations,seed\n,1\n": "row 1: annotations is empty",
        "annotations\na.geojson,1\n": "row 1: more cells than columns",
        "annotations\n": "no rows",
        "annotations;seed\na.geojson;1;2\n": "row 1: more cells than columns: quote ';'",
        "annotations,out\na.geojson,../x.svs\n": "a.geojson: the slide ../x.svs would not lie in",
        f"annotations,out\na.geojson,{tmp_path}/x.svs\n": "give a name in --out",
    }
    for number, (text, message) in enumerate(cases.items()):
        path = folder / f"{number}.csv"
        path.write_text(text)
        assert message in said(path, "-o", out)
        path.unlink()


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_manifests_of_all_separators(tmp_path, mark):
    rows = [["annotations", "seed", "class_map"], ["a.geojson", "", "Odd=plasma; Even=connective"]]
    path = tmp_path / "m.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=mark).writerows(rows)
    assert many.is_manifest(path)
    wanted = {"annotations": "a.geojson", "class_map": "Odd=plasma; Even=connective"}
    assert read_manifest(path) == [wanted]
    path.write_text(mark.join(["slide", "patient"]))
    assert not many.is_manifest(path)


def test_gzipped_annotations_are_named_by_their_file(tmp_path):
    (tmp_path / "in").mkdir()
    write_geojson(tmp_path / "in" / "a.b.geojson", toy_job().nuclei)
    (path,) = annotations_in(tmp_path / "in")
    for name in (path, path.with_name("a.b.geojson.gz")):
        assert outputs_of([name], tmp_path, suffix=".svs") == [tmp_path / "a.b.svs"]


def test_a_manifest_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "m.csv").write_bytes("annotations\nDrüse.geojson\n".encode("latin-1"))
    assert many.is_manifest(tmp_path / "m.csv")
    with pytest.raises(PlanError, match="save it as CSV in UTF-8"):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent in another way there")
def test_ctrl_c_ends_the_queue_and_the_same_command_goes_on(folder, command, tmp_path):
    (folder / "damaged.geojson").unlink()
    for number in range(10):
        (folder / f"{number}.geojson").write_text((folder / "a.geojson").read_text())
    words = ["render", folder, "-o", tmp_path / "out", *command, "--size", 300, 200]
    line = [sys.executable, "-m", "nasdm_wsi.cli", *map(str, words)]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(tmp_path.glob("out/*.run")), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "run the same command again to resume" in said
    assert "Traceback" not in said
    complete = len(list(tmp_path.glob("out/*.tif")))
    result = run(*words)
    assert f"12 slides: {12 - complete} rendered, {complete} complete before" in result.output
    assert len(list(tmp_path.glob("out/*.tif"))) == 12 and not list(tmp_path.glob("out/*.run"))

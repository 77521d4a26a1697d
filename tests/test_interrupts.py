"""Ctrl-C, missing schedulers and what the system refuses: one line, and nothing is lost."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import psutil
import pytest
import tifffile
from click.testing import CliRunner
from helpers import PATIENCE, wait_for
from PIL import Image

from nasdm_wsi.cli.main import main
from nasdm_wsi.errors import StoppedError
from nasdm_wsi.model.training.train import train

POSIX = pytest.mark.skipif(os.name == "nt", reason="sends no Ctrl-C to one process")
INTERRUPTED = (130, -2)  # a shell sees 130 where Python ends itself by the signal
CASE = ("--mpp", 0.25, "--size", 1600, 1600, "--steps", 2, "--device", "cpu")


def start(*arguments):
    """A command in a terminal's process group of its own, in which Ctrl-C is not ignored."""
    return subprocess.Popen(
        [sys.executable, "-m", "nasdm_wsi", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def ended(*arguments):
    """The exit code of a command that nobody disturbs."""
    process = start(*arguments)
    process.communicate(timeout=PATIENCE)
    return process.returncode


def assert_stopped(complaint):
    """One line and no traceback, beside warnings about the huge nuclei of the test."""
    lines = [line for line in complaint.splitlines() if line and "WARNING" not in line]
    assert len(lines) == 1 and lines[0].startswith("Stopping; run the same command again to resume")


@pytest.fixture
def wide(annotations, tmp_path):
    """Tissue that takes a while: the annotations, four times as large on a side."""
    text = json.loads(annotations.read_text())
    for feature in text["features"]:
        (ring,) = feature["geometry"]["coordinates"]
        feature["geometry"]["coordinates"] = [[[4 * x, 4 * y] for x, y in ring]]
    path = tmp_path / "wide.geojson"
    path.write_text(json.dumps(text))
    return path


@POSIX
@pytest.mark.parametrize("times", [1, 5])
def test_ctrl_c_says_that_the_same_command_goes_on_and_it_does(wide, weights, tmp_path, times):
    out, run = tmp_path / "a.tif", tmp_path / "a.tif.run"
    command = ("render", wide, "-o", out, "--weights", weights, *CASE, "--lossless")
    process = start(*command)
    wait_for(lambda: list(run.glob("*/*/*")), process)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
    said, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode in INTERRUPTED and said == ""
    assert_stopped(complaint)
    assert run.is_dir() and not out.exists()
    assert ended(*command) == 0
    whole = tmp_path / "whole.tif"
    assert ended(*command[:3], whole, *command[4:]) == 0
    np.testing.assert_array_equal(tifffile.imread(out), tifffile.imread(whole))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")] and not run.exists()


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_worker_processes_leave_ctrl_c_to_the_command(wide, weights, tmp_path, times):
    out, run = tmp_path / "a.tif", tmp_path / "a.tif.run"
    command = ("render", wide, "-o", out, "--weights", weights, *CASE, "--workers", 2)
    process = start(*command)
    wait_for(lambda: list(run.glob("*/*/*")), process)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
    _, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode in INTERRUPTED
    # dask itself may print what it was doing; a worker that Ctrl-C reached would print its name.
    assert "Stopping; run the same command again to resume" in complaint
    assert "KeyboardInterrupt" not in complaint


def test_training_saves_on_ctrl_c_and_goes_on_to_the_same_weights(dataset, tmp_path):
    def interrupt(done, total, loss):
        if done == 8:
            os.kill(os.getpid(), signal.SIGINT)

    common = {"preset": "tiny", "images": 16, "device": "cpu"}
    with pytest.raises(StoppedError, match="8 of 16 crops .* to resume"):
        train(dataset, tmp_path / "a", **common, progress=interrupt)
    weights = [train(dataset, tmp_path / name, **common).read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


@POSIX
@pytest.mark.slow
def test_an_edit_that_is_stopped_is_resumed_to_the_same_pixels(wide, tmp_path):
    """Its source is a picture, of which all is painted anew."""
    Image.fromarray(np.full((700, 700, 3), 180, np.uint8)).save(tmp_path / "s.png")
    area = {"type": "Polygon", "coordinates": [[[0, 0], [700, 0], [700, 700], [0, 700], [0, 0]]]}
    feature = {"type": "Feature", "geometry": area, "properties": {}}
    (tmp_path / "area.geojson").write_text(json.dumps(feature))
    out, run = tmp_path / "e.ome.tif", tmp_path / "e.ome.tif.run"
    command = ("edit", tmp_path / "s.png", wide, "--mpp", 0.5, "--area", tmp_path / "area.geojson")
    command += ("--steps", 2, "--device", "cpu", "--style", "pale", "-o")
    process = start(*command, out)
    wait_for(lambda: list(run.glob("*/*/*")), process)
    os.killpg(process.pid, signal.SIGINT)
    said, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode in INTERRUPTED and said == "" and not out.exists()
    assert_stopped(complaint)
    assert ended(*command, out) == 0 and not run.exists()
    assert ended(*command, tmp_path / "whole.ome.tif") == 0
    pictures = [tifffile.imread(tmp_path / name) for name in ("e.ome.tif", "whole.ome.tif")]
    np.testing.assert_array_equal(*pictures)


@POSIX
def test_train_ends_with_130_on_ctrl_c_and_is_resumed(dataset, tmp_path):
    out = tmp_path / "run"
    command = ("train", dataset, "-o", out, "--preset", "tiny", "--device", "cpu", "--images")
    process = start(*command, 100_000)
    wait_for(lambda: list(out.glob("log/*")), process)
    os.killpg(process.pid, signal.SIGINT)
    _, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "Traceback" not in complaint
    assert re.search(r"^Stopped: (\d+) of 100000 crops are done; .* to resume$", complaint, re.M)
    assert (out / "last.safetensors").exists()


def cpu_seconds(process):
    """The CPU time of a process and of those that it has started."""
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(process.pid)
        return sum(sum(p.cpu_times()[:2]) for p in (top, *top.children(recursive=True)))
    return 0


@POSIX
@pytest.mark.parametrize(
    ("workers", "seconds", "times"),
    [(1, 3, 1), (2, 0, 1), (2, 8, 2)],
    ids=["one works", "two start", "two work"],
)
def test_a_layout_that_is_stopped_leaves_no_file_and_no_process(tmp_path, workers, seconds, times):
    """It is stopped after so many seconds of CPU time since it has opened its file."""
    out = tmp_path / "a.geojson"
    process = start("layout", "-o", out, "--size", 8000, 8000, "--workers", workers)
    wait_for(lambda: list(tmp_path.glob(".a.geojson.????????")), process)
    before = cpu_seconds(process)
    wait_for(lambda: cpu_seconds(process) >= before + seconds, process, every=0.2)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
    # A worker left behind would keep the pipe open.
    said, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode in INTERRUPTED and said == "" and not out.exists()
    (line,) = filter(None, complaint.splitlines())
    assert line == "Stopping (press Ctrl-C again to stop at once)"


# Schedulers


@pytest.mark.parametrize("name", ["nofile.json", "no/such/file", "localhost", "scheduler"])
def test_a_scheduler_file_that_is_missing_is_told_at_once(
    annotations, weights, tmp_path, name, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    command = ["render", annotations, "-o", "a.tif", "--mpp", 0.25, "--size", 90, 90]
    command += ["--weights", weights, "--scheduler", name]
    process = start(*command)
    said, complaint = process.communicate(timeout=PATIENCE)
    (line,) = complaint.strip().splitlines()
    assert process.returncode == 1 and said == "" and not list(tmp_path.iterdir())
    assert line.startswith(f"Error: {name}: no such scheduler file: ") and "--scheduler" in line


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"address": 5}', "\0"])
def test_another_file_is_no_scheduler_file(annotations, weights, tmp_path, text):
    file = tmp_path / "scheduler.json"
    file.write_text(text)
    command = ["render", annotations, "-o", tmp_path / "a.tif", "--mpp", 0.25]
    command += ["--size", 90, 90, "--weights", weights, "--scheduler", file]
    result = CliRunner().invoke(main, [str(a) for a in command])
    assert result.exit_code == 1 and "is not a scheduler file" in result.output


# What the system refuses


def bound(*arguments, **environment):
    """The outcome of a command for which, although it is root's, permissions count."""
    if not shutil.which("setpriv") or os.geteuid():
        pytest.skip("needs root and setpriv to give up its powers")
    capabilities = "-dac_override,-dac_read_search"
    words = ["setpriv", f"--bounding-set={capabilities}", sys.executable, "-m", "nasdm_wsi"]
    return subprocess.run(
        [*words, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=PATIENCE,
    )


@pytest.fixture
def locked(tmp_path):
    """A folder in which nothing can be written."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    yield folder
    folder.chmod(0o755)


def test_a_folder_without_permission_is_told_before_the_work(
    annotations, weights, dataset, lizard_source, locked
):
    slide = lizard_source / "images" / "a.png"
    rendering = ("render", annotations, "--mpp", 0.25, "--size", 90, 90, "--weights", weights)
    exporting = ("export", slide, "--labels", annotations, "--mpp", 0.5, "--format")
    for name, command in {
        "a.tif": rendering,
        "a.ome.zarr": rendering,
        "tiles": (*exporting, "coco"),
        "b.tif": (*exporting, "types"),
        "data": ("prepare", lizard_source),
        "run": ("train", dataset, "--preset", "tiny", "--images", 8, "--device", "cpu"),
    }.items():
        done = bound(*command, "-o", locked / name)
        (line,) = done.stderr.strip().splitlines()
        assert done.returncode == 1 and done.stdout == ""
        assert line.startswith(f"Error: {locked / name}") and "Permission denied" in line


def test_a_name_that_is_too_long_is_told_before_the_work(annotations, tmp_path):
    out = tmp_path / f"{'a' * 246}.tif"
    command = ["render", annotations, "-o", out, "--mpp", 0.25, "--size", 90, 90, "--dry-run"]
    result = CliRunner().invoke(main, [str(a) for a in command])
    (line,) = result.output.strip().splitlines()
    assert result.exit_code == 1 and line.startswith("Error: ") and "at most 239" in line


def test_what_cannot_be_read_is_one_line(annotations, tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    result = CliRunner().invoke(main, ["info", str(loop)])
    assert result.exit_code == 2 and "Traceback" not in result.output

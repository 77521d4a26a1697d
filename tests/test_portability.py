"""What other systems lack is not needed: Windows is played by tests/windows/sitecustomize.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from nasdm_wsi.model import Painter
from nasdm_wsi.rendering import plan_render, read_annotations, render

ROOT = Path(__file__).parents[1]
COMMANDS = """
import json, sys
from nasdm_wsi.cli.main import main
for words in json.loads(sys.argv[1]):
    main(words, standalone_mode=False)
"""
FILES = {".ome.tif", ".geojson"}


def elsewhere(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Run a program on the played system."""
    places = [str(ROOT / "tests" / "windows"), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def commands(*lines: list[object], **environment: str) -> str:
    """Run commands of ours there, and return what they say."""
    words = json.dumps([[str(word) for word in line] for line in lines])
    done = elsewhere(COMMANDS, words, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "use", ["import fcntl", "os.fork", "os.sched_getaffinity", "signal.SIGUSR1"]
)
def test_the_played_system_lacks(use):
    assert elsewhere(f"import os, signal; {use}").returncode == 1


def test_the_played_system_keeps_files_that_are_open(tmp_path):
    (tmp_path / "a").write_bytes(b"1234")
    for use in ("open(sys.argv[1])", "numpy.memmap(sys.argv[1], mode='r')"):
        code = f"import numpy, os, sys; file = {use}; os.unlink(sys.argv[1])"
        assert "PermissionError" in elsewhere(code, tmp_path / "a").stderr


@pytest.fixture(scope="module")
def reference(annotations, weights, tmp_path_factory) -> dict[str, bytes]:
    """The slide and its labels as this system makes them, by suffix."""
    out = tmp_path_factory.mktemp("here") / "slide.ome.tif"
    job = plan_render(read_annotations(annotations, mpp=0.25), Painter(weights))
    render(job, out, workers=1)
    return {suffix: out.with_name(f"slide{suffix}").read_bytes() for suffix in FILES}


def rendered(folder: Path) -> dict[str, bytes]:
    """The slide and its labels in a folder that holds nothing else."""
    assert {path.name for path in folder.iterdir()} == {f"slide{suffix}" for suffix in FILES}
    return {suffix: (folder / f"slide{suffix}").read_bytes() for suffix in FILES}


@pytest.fixture
def line(annotations, weights, tmp_path) -> list[object]:
    """The command that makes the reference."""
    target = tmp_path / "out" / "slide.ome.tif"
    target.parent.mkdir()
    return ["render", annotations, "-o", target, "--mpp", 0.25, "--weights", weights]


@pytest.mark.parametrize(
    "options", [[], pytest.param(["--workers", 2], marks=pytest.mark.slow)], ids=["threads", "dask"]
)
def test_slides_are_the_same_there(line, options, reference, tmp_path):
    commands([*line, *options], [*line, *options, "--overwrite"])
    assert rendered(tmp_path / "out") == reference


def test_a_slide_can_be_looked_at_and_exported_there(line, tmp_path):
    slide, zarr = (tmp_path / "out" / name for name in ("slide.ome.tif", "other.ome.zarr"))
    said = commands(
        line,
        ["info", slide],
        ["export", slide, "-o", tmp_path / "tiles", "--format", "coco", "--tile", 64],
        ["render", line[1], "-o", zarr, *line[4:]],
        ["info", zarr],
    )
    assert "0.5 mpp" in said and (zarr / "zarr.json").exists()
    assert b"\r" not in (tmp_path / "tiles" / "annotations.json").read_bytes()


@pytest.mark.slow
def test_a_model_is_trained_there_and_training_goes_on(lizard_source, tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    train = ["train", data, "-o", out, "--preset", "tiny", "--images"]
    commands(["prepare", lizard_source, "-o", data], [*train, 16], [*train, 32])
    assert (out / "weights.safetensors").exists()
    assert b"\r" not in (data / "manifest.json").read_bytes()


@pytest.mark.parametrize("error", ["ENOLCK", "ENOSYS"])
def test_storage_without_locks_is_said_and_no_hindrance(error, line, reference, tmp_path):
    said = commands(line, NO_LOCKS=error)
    assert "is on storage without locks" in said and "Traceback" not in said
    assert rendered(tmp_path / "out") == reference


BUILD = "from setuptools import build_meta as b; import sys; b.build_{}(sys.argv[1])"


def built(kind: str, project: Path, out: Path) -> Path:
    """The source archive ("sdist") or wheel of a project, built without a network."""
    command = [sys.executable, "-W", "error", "-c", BUILD.format(kind), str(out)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = out.iterdir()
    return path


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The project as Windows checks it out: files with the name of their target, and no links."""
    project = tmp_path / "checkout"
    away = shutil.ignore_patterns(
        "__pycache__", ".*", "build", "*.egg-info", "runs", "data", "site"
    )
    shutil.copytree(ROOT, project, symlinks=True, ignore=away)
    for name in ("cli", "model"):
        link = project / "nasdm_wsi" / name
        link.unlink(missing_ok=True)
        link.write_text(f"../{name}", encoding="utf-8")
    return project


def test_a_checkout_without_links_can_be_imported_as_it_is(checkout):
    code = "import nasdm_wsi.cli.main, nasdm_wsi.model as m; print(m.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert Path(said.stdout.strip()) == checkout / "model" / "__init__.py", said.stderr


def test_the_source_archive_is_whole_and_its_wheel_has_all_modules(checkout, tmp_path):
    (tmp_path / "sdist").mkdir()
    (tmp_path / "wheel").mkdir()
    archive = built("sdist", checkout, tmp_path / "sdist")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path / "unpacked", filter="data")
    (project,) = (tmp_path / "unpacked").iterdir()
    for folder in ("benchmarks", "cli", "docs", "examples", "model", "nasdm_wsi", "tests"):
        wanted = {p.relative_to(ROOT) for p in (ROOT / folder).rglob("*.*") if p.is_file()}
        missing = {p for p in wanted if not (project / p).exists() and "__pycache__" not in p.parts}
        assert not missing
    assert not (project / "nasdm_wsi" / "model").exists()
    with zipfile.ZipFile(built("wheel", project, tmp_path / "wheel")) as wheel:
        names = set(wheel.namelist())
    modules = {p.relative_to(ROOT) for p in (ROOT / "nasdm_wsi").rglob("*.py")}
    for folder in ("cli", "model"):
        modules |= {Path("nasdm_wsi", p.relative_to(ROOT)) for p in (ROOT / folder).rglob("*.py")}
    assert {path.as_posix() for path in modules} == {n for n in names if n.endswith(".py")}
    others = {"py.typed", "model/weights/small.safetensors", "viewer/static/view.js"}
    assert {f"nasdm_wsi/{name}" for name in others} < names

"""The one way to write: whole or not at all, safely on disk, and readable as the umask says."""

import ast
import os
from pathlib import Path

import pytest

from nasdm_wsi.errors import OutputError
from nasdm_wsi.output import replacing, sweep, whole_or_nothing

ROOT = Path(__file__).parents[1]


def make(part: Path, kind: str, text: str) -> None:
    if kind == "folder":
        part.mkdir()
    (part / "inner" if kind == "folder" else part).write_text(text)


def content(path: Path) -> str:
    return (path / "inner" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_new_one_takes_the_place_of_the_old(tmp_path, kind, flush):
    target = tmp_path / "a"
    for text in ("older", "newer"):
        with replacing(target, flush=flush) as part:
            make(part, kind, text)
            assert not target.exists() or content(target) == "older"
        assert content(target) == text and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failure_leaves_the_old_one_and_nothing_else(tmp_path, kind):
    target = tmp_path / "a"
    make(target, kind, "older")
    with pytest.raises(KeyboardInterrupt), whole_or_nothing(target) as part:
        make(part, kind, "newer")
        raise KeyboardInterrupt
    with pytest.raises(OutputError, match="a: cannot be written .No such file"):
        with whole_or_nothing(target):
            pass
    assert content(target) == "older" and list(tmp_path.iterdir()) == [target]


def test_an_error_of_a_write_names_the_file(tmp_path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no device that is always full")
    with pytest.raises(OSError) as caught, replacing(tmp_path / "a") as part:
        part.symlink_to(full)
        part.write_text("x")
    assert caught.value.filename == str(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_an_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    target, replace = tmp_path / "a", os.replace
    make(target, "folder", "older")

    def refuse(source, destination):
        if str(destination) == str(target) and content(source) == "newer":
            raise PermissionError(13, "in use")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match="in use"), whole_or_nothing(target) as part:
        make(part, "folder", "newer")
    assert content(target) == "older" and list(tmp_path.iterdir()) == [target]


def test_a_file_never_takes_the_place_of_a_folder(tmp_path):
    make(tmp_path / "a", "folder", "older")
    with pytest.raises(OutputError), whole_or_nothing(tmp_path / "a") as part:
        part.write_text("newer")
    assert content(tmp_path / "a") == "older"


@pytest.mark.skipif(os.name == "nt", reason="has no umask")
def test_others_may_read_it_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        with whole_or_nothing(tmp_path / "a") as part:
            part.touch(mode=0o600)  # as safetensors and tempfile do
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_content_is_on_disk_before_it_has_its_name(tmp_path, kind, monkeypatch):
    target, done, fsync = tmp_path / "a", [], os.fsync

    def watched(number):
        done.append(target.exists())
        fsync(number)

    monkeypatch.setattr(os, "fsync", watched)
    with replacing(target) as part:
        make(part, kind, "x")
    assert done[0] is False and all(done[1:])  # then the folder, which has the name


def test_nobody_renames_elsewhere():
    sources = (path for top in ("nasdm_wsi", "model") for path in (ROOT / top).rglob("*.py"))
    others = [path for path in sources if path.name != "output.py"]
    for path in others:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                name = ast.unparse(node)
                assert name not in ("os.replace", "os.rename", "shutil.move", "os.fsync"), path


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_killed_writes_left_is_swept_by_the_next(tmp_path, kind):
    target, theirs = tmp_path / "a.tif", [".a.tif.markdown-notes", ".a.tif", ".b.tif.0123abcd"]
    for name in [".a.tif.0123abcd", ".a.tif.x_y2z3w4", *theirs]:
        make(tmp_path / name, kind, "left")
    (tmp_path / ".a.tif.lock").touch()
    with whole_or_nothing(target) as part:
        make(part, kind, "new")
    assert {path.name for path in tmp_path.iterdir()} == {"a.tif", *theirs}


def test_nothing_is_swept_while_somebody_else_writes_it(tmp_path):
    with whole_or_nothing(tmp_path / "a") as first:
        first.write_text("first")
        with whole_or_nothing(tmp_path / "a") as second:
            second.write_text("second")
            assert first.read_text() == "first"
    assert content(tmp_path / "a") == "first" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_whose_replacement_was_killed_gets_its_name_back(tmp_path):
    make(tmp_path / ".a.0123abcd.older", "folder", "older")
    make(tmp_path / ".a.0123abcd", "folder", "newer, and perhaps not complete")
    sweep(tmp_path / "a")
    assert content(tmp_path / "a") == "older" and len(list(tmp_path.iterdir())) == 1

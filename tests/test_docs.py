"""The pages say what the code does, the site can be built offline, the shell is served."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import pytest
import yaml

from nasdm_wsi.annotations.classes import ClassNames, known_names
from nasdm_wsi.annotations.types import TYPES
from nasdm_wsi.cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "model/weights").glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def run(*arguments: str, **environment: str) -> str:
    command = [sys.executable, "-m", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("page", ["commands", "class_names"])
def test_generated_pages_are_those_of_the_code(page):
    source = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    generate = importlib.util.module_from_spec(source)
    source.loader.exec_module(generate)
    text = (ROOT / "docs" / f"{page}.md").read_text()
    assert text == getattr(generate, page)(), "run: python docs/generate.py"


def test_every_command_and_option_has_help():
    for name, command in {"nasdm-wsi": main, **main.commands}.items():
        options = [p for p in command.params if isinstance(p, click.Option)]
        assert command.help, name
        assert not [option.opts for option in options if not option.help], name


def test_known_names_are_read_as_the_table_says():
    for kind, names in known_names().items():
        number = None if kind.startswith("nothing") else TYPES.index(kind.split(",")[0])
        assert [ClassNames().number(name) for name in names] == [number] * len(names)


def commands_of(page: Path) -> list[list[str]]:
    """The words of each command of ours that stands in a block of code."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^(?:    )?(?:.*&& )?nasdm-wsi (.+)$", text, re.M)
    return [shlex.split(line.split(" > ")[0], comments=True) for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_on_the_pages_have_options_that_exist(page):
    for words in commands_of(page):
        command = main.commands.get(words[0], main)
        known = {name for option in command.params for name in option.opts}
        assert {word for word in words if word.startswith("-")} <= known, words


def test_there_are_commands_to_check():
    assert len([words for page in PAGES for words in commands_of(page)]) > 25


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs")
    run("mkdocs", "build", "--strict", "--site-dir", str(tmp_path), NO_MKDOCS_2_WARNING="1")
    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    assert "read_annotations" in pages[tmp_path / "python.html"]
    assert (tmp_path / "examples/gpu_box.py").exists() and (tmp_path / "slide.jpg").exists()
    loads = r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^>]*>"
    assert {path: found for path, text in pages.items() if (found := re.findall(loads, text))} == {}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_script_that_completes(shell):
    script = run("nasdm_wsi.cli", _NASDM_WSI_COMPLETE=f"{shell}_source")
    assert f"_NASDM_WSI_COMPLETE={shell}_complete" in script and "nasdm-wsi" in script
    words = {"COMP_WORDS": "nasdm-wsi ren", "COMP_CWORD": "ren" if shell == "fish" else "1"}
    assert "render" in run("nasdm_wsi.cli", _NASDM_WSI_COMPLETE=f"{shell}_complete", **words)


def test_the_version_tells_what_a_bug_report_needs():
    lines = run("nasdm_wsi.cli", "--version").splitlines()
    assert lines[0] == f"nasdm-wsi {version('nasdm-wsi')}"
    assert lines[1].startswith(f"Python {platform.python_version()} on {platform.system()}")
    assert f"numpy {np.__version__}" in lines
    for name in ("dask", "openslide-bin", "tifffile", "torch", "zarr"):
        assert f"{name} {version(name)}" in lines
    assert not [line for line in lines if line.startswith("pytest")]


def test_no_command_needs_torch_to_say_its_versions_or_help():
    code = "import sys; from nasdm_wsi.cli.main import main; main({!r}, standalone_mode=False); "
    code += "assert not {{'torch', 'numpy', 'dask'}} & set(sys.modules)"
    for argument in ("--version", "--help"):
        subprocess.run([sys.executable, "-c", code.format([argument])], check=True, cwd=ROOT)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"] and citation["title"] == project["name"]
    assert citation["references"][0]["title"].startswith("NASDM: Nuclei-Aware")

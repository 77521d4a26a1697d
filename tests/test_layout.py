"""The house: packages, links and public names."""

import subprocess
import sys
import tomllib
from pathlib import Path

import nasdm_wsi

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_package_is_listed_and_every_link_points_where_package_dir_says():
    folders = SETTINGS["package-dir"]
    assert sorted(folders) == sorted(SETTINGS["packages"])
    found = {p.parent.relative_to(ROOT) for top in ("nasdm_wsi", "model", "cli")
             for p in (ROOT / top).glob("**/__init__.py")}  # fmt: skip
    assert {Path(f) for f in folders.values()} == found
    for name in ("model", "cli"):
        link = ROOT / "nasdm_wsi" / name
        assert link.is_symlink() and link.resolve() == ROOT / folders[f"nasdm_wsi.{name}"]


def test_public_names():
    assert nasdm_wsi.__all__ == [
        "Job",
        "NasdmError",
        "Nuclei",
        "Slide",
        "find_style",
        "open_slide",
        "plan_render",
        "read_annotations",
        "render",
        "render_region",
        "size_like",
    ]
    assert all(hasattr(nasdm_wsi, name) for name in nasdm_wsi.__all__)
    assert all(getattr(nasdm_wsi, name).__doc__ for name in nasdm_wsi.__all__)
    assert not hasattr(nasdm_wsi, "nothing")


def test_render_is_the_function_whatever_was_imported_before():
    code = "import nasdm_wsi.cli.render; from nasdm_wsi import {}; assert callable(render)"
    for names in ("render", "plan_render, render"):
        subprocess.run([sys.executable, "-c", code.format(names)], check=True)


def test_shipped_weights_are_small_and_licensed():
    weights = list((ROOT / "model" / "weights").glob("*.safetensors"))
    assert [w.name for w in weights] == ["small.safetensors"]
    assert weights[0].stat().st_size <= 16e6
    assert "CC BY-NC-SA 4.0" in (ROOT / "model" / "weights" / "LICENSE").read_text()
    assert (ROOT / "model" / "weights" / "small.md").exists()

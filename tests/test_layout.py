"""The house: packages, links and public names."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import nasdm_wsi

ROOT = Path(__file__).parents[1]
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
MAPPED = {"nasdm_wsi.cli": "cli", "nasdm_wsi.model": "model"}  # and linked in nasdm_wsi/


def packages_in(folder: Path, name: str) -> set[str]:
    """The dotted names of all packages in ``folder``, which is the package ``name``."""
    inits = [p for p in folder.glob("**/__init__.py")]
    return {".".join([name, *p.parent.relative_to(folder).parts]) for p in inits}


def test_every_package_is_listed_and_the_mapped_ones_are_linked():
    found = packages_in(ROOT / "nasdm_wsi", "nasdm_wsi")
    for name, folder in MAPPED.items():
        found |= packages_in(ROOT / folder, name)
        link = ROOT / name.replace(".", "/")
        # A checkout on Windows has a text file there, and the source archive nothing.
        assert link.resolve() == ROOT / folder or not link.is_dir()
    assert sorted(found) == TOOLS["setuptools"]["packages"]
    assert TOOLS["setuptools"]["package-dir"] == MAPPED


def test_the_contracts_cover_the_whole_core():
    contracts = {c["type"]: c for c in reversed(TOOLS["importlinter"]["contracts"])}
    names = {re.sub(r"\.py$", "", p.name) for p in (ROOT / "nasdm_wsi").iterdir()}
    core = {name for name in names if name.isidentifier() and not name.startswith("__")}
    core -= {"cli", "model"}
    assert set(contracts["forbidden"]["source_modules"]) == {f"nasdm_wsi.{name}" for name in core}
    assert contracts["layers"]["exhaustive"]


def test_no_test_imports_another():
    for path in (ROOT / "tests").glob("*.py"):
        assert not re.search(r"^(from|import) (test_|conftest)", path.read_text("utf-8"), re.M)


def test_public_names():
    assert nasdm_wsi.__all__ == [
        "Job",
        "NasdmError",
        "Nuclei",
        "Regions",
        "Slide",
        "edit",
        "edit_region",
        "find_style",
        "layout",
        "open_slide",
        "plan_edit",
        "plan_render",
        "read_annotations",
        "read_regions",
        "render",
        "render_region",
        "size_like",
    ]
    assert all(hasattr(nasdm_wsi, name) for name in nasdm_wsi.__all__)
    assert all(getattr(nasdm_wsi, name).__doc__ for name in nasdm_wsi.__all__)
    assert not hasattr(nasdm_wsi, "nothing")
    assert {*nasdm_wsi.__all__, "__version__"} <= set(dir(nasdm_wsi))
    assert nasdm_wsi.__version__ == version("nasdm-wsi")


def test_a_mistake_is_never_an_assertion_nor_the_end_of_the_process():
    for top in ("nasdm_wsi", "cli"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                assert not isinstance(node, ast.Assert), path
                assert not (isinstance(node, ast.Name) and node.id == "SystemExit"), path


def test_render_is_the_function_whatever_was_imported_before():
    code = "import nasdm_wsi.cli.render; from nasdm_wsi import {}; assert callable(render)"
    for names in ("render", "plan_render, render"):
        subprocess.run([sys.executable, "-c", code.format(names)], check=True)


def test_the_package_can_be_run_as_a_module():
    said = subprocess.check_output([sys.executable, "-m", "nasdm_wsi", "--version"], text=True)
    assert said.startswith(f"nasdm-wsi {version('nasdm-wsi')}\n")


def test_shipped_weights_are_small_and_licensed():
    weights = {w.stem: w for w in (ROOT / "model" / "weights").glob("*.safetensors")}
    assert sorted(weights) == ["layout-nuclei", "layout-regions", "medium", "small"]
    assert weights["small"].stat().st_size <= 16e6
    assert sum(w.stat().st_size for w in weights.values()) <= 64e6
    assert "CC BY-NC-SA 4.0" in (ROOT / "model" / "weights" / "LICENSE").read_text()
    assert (ROOT / "model" / "weights" / "small.md").exists()

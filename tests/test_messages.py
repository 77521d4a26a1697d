"""What the core and the model say to a user: parameters, which commands show as options."""

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from nasdm_wsi.cli.main import main
from nasdm_wsi.cli.messages import OneLine, in_options

ROOT = Path(__file__).parents[1]
SOURCES = [p for top in ("nasdm_wsi", "model") for p in sorted((ROOT / top).rglob("*.py"))]
SOURCES = [p for p in SOURCES if "cli" not in p.relative_to(ROOT).parts]


def texts(path: Path) -> Iterator[str]:
    """All string literals of a module but its docstrings; of f-strings the literal parts."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in docstrings:
                yield node.value


def options(command: click.Command) -> set[str]:
    return {p.name for p in command.params if isinstance(p, click.Option)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_core_and_model_name_parameters_and_never_options(path):
    known = set().union(*map(options, main.commands.values()))
    for text in texts(path):
        assert not re.search(r"(?<![\w-])--[a-z]", text), text
        assert set(re.findall(r"`(\w+)`", text)) <= known, f"no command has it: {text}"


def test_a_command_names_its_own_options_and_leaves_other_words_alone():
    text = "a.tif: give `overwrite`, `ignore_classes` NAME or `out`, not `radius` or mpp"
    said = "a.tif: give --overwrite, --ignore-class NAME or --out, not radius or mpp"
    assert in_options(text, main.commands["render"]) == said
    assert in_options("give `overwrite`", main.commands["info"]) == "give overwrite"


def test_log_records_name_options_too():
    record = logging.makeLogRecord({"levelname": "WARNING", "msg": "%s: `contours` cv2"})
    record.args = ("`a b`.json",)
    said = OneLine(main.commands["render"]).format(record)
    assert said == "WARNING: `a b`.json: --contours cv2"

"""Write the pages that are made from the code: commands.md and class_names.md.

    python docs/generate.py

A test compares them with what this script would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click

from nasdm_wsi.annotations.types import known_names
from nasdm_wsi.cli.main import main

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py: do not edit. -->"


def commands() -> str:
    """What --help says of every command."""
    top = click.Context(main, info_name="nasdm-wsi", **main.context_settings)
    lines = [NOTE, "", "# Commands", "", *_command(top)]
    for name, command in main.commands.items():
        context = click.Context(command, info_name=name, parent=top)
        lines += [f"## {name}", "", *_command(context)]
    return "\n".join(lines).rstrip() + "\n"


def _command(context: click.Context) -> Iterator[str]:
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield from (f"    {usage}", "")
    for paragraph in cleandoc(command.help or "").split("\n\n"):
        lines = paragraph.splitlines()
        if lines[:1] == ["\b"]:  # click's mark of lines to be left as they are
            lines = [f"    {line}" for line in lines[1:]]
        yield from (*lines, "")
    yield from ("| option | what it does |", "|---|---|")
    for option in command.get_params(context):
        if isinstance(option, click.Option) and (record := option.get_help_record(context)):
            names, text = (part.replace("|", ", ") for part in record)
            yield f"| `{names}` | {text.replace('*', '&#42;').replace('[', '&#91;')} |"
    yield ""


def class_names() -> str:
    """Which class names are read as which type."""
    lines = [NOTE, "", "# Class names", "", INTRODUCTION, ""]
    lines += ["| read as | class names |", "|---|---|"]
    lines += [f"| {kind} | {', '.join(names)} |" for kind, names in known_names().items()]
    return "\n".join([*lines, "", REST, ""])


INTRODUCTION = """\
The networks know the six nucleus types of Lizard. Other tools have other names for them. The names
below are known; case, hyphens, underscores, a plural s and a closing "cells", "nuclei" or "tissue"
make no difference."""

REST = """\
- Of a derived class such as `Immune cells: Lymphocyte` the whole name is tried, then each part from
  the first.
- Classes whose names end in `*` are left out, as QuPath does.
- `Tissue` and `Region*` outline tissue; `--tissue-class` names others.
- `Dead`, `Necrosis`, `Other` and whatever else is not in the table stop the command with one line.
  Say what they are with `--class-map NAME=TYPE`, or leave them out with `--ignore-class NAME`. Both
  go before the table.

`nasdm-wsi info FILE` shows for each class of a file what it is read as, before anything is
rendered."""


if __name__ == "__main__":
    (DOCS / "commands.md").write_text(commands())
    (DOCS / "class_names.md").write_text(class_names())

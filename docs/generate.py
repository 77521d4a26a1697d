"""Write the pages that are generated from the code: commands.md and class_names.md.

    python docs/generate.py

A test compares the pages with the output of this script.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click

from nasdm_wsi.annotations.classes import known_names
from nasdm_wsi.annotations.regions import known_names as known_regions
from nasdm_wsi.cli.main import main

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py: do not edit. -->"


def commands() -> str:
    """The help of every command as a page."""
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
    """The page of known class names."""
    lines = [NOTE, "", "# Class names", "", INTRODUCTION, ""]
    lines += ["| read as | class names |", "|---|---|"]
    lines += [f"| {kind} | {', '.join(names)} |" for kind, names in known_names().items()]
    lines += ["", "## Regions", "", REGIONS, "", "| region | class names |", "|---|---|"]
    lines += [f"| {kind} | {', '.join(names)} |" for kind, names in known_regions().items()]
    lines += ["", "## Other names"]
    return "\n".join([*lines, "", REST, ""])


INTRODUCTION = """\
The shipped model knows the six nucleus types of Lizard. Other tools use other names for them. The
table lists the names that nasdm-wsi knows. Case, hyphens, underscores, a plural s and a final
"cells", "nuclei" or "tissue" make no difference."""

REGIONS = """\
These names mean [tissue regions](regions.md). A name that stands in both tables means nuclei where
its objects look like nuclei, and regions where they are larger than a nucleus or enclose others. A
name that ends in "region", "area" or "compartment", such as `Tumor area`, means regions only, and
one that ends in "cells" or "nuclei" means nuclei only."""

REST = """\
- For a derived class such as `Immune cells: Lymphocyte`, the whole name is looked up first, then
  each part in order.
- Classes whose names end in `*` are left out, as in QuPath.
- `Tissue` and `Region*` outline tissue; `--tissue-class` changes these names.
- Any other name, such as `Dead` or `Other`, stops the command with one line. Assign a type or a
  region with `--class-map NAME=TYPE`, or leave the class out with `--ignore-class NAME`. Both take
  precedence over the tables.

`nasdm-wsi info FILE` shows how each class of a file is read, before anything is rendered."""


if __name__ == "__main__":
    (DOCS / "commands.md").write_text(commands())
    (DOCS / "class_names.md").write_text(class_names())

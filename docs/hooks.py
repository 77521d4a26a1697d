"""For mkdocs: the README is the first page, and what pages link to beside docs/ comes along.

Links are written as they work in the repository, and changed here to where things are in the site.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ALONG = ("*.md", "LICENSE", "CITATION.cff", "model/weights/[!_]*", "examples/**/*", "benchmarks/*")
TOO_LARGE = (".safetensors", ".geojson", ".pyc")


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the files of the repository that stand outside docs/."""
    for path in (path for pattern in ALONG for path in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        if path.is_file() and path.suffix not in TOO_LARGE:
            name = "index.md" if name == "README.md" else name
            files.append(File.generated(config, name, abs_src_path=str(path)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Turn links between docs/ and the rest into links within the site."""
    if Path(page.file.abs_src_path).is_relative_to(config.docs_dir):
        return markdown.replace("](../README.md", "](index.md").replace("](../", "](")
    return re.sub(r"(\]\((?:\.\./)*)docs/", r"\1", markdown)

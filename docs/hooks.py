"""Hooks for mkdocs: add the README and other files from outside docs/ to the site.

The README becomes the first page. Links in the pages are written for the repository; the hooks
change them to the places in the site.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "model/weights/small.md",
    "model/weights/layout-nuclei.md",
    "model/weights/layout-regions.md",
)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages outside docs/ and all files that the pages link to."""
    pages = [ROOT / page for page in PAGES]
    found = {*pages}
    for page in (*pages, *ROOT.glob("docs/*.md")):
        links = re.findall(r"\]\(([^)#:]+)", page.read_text())
        found.update((page.parent / link).resolve() for link in links)
    for path in sorted(found):
        if path.is_file() and not path.is_relative_to(config.docs_dir):
            name = path.relative_to(ROOT).as_posix()
            name = "index.md" if name == "README.md" else name
            files.append(File.generated(config, name, abs_src_path=str(path)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Change links between docs/ and other folders into links within the site."""
    if Path(page.file.abs_src_path).is_relative_to(config.docs_dir):
        return markdown.replace("](../README.md", "](index.md").replace("](../", "](")
    return re.sub(r"(\]\((?:\.\./)*)docs/", r"\1", markdown)

"""The pages of the site that are outside docs/, and the links to them: a hook of MkDocs."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    ".github/SECURITY.md": "security.md",
    "LICENSE": "license.md",
}
"""Path in the repository → path in the site. Everything else is in docs/, and has its path there."""

LINK = re.compile(r"\]\((?!\w+:)(?P<file>[^)\s#]+)(?P<anchor>#[^)\s]*|)\)")


def on_files(files: Files, *, config: Any) -> Files:
    from mkdocs.structure.files import File  # a test reads this file where MkDocs is not installed

    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    return with_links_of_the_site(markdown, page.file.src_uri)


def with_links_of_the_site(markdown: str, page: str) -> str:
    """The Markdown of a page of the site, with each link to a file of the repository as the site needs it."""
    source = {place: source for source, place in OUTSIDE.items()}.get(page, f"docs/{page}")

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["file"]))
        place = OUTSIDE.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{link['anchor']})"

    return LINK.sub(moved, markdown)

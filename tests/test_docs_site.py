"""The site of `make docs-site` has every page, and links of the repository lead to pages of the site."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SITE = ROOT / ".ci" / "site"


def load_hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pages", SITE / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    return hook


HOOK = load_hook()


def listed(navigation: Any) -> Iterator[str]:
    """The pages of a navigation, in their order."""
    for entry in navigation:
        if isinstance(entry, str):
            yield entry
        else:
            (below,) = entry.values()
            yield from [below] if isinstance(below, str) else listed(below)


def test_the_navigation_lists_every_page_once():
    navigation = yaml.load((SITE / "mkdocs.yml").read_text("utf-8"), yaml.BaseLoader)["nav"]
    in_docs = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed(navigation)) == sorted([*in_docs, *HOOK.OUTSIDE.values()])


def test_the_pages_outside_the_folder_exist():
    assert [path for path in HOOK.OUTSIDE if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("index.md", "docs/api.md#rerank", "api.md#rerank"),
        ("index.md", "docs/page.png", "page.png"),
        ("index.md", "LICENSE", "license.md"),
        ("changelog.md", ".github/SECURITY.md", "security.md"),
        ("api.md", "../.github/SECURITY.md", "security.md"),
        ("deploy/README.md", "../cli.md", "../cli.md"),
        ("deploy/README.md", "../../README.md#gpu", "../index.md#gpu"),
        ("api.md", "#models", "#models"),
        ("api.md", "https://example.com/a.md", "https://example.com/a.md"),
    ],
)
def test_a_link_of_the_repository_becomes_one_of_the_site(page, link, expected):
    assert HOOK.with_links_of_the_site(f"see [it]({link}).", page) == f"see [it]({expected})."

"""GET /: the page for browsers, plain text for other clients. tests/ui tests what the page does."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import tomllib
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from gguf_embed.server.app import DIALECTS
from gguf_embed.server.docs.page.page import SCRIPTS, load_page, make_page, wants_page
from gguf_embed.server.docs.reference import DOCS_SCRIPTS, load_docs
from tests.server.fake_service import Reply, serving

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
ROOT = Path(__file__).parents[3]
FOLDER = files("gguf_embed.server.docs.page")
PAGES = {"page": load_page(), "docs": load_docs(DIALECTS, "1.2.3", key_needed=True)}
HTMLS = {name: made.body.decode() for name, made in PAGES.items()}
HTML = HTMLS["page"]


def get(accept: str | None, method: str = "GET", **options: object) -> Reply:
    async def scenario() -> Reply:
        async with serving(**options) as server:
            headers = {} if accept is None else {"Accept": accept}
            return await server.request(method, "/", headers=headers)

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [(BROWSER, True), ("text/html", True), ("*/*", False), ("", False), ("application/json", False)],
)
def test_who_gets_the_page(accept, is_page):
    assert wants_page(accept) == is_page


@pytest.mark.parametrize("accept", ["*/*", None])
def test_others_get_a_short_plain_text(accept):
    reply = get(accept)
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert reply.headers["Vary"] == "Accept"
    assert reply.raw.startswith(b"gguf-embed 1.2.3 serves\n  tiny")
    assert len(reply.raw.splitlines()) < 80


def test_a_browser_gets_the_page_without_a_key():
    reply = get(BROWSER, api_keys=("right",))
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert reply.raw == load_page().body


def test_a_cache_is_told_of_both_headers_that_matter():
    async def scenario() -> str:
        async with serving() as server:
            reply = await server.request("GET", "/", headers={"Accept": BROWSER, "Origin": "http://there"})
            return reply.headers["Vary"]

    assert asyncio.run(scenario()) == "Accept, Origin"


@pytest.mark.parametrize("accept", ["*/*", BROWSER])
def test_head_returns_the_same_headers_without_a_body(accept):
    asked, full = get(accept, "HEAD"), get(accept)
    assert asked.raw == b""
    for name in ("Content-Type", "Vary"):
        assert asked.headers[name] == full.headers[name]


@pytest.mark.parametrize("name", PAGES)
def test_the_policy_allows_this_style_and_this_script_and_nothing_else(name):
    rules = dict(rule.split(" ", 1) for rule in PAGES[name].headers["Content-Security-Policy"].split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        [inline] = re.findall(rf"<{tag}>(.*?)</{tag}>", HTMLS[name], re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_a_page_without_a_script_may_run_none():
    page = make_page("<style>@STYLE@</style>", style="p{}")
    assert "script-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.body == b"<style>p{}</style>"


def test_the_page_loads_nothing_from_elsewhere_and_works_under_any_path():
    addresses = set(re.findall(r"https?://[\w./-]+", HTML))
    assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"}  # names, not asked
    assert re.findall(r"(?:href|src|action)=\"/", HTML) == []
    assert re.findall(r"(?:call|callJson|fetch)\([\"'`]/", HTML) == []


@pytest.mark.parametrize("html", HTMLS.values(), ids=HTMLS)
def test_the_pages_write_texts_as_text_only(html):
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", html) == []
    assert re.findall(r"\son\w+=|style=\"", html) == []


@pytest.mark.parametrize("names", [SCRIPTS, DOCS_SCRIPTS], ids=PAGES)
def test_no_name_of_a_script_is_declared_twice(names):
    """They share one scope, in which a second function would silently replace the first."""
    declared = re.compile(r"^(?:const|let|class|(?:async )?function\*?) (\w+)", re.MULTILINE)
    found = Counter(name for file in names for name in declared.findall(FOLDER.joinpath(file).read_text("utf-8")))
    assert len(found) > 20
    assert [name for name, n in found.items() if n > 1] == []


def test_every_part_is_used_and_short():
    parts = {part.name: part.read_text("utf-8") for part in FOLDER.iterdir() if part.is_file()}
    assert {*SCRIPTS, *DOCS_SCRIPTS} == {name for name in parts if name.endswith(".js")}
    assert {name: len(text.splitlines()) for name, text in parts.items() if len(text.splitlines()) > 300} == {}
    assert len(load_page().body) < 160_000


@pytest.mark.parametrize(("html", "least"), [(HTMLS["page"], 30), (HTMLS["docs"], 8)], ids=HTMLS)
def test_every_id_that_the_script_asks_for_is_in_the_page(html, least):
    asked = set(re.findall(r"(?:\bat|listen)\(\"([\w-]+)\"", html))
    assert len(asked) > least
    ids = re.findall(r"\sid=\"([\w-]+)\"", html)
    assert asked - set(ids) == set()
    assert len(set(ids)) == len(ids)


def test_the_wheel_takes_every_part_along():
    """What is not Python is only in the wheel where pyproject.toml names it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    data = project["tool"]["setuptools"]["package-data"]
    anywhere = data.pop("*")
    packed = {
        path for name, globs in data.items() for glob in globs for path in (ROOT / name.replace(".", "/")).glob(glob)
    }
    packed |= {path for glob in anywhere for path in (ROOT / "gguf_embed").rglob(glob)}
    suffixes = {".html", ".css", ".js", ".toml"}
    needed = {path for path in (ROOT / "gguf_embed").rglob("*") if path.suffix in suffixes}
    assert {path.suffix for path in needed} == suffixes
    assert needed - packed == set()


def test_the_image_in_the_readme_is_small():
    assert "docs/page.png" in (ROOT / "README.md").read_text("utf-8")
    assert (ROOT / "docs" / "page.png").stat().st_size < 250_000

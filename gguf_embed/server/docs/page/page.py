"""`GET /` in a browser: one self-contained page, built from this folder's files. Its policy allows no other sources."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files

from aiohttp import web

from gguf_embed.server.context import ServerContext

SCRIPTS = (
    *("math.js", "wording.js", "ranking.js", "chunking.js", "export.js", "view.js", "cluster.js", "projection.js"),
    *("api.js", "clipboard.js", "theme.js", "slices.js", "tabs.js", "form.js", "source.js", "models.js"),
    *("request.js", "compute.js", "ranking_card.js", "numbers.js", "download.js", "zoom.js", "matrix.js", "table.js"),
    *("canvas.js", "map.js", "tokens.js", "picture.js"),
    *("server_sample.js", "server_charts.js", "server_models.js", "server_batches.js", "server_status.js"),
    "main.js",
)
"""Joined in this order."""

STYLES = ("page.css", "try.css", "server.css")
"""Joined in this order."""

VARY = {"Vary": "Accept"}
"""The reply to `GET /` depends on the Accept header, so caches must distinguish by it."""

_STYLE, _SCRIPT, _SERVER = "@STYLE@", "@SCRIPT@", "@SERVER@"


@dataclass(frozen=True, slots=True)
class Page:
    """A finished document, and the headers to send with it."""

    body: bytes
    headers: Mapping[str, str]

    def response(self) -> web.Response:
        return web.Response(body=self.body, headers=self.headers)


async def page(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """Serve the page. It needs no key, because it has no data itself and gets everything from the API."""
    return load_page().response()


def wants_page(accept: str) -> bool:
    """Whether an Accept header is a browser's. curl and libraries send `*/*`."""
    return "text/html" in accept


@functools.cache
def load_page() -> Page:
    """Read and assemble the page, once per process."""
    html = read_part("index.html").replace(_SERVER, read_part("server.html"))
    return make_page(html, style="".join(map(read_part, STYLES)), script=join_scripts(SCRIPTS))


def join_scripts(names: Iterable[str]) -> str:
    """These files as one script, which adds no names to the window."""
    return '(() => {\n"use strict";\n' + "\n".join(map(read_part, names)) + "})();\n"


def read_part(name: str) -> str:
    return files("gguf_embed.server.docs.page").joinpath(name).read_text("utf-8")


def make_page(html: str, *, style: str, script: str = "") -> Page:
    """Insert style and script into the document, and allow exactly these by their hashes (CSP 3, 8.4)."""
    body = html.replace(_STYLE, style).replace(_SCRIPT, script)
    policy = {
        "default-src": "'none'",
        "style-src": _source(style),
        "script-src": _source(script) if script else "'none'",
        "connect-src": "'self'" if script else "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",  # the page must change as soon as the server is updated
        **VARY,
    }
    return Page(body.encode(), headers)


def _source(inline: str) -> str:
    digest = hashlib.sha256(inline.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"

"""Handles paths with double slashes, sent by clients that join "http://host/" and "/api/embed"."""

from __future__ import annotations

import re

from aiohttp import web

_SLASHES = re.compile("/{2,}")


def has_double_slash(request: web.Request) -> bool:
    """Whether the path, as it was sent, has a double slash."""
    return "//" in request.rel_url.raw_path


async def without_double_slashes(request: web.Request) -> web.Request:
    """The request with single slashes in its path, routed again. Not a redirect, because not every client follows one.

    Only for paths that match no route, so that the others have no overhead. The body must not have been read.
    """
    url = request.rel_url
    single = url.with_path(_SLASHES.sub("/", url.raw_path), encoded=True, keep_query=True)
    again = request.clone(rel_url=single)
    match = await request.app.router.resolve(again)
    match.add_app(request.app)
    again._match_info = match  # as aiohttp's own normalize_path_middleware does
    return again

"""Finds the route that is meant by a path with a doubled prefix, a slash too many or a slash at its end.

Clients join an address and a path: "http://host/" and "/api/embed", "http://host/v1" and "/v1/embeddings",
"http://host/v1/embeddings" and "/embeddings".
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

from aiohttp import web

_SLASHES = re.compile("/{2,}")
_PREFIX = re.compile("/(?:openai|api|v1|v2)(?=/(?:api|v1|v2)/)")
_TOO_LONG = 300  # characters; no route is that long


def likely_paths(path: str) -> Iterator[str]:
    """Paths that may be meant, one for each correction."""
    single = _SLASHES.sub("/", path)
    yield single
    bare = single.rstrip("/")
    yield bare
    while (shorter := _PREFIX.sub("", bare, count=1)) != bare and bare.startswith(
        ("/openai/", "/api/", "/v1/", "/v2/")
    ):
        bare = shorter
        yield bare
    parent, _, last = bare.rpartition("/")
    if parent.endswith(f"/{last}"):
        yield parent
    half = len(bare) // 2
    if bare[:half] == bare[half:]:
        yield bare[:half]


async def meant(request: web.Request, served: Container[web.AbstractRoute], prefix: str) -> web.Request | None:
    """The request with the path that is meant, routed again; None if its path is like no served route.

    Not a redirect, because not every client follows one. Only for paths that match no route, so that the others have no
    overhead. `prefix` is --api-prefix. The body must not have been read.
    """
    url = request.rel_url
    if len(url.raw_path) > _TOO_LONG:
        return None
    begins = _SLASHES.sub("/", url.raw_path).startswith(f"{prefix}/")
    for path in likely_paths(_SLASHES.sub("/", url.raw_path).removeprefix(prefix)) if begins else ():
        path = prefix + path
        if path in ("", prefix, url.raw_path):
            continue
        again = request.clone(rel_url=url.with_path(path, encoded=True, keep_query=True))
        match = await request.app.router.resolve(again)
        is_method_wrong = isinstance(match.http_exception, web.HTTPMethodNotAllowed)
        if is_method_wrong or (match.http_exception is None and match.route in served):
            match.add_app(request.app)
            again._match_info = match  # as aiohttp's own normalize_path_middleware does
            return again
    return None

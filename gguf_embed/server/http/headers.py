"""The headers that every reply has, errors and streams included."""

from __future__ import annotations

import os
import re

from aiohttp import web

from gguf_embed.server.context import ServerContext
from gguf_embed.server.http.body import TRUNCATED_HEADER

REQUEST_ID_HEADER = "X-Request-Id"
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CORS = {
    "Access-Control-Allow-Credentials": "true",
    "Access-Control-Allow-Methods": "GET, POST, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Expose-Headers": f"X-Request-Id, Retry-After, {TRUNCATED_HEADER}",
}


def request_id(request: web.Request) -> str:
    """The client's own where it is sane, else a new one with each call."""
    asked = request.headers.get(REQUEST_ID_HEADER)
    return asked if asked and _SANE_ID.fullmatch(asked) else os.urandom(12).hex()


def set_common_headers(context: ServerContext, request: web.Request, response: web.StreamResponse) -> None:
    """Request id, server, CORS, and the end of the connection where the server is stopping.

    The middleware calls it for whatever a handler returns; one that streams calls it before its first byte.
    """
    headers = response.headers
    if REQUEST_ID_HEADER not in headers:  # an error has the one that was logged
        headers[REQUEST_ID_HEADER] = request_id(request)
    headers["Server"] = "gguf-embed"
    origin = request.headers.get("Origin")
    if origin is not None:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Vary"] = f"{headers['Vary']}, Origin" if "Vary" in headers else "Origin"
        headers.update(_CORS)
    if context.in_flight.stopping.is_set():
        response.force_close()

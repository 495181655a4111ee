"""aiohttp's runner with larger headers, and with JSON for what it cannot parse as a request."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from gguf_embed.errors import EmbedError, EngineFailure, InvalidRequest
from gguf_embed.server.context import SERVER_CONTEXT, ErrorFormat
from gguf_embed.server.http.body import json_response
from gguf_embed.server.http.errors import INTERNAL_MESSAGE, HeadersTooLarge, format_error
from gguf_embed.server.http.middleware import REQUEST_ID_HEADER, request_id

PARSED_HEADER_BYTES = 2**20
"""One header may have this size before aiohttp gives up on a request, whose route is then unknown.

The middleware refuses headers over 64 KiB with an error in the route's dialect.
"""

MAX_HEADERS = 1000


class HttpRunner(web.AppRunner):
    """An `AppRunner` for the product's own protocol."""

    def __init__(self, app: web.Application, **settings: Any) -> None:
        super().__init__(
            app,
            max_line_size=PARSED_HEADER_BYTES,
            max_field_size=PARSED_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            **settings,
        )
        self._errors = app[SERVER_CONTEXT].dialects[0].errors

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(self._errors, made)


class _Server(web.Server):
    """The same server with other protocols."""

    def __init__(self, errors: ErrorFormat, made: web.Server) -> None:
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )
        self._errors = errors

    def __call__(self) -> RequestHandler:
        return _Protocol(self._errors, self, loop=self._loop, **self._kwargs)


class _Protocol(RequestHandler):
    """A connection whose own errors are JSON, too."""

    __slots__ = ("_errors",)

    def __init__(self, errors: ErrorFormat, manager: web.Server, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._errors = errors

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # logs it, and raises if a reply has already begun
        reply = format_error(error_of(status, exc), self._errors)
        response = json_response(reply.body, reply.status)
        response.headers.update({**reply.headers, REQUEST_ID_HEADER: request_id(request), "Server": "gguf-embed"})
        response.force_close()
        return response


def error_of(status: int, exc: BaseException | None) -> EmbedError:
    """The error for what aiohttp could not parse, or for a failure outside of the middleware."""
    if isinstance(exc, LineTooLong):
        return HeadersTooLarge()
    if status < 500:
        return InvalidRequest("the request is not valid HTTP/1.1, or is not HTTP at all: send it over http, not https")
    return EngineFailure(INTERNAL_MESSAGE)

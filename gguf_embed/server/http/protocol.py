"""aiohttp's runner with larger headers, and with JSON for what it cannot parse as a request."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from gguf_embed.errors import EmbedError, EngineFailure, InvalidRequest, Unavailable, WayOut
from gguf_embed.server.context import SERVER_CONTEXT, ErrorFormat
from gguf_embed.server.http.body import json_response
from gguf_embed.server.http.connections import (
    HEADER_TIMEOUT_S,
    IDLE_TIMEOUT_S,
    READ_TIMEOUT_S,
    ShortageLog,
    connection_limit,
    count_unread,
    longest_waiting,
)
from gguf_embed.server.http.errors import INTERNAL_MESSAGE, HeadersTooLarge, format_error
from gguf_embed.server.http.middleware import REQUEST_ID_HEADER, request_id

PARSED_HEADER_BYTES = 2**20
"""One header may have this size before aiohttp gives up on a request, whose route is then unknown.

The middleware refuses headers over 64 KiB with an error in the route's dialect.
"""

MAX_HEADERS = 1000

READ_ON_S = 1.0


class HttpRunner(web.AppRunner):
    """An `AppRunner` for the product's own protocol."""

    def __init__(self, app: web.Application, **settings: Any) -> None:
        super().__init__(
            app,
            max_line_size=PARSED_HEADER_BYTES,
            max_field_size=PARSED_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            keepalive_timeout=IDLE_TIMEOUT_S,
            **settings,
        )
        self._errors = app[SERVER_CONTEXT].dialects[0].errors

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(self._errors, made)

    async def count_unread(self, timeout_s: float) -> int:
        """How many clients have not taken their replies after `timeout_s`."""
        server = self.server
        return await count_unread(server.protocols, timeout_s) if isinstance(server, _Server) else 0


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
        self._limit = connection_limit()
        self._shortage = ShortageLog()

    @property
    def protocols(self) -> list[_Protocol]:
        """All open connections."""
        return [one for one in self._connections if isinstance(one, _Protocol)]

    def make_room(self, new: _Protocol) -> None:
        """End another connection, or the new one, if there are too many."""
        if self._limit is None or len(self._connections) <= self._limit:
            return
        self._shortage.note(self._limit)
        longest = longest_waiting(self.protocols, new)
        if isinstance(longest, _Protocol):
            longest.force_close()
        else:
            new.end_with(Unavailable("the server has no more room for connections", [WayOut.RETRY]))

    def __call__(self) -> RequestHandler:
        return _Protocol(self._errors, self, loop=self._loop, **self._kwargs)


class _Protocol(RequestHandler):
    """A connection with deadlines for headers and for reading replies, and whose own errors are JSON, too."""

    __slots__ = ("_errors", "_headers_deadline", "_reading_deadline", "_server")

    def __init__(self, errors: ErrorFormat, manager: _Server, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._errors = errors
        self._server = manager
        self._headers_deadline: asyncio.TimerHandle | None = None
        self._reading_deadline: asyncio.TimerHandle | None = None  # while the client lags behind

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._expect_headers()
        self._server.make_room(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        for deadline in (self._headers_deadline, self._reading_deadline):
            if deadline is not None:
                deadline.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        n_before = self._request_count
        super().data_received(data)
        if self._request_count != n_before:
            if self._headers_deadline is not None:
                self._headers_deadline.cancel()
                self._headers_deadline = None
        elif (
            self._headers_deadline is None
            and self._waiter is not None
            and not self._waiter.done()
            and data.strip(b"\r\n")
        ):
            self._expect_headers()  # it waits for the next request, of which this is the beginning

    def _expect_headers(self) -> None:
        self._headers_deadline = self._loop.call_later(HEADER_TIMEOUT_S, self._end_late)

    def _end_late(self) -> None:
        self._headers_deadline = None
        if self.waits_since_s is not None:
            self.end_with(InvalidRequest(f"no request has arrived within {HEADER_TIMEOUT_S:g} s: send it again"))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading_deadline is not None:
            self._reading_deadline.cancel()

    def _watch_reading(self) -> None:
        n_unsent_bytes = self.n_unsent_bytes
        self._reading_deadline = self._loop.call_later(READ_TIMEOUT_S, self._check_reading, n_unsent_bytes)

    def _check_reading(self, n_before: int) -> None:
        """End a connection whose client has read nothing meanwhile: its reply would stay in memory for ever."""
        if self.transport is None:
            return
        if self.n_unsent_bytes < n_before:
            self._watch_reading()
        else:
            self.transport.abort()

    @property
    def waits_since_s(self) -> float | None:
        is_waiting = self._waiter is not None and not self._waiter.done() and not self._close
        return self._next_keepalive_close_time - self._keepalive_timeout if is_waiting else None

    @property
    def n_unsent_bytes(self) -> int:
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def end_with(self, error: EmbedError) -> None:
        """Say why, and close. What the client still sends is read for a moment, because it may lose the reply else."""
        if self.transport is None:
            return
        reply = format_error(error, self._errors)
        headers = {
            **reply.headers,
            "Content-Type": "application/json",
            "Content-Length": str(len(reply.body)),
            "Connection": "close",
            "Server": "gguf-embed",
        }
        lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}", *map(": ".join, headers.items())]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + reply.body)
        self.close()
        self._loop.call_later(READ_ON_S, self.force_close)

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

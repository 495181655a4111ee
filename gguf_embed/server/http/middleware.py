"""The middleware: request id, requests in flight, CORS, API key, errors in the route's dialect, metrics, log."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import time
from collections.abc import Mapping

from aiohttp import web
from aiohttp.typedefs import Handler as AiohttpHandler
from aiohttp.web_request import BaseRequest

from gguf_embed.errors import EmbedError, EngineFailure, InvalidRequest, OutOfTime, Unavailable
from gguf_embed.server.context import ERROR_FORMAT, Dialect, Route, ServerContext
from gguf_embed.server.http.auth import ApiKeys
from gguf_embed.server.http.body import TRUNCATED_HEADER, json_response
from gguf_embed.server.http.errors import (
    INTERNAL_MESSAGE,
    MAX_HEADER_BYTES,
    HeadersTooLarge,
    MethodNotAllowed,
    RouteNotFound,
    format_error,
    is_passing,
    is_servers_fault,
)
from gguf_embed.server.http.path import meant
from gguf_embed.server.http.request_log import UNKNOWN_ROUTE, WORK, Answered, RequestLog, RequestWork
from gguf_embed.server.http.request_log import logger as request_logger
from gguf_embed.server.http.same_site import SameSite
from gguf_embed.server.http.terms import (
    PRIORITY_HEADER,
    TIMEOUT_HEADER,
    ask_cache,
    ask_priority,
    client_of,
    within_time,
)
from gguf_embed.types import CALLER, Caller

logger = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CORS = {
    "Access-Control-Allow-Credentials": "true",
    "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, X-Api-Key, X-Request-Id",
    "Access-Control-Expose-Headers": f"X-Request-Id, Retry-After, Retry-After-Ms, {TRUNCATED_HEADER}",
}

CLIENT_GONE_STATUS = 499
"""nginx's status for a client that disconnected before its reply. Only seen in metrics and the log."""

_NONE: tuple[None, None] = (None, None)

ServedRoutes = Mapping[web.AbstractRoute, tuple[Route, Dialect]]


class RequestMiddleware:
    """The middleware of one application. `served` maps aiohttp's routes to our routes and their dialects."""

    def __init__(self, context: ServerContext, served: ServedRoutes) -> None:
        self._context = context
        self._served = served
        options = context.options
        self._keys = ApiKeys(options.api_keys, options.key_classes) if options.api_keys else None
        self._log = RequestLog()
        self._timeout_s = options.request_timeout_s
        self._same_site = SameSite(context.options.allowed_origins)
        self._dialects: dict[str, Dialect] = {}  # by path
        for dialect in context.dialects:
            for route in dialect.routes:
                self._dialects.setdefault(context.options.api_prefix + route.path, dialect)

    @web.middleware
    async def middleware(self, request: web.Request, handler: AiohttpHandler) -> web.StreamResponse:
        """Answer one request, and count it in any case."""
        started_s = time.perf_counter()
        route, dialect = self._served.get(request.match_info.route, _NONE)
        if route is None and (corrected := await self._meant(request)) is not None:
            request = corrected
            route, dialect = self._served.get(request.match_info.route, _NONE)
            handler = request.match_info.handler
        status, work = CLIENT_GONE_STATUS, None
        if request_logger.isEnabledFor(logging.INFO):
            WORK.set(work := RequestWork())
        task = asyncio.current_task()
        assert task is not None  # a handler always runs in a task
        try:
            response = await self._answer(request, route, handler, dialect)
            if not response.prepared:  # else it is a stream that has already sent its headers
                set_common_headers(self._context, request, response)
            status = response.status
            if work is not None:
                work.request_id = response.headers.get(REQUEST_ID_HEADER, "")
            return response
        finally:
            self._context.in_flight.leave(task)
            duration_s = time.perf_counter() - started_s
            self._context.metrics.observe_request(route.path if route else UNKNOWN_ROUTE, status, duration_s)
            if work is not None:
                answered = Answered.of(request.method, route.path if route else None, status, request.rel_url.raw_path)
                self._log.answered(answered, duration_s, work)

    async def _answer(
        self, request: web.Request, route: Route | None, handler: AiohttpHandler, dialect: Dialect | None
    ) -> web.StreamResponse:
        try:
            if self._context.in_flight.stopping.is_set() and request.method in ("POST", "DELETE"):
                raise Unavailable("the server is shutting down: retry after it has restarted")
            if request.method == "OPTIONS":
                return web.Response()
            self._identify(request, route)
            if sum(map(len, itertools.chain(*request.raw_headers))) + len(request.raw_path) > MAX_HEADER_BYTES:
                raise HeadersTooLarge
            if (self._timeout_s is not None or TIMEOUT_HEADER in request.headers) and (route is None or route.timed):
                return await within_time(request, handler, self._timeout_s)
            return await handler(request)
        except EmbedError as error:
            failure = error
        except web.HTTPException as error:
            failure = self._from_http(error.with_traceback(None), request)  # the request keeps it
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            failure = EngineFailure(INTERNAL_MESSAGE)
        except asyncio.CancelledError:
            if not self._context.in_flight.is_out_of_time:
                raise  # the client has left
            failure = OutOfTime()
        try:
            return self._error_response(failure, request, route, dialect or self._dialect_of(request.path))
        finally:
            # its traceback holds this frame, and the frames with the body: without this, until a collection
            del failure

    def _identify(self, request: web.Request, route: Route | None) -> None:
        """Check that the client may ask, and note who it is: the caller of this task."""
        headers = request.headers
        if self._keys is None:
            if headers.get("Host") not in self._same_site.known_hosts or "Origin" in headers:
                self._check_site(request, route)
            address = request.remote or ""
            CALLER.set(Caller(client_of(address) if ":" in address else address))
        elif route is None or route.auth_required:
            keys = headers.get("Authorization"), headers.get("X-Api-Key"), headers.get("Api-Key")
            CALLER.set(self._keys.check(*keys))
        if "Cache-Control" in headers:
            ask_cache(headers["Cache-Control"])
        if PRIORITY_HEADER in headers:
            ask_priority(headers[PRIORITY_HEADER], PRIORITY_HEADER)

    async def _meant(self, request: web.Request) -> web.Request | None:
        return await meant(request, self._served, self._context.options.api_prefix)

    def _check_site(self, request: web.Request, route: Route | None) -> None:
        if route is None or route.auth_required:
            self._same_site.check(request)

    def _dialect_of(self, path: str) -> Dialect:
        """The dialect of a path that is unknown, or that was requested with a wrong method."""
        path = "/" + path.lstrip("/")
        named = (dialect for dialect in self._context.dialects if dialect.path_prefix)
        path_of_route = path.removeprefix(self._context.options.api_prefix)
        by_prefix = next((dialect for dialect in named if path_of_route.startswith(dialect.path_prefix)), None)
        return self._dialects.get(path) or by_prefix or self._context.dialects[0]

    def _from_http(self, error: web.HTTPException, request: web.Request) -> EmbedError:
        match error:
            case web.HTTPNotFound():
                return RouteNotFound(request.path, self._dialects)
            case web.HTTPMethodNotAllowed():
                return MethodNotAllowed(request.method, request.path, tuple(sorted(error.allowed_methods)))
            case _:
                return InvalidRequest(f"{error.status} {error.reason}")

    def _error_response(
        self, error: EmbedError, request: web.Request, route: Route | None, dialect: Dialect
    ) -> web.Response:
        self._context.metrics.observe_error(error.kind)
        in_flight = self._context.in_flight
        if isinstance(error, Unavailable) and error.retry_after_s is None and in_flight.stopping.is_set():
            error.retry_after_s = in_flight.restarted_in_s(self._context.service.state().queued_s)
        if isinstance(error, OutOfTime):
            self._context.in_flight.n_out_of_time += 1
        reply = format_error(error, request.get(ERROR_FORMAT, dialect.errors))
        response = json_response(reply.body, reply.status)
        response.headers.update(reply.headers)
        if is_servers_fault(error):
            response.headers[REQUEST_ID_HEADER] = asked = request_id(request)
            level = logging.INFO if is_passing(error) else logging.WARNING
            logger.log(level, "%s: %s, request %s", error.kind, error.message, asked, extra={"request_id": asked})
        else:
            path = request.rel_url.raw_path
            answered = Answered.of(request.method, route.path if route else None, reply.status, path)
            self._log.refused(answered, error.message)
        return response


def request_id(request: BaseRequest) -> str:
    """The client's own request id if it is valid, else a new one with each call."""
    asked = request.headers.get(REQUEST_ID_HEADER)
    return asked if asked and _SANE_ID.fullmatch(asked) else os.urandom(12).hex()


def set_common_headers(context: ServerContext, request: web.Request, response: web.StreamResponse) -> None:
    """Set request id, server and CORS headers, and close the connection afterwards if the server is shutting down.

    The middleware calls this for every response, except that a streaming handler must call it before the first byte.
    """
    headers = response.headers
    if REQUEST_ID_HEADER not in headers:  # an error already has the one that was logged
        headers[REQUEST_ID_HEADER] = request_id(request)
    headers["Server"] = "gguf-embed"
    origin = request.headers.get("Origin")
    if origin is not None:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Vary"] = f"{headers['Vary']}, Origin" if "Vary" in headers else "Origin"
        headers.update(_CORS)
        if (asked := request.headers.get("Access-Control-Request-Headers")) is not None:
            headers["Access-Control-Allow-Headers"] = asked  # "*" is no wildcard in a request with credentials
            headers["Vary"] += ", Access-Control-Request-Headers"
    if context.in_flight.stopping.is_set():
        response.force_close()

"""The one middleware: request id, in_flight, CORS, key, errors in the route's dialect, metrics, debug log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from aiohttp import web
from aiohttp.typedefs import Handler as AiohttpHandler

from gguf_embed.errors import EmbedError, EngineFailure, InvalidRequest, Unavailable
from gguf_embed.server.context import Dialect, Route, ServerContext
from gguf_embed.server.http.auth import ApiKeys
from gguf_embed.server.http.body import json_response
from gguf_embed.server.http.errors import (
    INTERNAL_MESSAGE,
    MethodNotAllowed,
    RouteNotFound,
    format_error,
    is_servers_fault,
)
from gguf_embed.server.http.headers import REQUEST_ID_HEADER, request_id, set_common_headers
from gguf_embed.server.http.path import has_double_slash, without_double_slashes

logger = logging.getLogger(__name__)

CLIENT_GONE_STATUS = 499
"""nginx's number for a client that left before its answer; only metrics and the log see it."""

_UNKNOWN_ROUTE = "unknown"
_OLLAMA_PREFIX = "/api/"

RoutesByResource = Mapping[web.AbstractRoute, Route]


class RequestMiddleware:
    """The middleware of one application. `routes` says which line of the table an aiohttp route came from."""

    def __init__(self, context: ServerContext, routes: RoutesByResource) -> None:
        self._context = context
        self._routes = routes
        self._keys = ApiKeys(context.options.api_keys)
        self._dialects = {route.path: route.dialect for route in reversed(context.routes)}  # a path's first counts

    @web.middleware
    async def middleware(self, request: web.Request, handler: AiohttpHandler) -> web.StreamResponse:
        """Answer one request, and count it whatever happens."""
        started_s = time.perf_counter()
        route = self._routes.get(request.match_info.route)
        if route is None and has_double_slash(request):
            request = await without_double_slashes(request)
            route, handler = self._routes.get(request.match_info.route), request.match_info.handler
        status = CLIENT_GONE_STATUS
        task = asyncio.current_task()
        assert task is not None  # a handler is a coroutine of a task
        self._context.in_flight.enter(task)
        try:
            response = await self._answer(request, route, handler)
            if not response.prepared:  # a stream has sent its headers
                set_common_headers(self._context, request, response)
            status = response.status
            return response
        finally:
            self._context.in_flight.leave(task)
            duration_s = time.perf_counter() - started_s
            self._context.metrics.observe_request(route.path if route else _UNKNOWN_ROUTE, status, duration_s)
            if logger.isEnabledFor(logging.DEBUG):
                logger.debug("%s %s %d %.1f ms", request.method, request.path, status, duration_s * 1e3)

    async def _answer(self, request: web.Request, route: Route | None, handler: AiohttpHandler) -> web.StreamResponse:
        try:
            _check_open(request, self._context)
            if request.method == "OPTIONS":
                return web.Response()
            if route is None or route.auth_required:
                self._keys.check(request.headers.get("Authorization"), request.headers.get("X-Api-Key"))
            return await handler(request)
        except EmbedError as error:
            failure = error
        except web.HTTPException as error:
            failure = self._from_http(error, request)
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            failure = EngineFailure(INTERNAL_MESSAGE)
        return self._error_response(failure, request, route.dialect if route else self._dialect_of(request.path))

    def _dialect_of(self, path: str) -> Dialect:
        """For a path whose method is wrong, or that nobody knows."""
        return self._dialects.get(path, Dialect.OLLAMA if path.startswith(_OLLAMA_PREFIX) else Dialect.LLAMA)

    def _from_http(self, error: web.HTTPException, request: web.Request) -> EmbedError:
        match error:
            case web.HTTPNotFound():
                return RouteNotFound(request.path, self._dialects)
            case web.HTTPMethodNotAllowed():
                return MethodNotAllowed(request.method, request.path, tuple(sorted(error.allowed_methods)))
            case _:
                return InvalidRequest(f"{error.status} {error.reason}")

    def _error_response(self, error: EmbedError, request: web.Request, dialect: Dialect) -> web.Response:
        self._context.metrics.observe_error(error.kind)
        reply = format_error(error, dialect)
        response = json_response(reply.body, reply.status)
        response.headers.update(reply.headers)
        if is_servers_fault(error):
            response.headers[REQUEST_ID_HEADER] = asked = request_id(request)
            logger.warning("%s: %s, request %s", error.kind, error.message, asked)
        return response


def _check_open(request: web.Request, context: ServerContext) -> None:
    if context.in_flight.stopping.is_set() and request.method in ("POST", "DELETE"):
        raise Unavailable("the server is shutting down and takes no new work")

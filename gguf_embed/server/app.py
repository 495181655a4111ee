"""The list of dialects, and the aiohttp application built from their routes."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from gguf_embed.batch.batches import Batches
from gguf_embed.metrics import Metrics
from gguf_embed.server.batch_lines import work_of
from gguf_embed.server.context import SERVER_CONTEXT, Dialect, Route, ServerContext, ServerOptions, Service
from gguf_embed.server.dialects.cohere.dialect import COHERE
from gguf_embed.server.dialects.llama.dialect import LLAMA
from gguf_embed.server.dialects.ollama.dialect import OLLAMA
from gguf_embed.server.dialects.openai.dialect import OPENAI
from gguf_embed.server.dialects.tei.dialect import TEI
from gguf_embed.server.dialects.vllm.dialect import VLLM
from gguf_embed.server.fields.misspelled import names_of
from gguf_embed.server.http.body_memory import BodyMemories
from gguf_embed.server.http.middleware import RequestMiddleware

if TYPE_CHECKING:
    from gguf_embed.server.tracing import Tracing

DIALECTS: tuple[Dialect, ...] = (
    LLAMA,  # unknown paths get the errors of the first dialect
    OPENAI,
    COHERE,
    TEI,
    VLLM,
    OLLAMA,
)


def build_app(
    service: Service,
    options: ServerOptions,
    metrics: Metrics,
    dialects: tuple[Dialect, ...] = DIALECTS,
    tracing: Tracing | None = None,
    batches: Batches | None = None,
) -> web.Application:
    """Build the application. It is started by `run.serve_all`."""
    started_unix_s = int(time.time())
    bodies = BodyMemories.of(options.max_body_memory_bytes)
    names = names_of(body for dialect in dialects for body in dialect.bodies)
    context = ServerContext(
        service, options, metrics, dialects, started_unix_s, body_memory=bodies, batches=batches, field_names=names
    )
    if tracing is not None:
        context = tracing.context(context)
    served: dict[web.AbstractRoute, tuple[Route, Dialect]] = {}
    middleware = RequestMiddleware(context, served).middleware
    middlewares = [middleware] if tracing is None else [tracing.middleware, middleware]
    app = web.Application(middlewares=middlewares, client_max_size=options.max_body_bytes)
    app[SERVER_CONTEXT] = context
    if batches is not None:
        app.cleanup_ctx.append(functools.partial(_compute_batches, context, batches))
    prefix = options.api_prefix
    if prefix:
        route = Route("GET", prefix, _to_root, "the page", auth_required=False)
        served[app.router.add_get(prefix, functools.partial(_to_root, context))] = route, dialects[0]
    for dialect in dialects:
        for route in dialect.routes:
            handler = functools.partial(route.handler, context)
            methods = ("GET", "HEAD") if route.method == "GET" else (route.method,)
            resource = app.router.add_resource(prefix + route.path)
            for method in methods:
                served[resource.add_route(method, handler)] = route, dialect
    return app


async def _compute_batches(context: ServerContext, batches: Batches, app: web.Application) -> AsyncIterator[None]:
    """Compute batches until the server stops. The next start continues them."""

    async def stop() -> None:
        await context.in_flight.stopping.wait()
        await batches.stop_jobs()

    await batches.start(work_of(context, batches))
    stopping = asyncio.create_task(stop())
    yield
    stopping.cancel()
    await batches.close()


async def _to_root(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """For the prefix itself: the page's relative links need the slash at its end."""
    return web.Response(status=HTTPStatus.PERMANENT_REDIRECT, headers={"Location": f"{context.options.api_prefix}/"})

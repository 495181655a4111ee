"""The route table, and the aiohttp application made from it."""

from __future__ import annotations

import functools
import time

from aiohttp import web

from gguf_embed.metrics import Metrics
from gguf_embed.server import native, openai, ops, tokenize
from gguf_embed.server.door import DOOR, Dialect, Door, Route, ServerOptions, Service
from gguf_embed.server.middleware import DoorKeeper

ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/embeddings", openai.embeddings, "vectors, OpenAI's shape", dialect=Dialect.OPENAI),
    Route("POST", "/embedding", native.embedding, "vectors or one row per token, llama.cpp's shape"),
    Route("POST", "/embeddings", native.embedding, "the same"),
    Route("POST", "/tokenize", tokenize.tokenize, "text to token ids"),
    Route("POST", "/detokenize", tokenize.detokenize, "token ids to text"),
    Route("GET", "/v1/models", ops.models, "the served model", dialect=Dialect.OPENAI),
    Route("GET", "/v1/models/{model:.+}", ops.model, "one model by name", dialect=Dialect.OPENAI),
    Route("GET", "/models", ops.models, "the served model"),
    Route("GET", "/props", ops.props, "pooling, dimensions, limits"),
    Route("GET", "/metrics", ops.metrics, "counters and timings for Prometheus"),
    Route("GET", "/version", ops.version, "this server's version"),
    Route("GET", "/health", ops.health, "200 when requests are answered, else 503", auth_required=False),
    Route("GET", "/v1/health", ops.health, "the same", auth_required=False),
    Route("GET", "/ready", ops.ready, "the same, with what waits and runs", auth_required=False),
    Route("GET", "/", ops.index, "this page", auth_required=False),
)


def build_app(service: Service, options: ServerOptions, metrics: Metrics) -> web.Application:
    """Make the application. Starts nothing; `run.serve` does."""
    door = Door(service, options, metrics, ROUTES, started_unix_s=int(time.time()))
    routes: dict[web.AbstractRoute, Route] = {}
    app = web.Application(middlewares=[DoorKeeper(door, routes).middleware], client_max_size=options.max_body_bytes)
    app[DOOR] = door
    for route in ROUTES:
        handler = functools.partial(route.handler, door)
        methods = ("GET", "HEAD") if route.method == "GET" else (route.method,)
        resource = app.router.add_resource(route.path)
        for method in methods:
            routes[resource.add_route(method, handler)] = route
    return app

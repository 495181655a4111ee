"""The route table, and the aiohttp application made from it."""

from __future__ import annotations

import functools
import time

from aiohttp import web

from gguf_embed.metrics import Metrics
from gguf_embed.server.admin import health, index, metrics
from gguf_embed.server.admin import models as admin_models
from gguf_embed.server.context import SERVER_CONTEXT, Dialect, Route, ServerContext, ServerOptions, Service
from gguf_embed.server.dialects.cohere import embed as cohere
from gguf_embed.server.dialects.llama import embedding as native
from gguf_embed.server.dialects.llama import tokenize
from gguf_embed.server.dialects.ollama import embed as ollama_embed
from gguf_embed.server.dialects.ollama import models as ollama_models
from gguf_embed.server.dialects.ollama import pull as library
from gguf_embed.server.dialects.ollama import version as greeting
from gguf_embed.server.dialects.openai import embeddings as openai
from gguf_embed.server.dialects.rerank import rerank
from gguf_embed.server.dialects.tei import embed as tei_embed
from gguf_embed.server.dialects.tei import info as tei_info
from gguf_embed.server.dialects.tei import tokens as tei_tokens
from gguf_embed.server.docs import openapi, reference
from gguf_embed.server.http.middleware import RequestMiddleware

_tei_route = functools.partial(Route, dialect=Dialect.TEI)

_TEI_ROUTES = (
    _tei_route("POST", "/embed", tei_embed.embed, "vectors, TEI's shape"),
    _tei_route("POST", "/embed_all", tei_embed.embed_all, "one vector per token, TEI's shape"),
    _tei_route("POST", "/similarity", tei_embed.similarity, "the cosine of sentences to one"),
    _tei_route("POST", "/decode", tei_tokens.decode, "token ids to text, TEI's shape"),
    _tei_route("GET", "/info", tei_info.info, "the model and its limits, TEI's shape"),
    _tei_route("POST", "/", tei_embed.root, "/embed or /similarity, as TEI's clients send it"),
)

_ollama_route = functools.partial(Route, dialect=Dialect.OLLAMA)

_OLLAMA_ROUTES = (
    _ollama_route("POST", "/api/embed", ollama_embed.embed, "vectors, Ollama's shape"),
    _ollama_route("POST", "/api/embeddings", ollama_embed.embeddings, "one vector, Ollama's older shape"),
    _ollama_route("GET", "/api/tags", ollama_models.tags, "the models"),
    _ollama_route("GET", "/api/ps", ollama_models.ps, "the loaded models"),
    _ollama_route("POST", "/api/show", ollama_models.show, "one model by name"),
    _ollama_route("POST", "/api/pull", library.pull, "download a model"),
    _ollama_route("POST", "/api/copy", library.copy, "give a model one more name"),
    _ollama_route("DELETE", "/api/delete", library.delete, "remove a pulled model"),
    _ollama_route("GET", "/api/version", greeting.version, "this server's version"),
    *(
        _ollama_route("POST", path, greeting.refuse, "501: this server embeds only")
        for path in ("/api/generate", "/api/chat", "/api/create", "/api/push", "/api/blobs/{digest}")
    ),
)

ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/embeddings", openai.embeddings, "vectors, OpenAI's shape", dialect=Dialect.OPENAI),
    Route("POST", "/embedding", native.embedding, "vectors or one row per token, llama.cpp's shape"),
    Route("POST", "/embeddings", native.embedding, "the same"),
    Route("POST", "/rerank", rerank.rerank, "scores of documents for a query, Jina's or TEI's shape"),
    *(Route("POST", path, rerank.rerank, "the same") for path in ("/reranking", "/v1/rerank", "/v1/reranking")),
    Route("POST", "/v2/embed", cohere.embed, "vectors by type, Cohere's shape", dialect=Dialect.COHERE),
    Route("POST", "/v1/embed", cohere.embed_v1, "the same, Cohere's older shape", dialect=Dialect.COHERE),
    Route("POST", "/v2/rerank", rerank.cohere_rerank, "the same, Cohere's shape", dialect=Dialect.COHERE),
    Route("POST", "/tokenize", tokenize.tokenize, "text to token ids"),
    Route("POST", "/detokenize", tokenize.detokenize, "token ids to text"),
    Route("GET", "/v1/models", admin_models.models, "the served model", dialect=Dialect.OPENAI),
    Route("GET", "/v1/models/{model:.+}", admin_models.model, "one model by name", dialect=Dialect.OPENAI),
    Route("GET", "/models", admin_models.models, "the served model"),
    Route("GET", "/props", admin_models.props, "pooling, dimensions, limits"),
    Route("GET", "/metrics", metrics.metrics, "counters and timings for Prometheus"),
    Route("GET", "/version", metrics.version, "this server's version"),
    Route("GET", "/health", health.health, "200 when requests are answered, else 503", auth_required=False),
    Route("GET", "/v1/health", health.health, "the same", auth_required=False),
    Route("GET", "/ready", health.ready, "the same, with what waits and runs", auth_required=False),
    Route("GET", "/", index.root, "this text; in a browser a page to try the models", auth_required=False),
    Route("GET", "/docs", reference.docs, "all routes, for people", auth_required=False),
    Route("GET", "/openapi.json", openapi.openapi_json, "all routes, for programs (OpenAPI)", auth_required=False),
    *_TEI_ROUTES,
    *_OLLAMA_ROUTES,
)


def build_app(service: Service, options: ServerOptions, metrics: Metrics) -> web.Application:
    """Make the application. Starts nothing; `run.serve` does."""
    context = ServerContext(service, options, metrics, ROUTES, started_unix_s=int(time.time()))
    routes: dict[web.AbstractRoute, Route] = {}
    app = web.Application(
        middlewares=[RequestMiddleware(context, routes).middleware], client_max_size=options.max_body_bytes
    )
    app[SERVER_CONTEXT] = context
    for route in ROUTES:
        handler = functools.partial(route.handler, context)
        methods = ("GET", "HEAD") if route.method == "GET" else (route.method,)
        resource = app.router.add_resource(route.path)
        for method in methods:
            routes[resource.add_route(method, handler)] = route
    return app

"""`GET /metrics` and `/version`."""

from __future__ import annotations

import orjson
from aiohttp import web

from gguf_embed.errors import NotSupported
from gguf_embed.metrics import CONTENT_TYPE
from gguf_embed.server.context import ServerContext
from gguf_embed.server.http.body import json_response


async def metrics(context: ServerContext, request: web.Request) -> web.Response:
    """`GET /metrics`: Prometheus's text format."""
    if not context.options.metrics_enabled:
        raise NotSupported("This server does not support metrics endpoint: start it without --no-metrics")
    state = context.service.state()
    n_loaded = sum(status.state == "loaded" for status in context.service.models(pulled=True))
    context.metrics.set_load(state.queued_texts, state.queued_tokens, state.running_texts, n_loaded)
    context.metrics.set_queues(state.queues)
    context.metrics.set_bodies(context.body_memory.used_bytes, context.body_memory.n_waiting)
    if context.batches is not None:
        stored = context.batches.stored()
        context.metrics.set_stored_batches(stored.n_batches, stored.n_waiting_requests, stored.used_bytes)
    headers = {"Content-Type": CONTENT_TYPE, "Process-Start-Time-Unix": str(context.started_unix_s)}
    return web.Response(body=context.metrics.render(), headers=headers)


async def version(context: ServerContext, request: web.Request) -> web.Response:
    """`GET /version`."""
    return json_response(orjson.dumps({"name": "gguf-embed", "version": context.options.version}))

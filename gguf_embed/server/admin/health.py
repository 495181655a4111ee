"""`GET /health` and `/ready`: whether the server answers requests. They never load a model."""

from __future__ import annotations

import orjson
from aiohttp import web

from gguf_embed.errors import Unavailable
from gguf_embed.server.admin.models import format_process
from gguf_embed.server.context import ServerContext
from gguf_embed.server.http.body import json_response
from gguf_embed.types import ServiceState


async def health(context: ServerContext, request: web.Request) -> web.Response:
    """`GET /health`: 200 if a request would be answered, else 503 with the reason."""
    state = _check_serving(context)
    return json_response(orjson.dumps({"status": "ok", **_engines(state)}))


async def ready(context: ServerContext, request: web.Request) -> web.Response:
    """`GET /ready`: like `/health`, with the current load."""
    state = _check_serving(context)
    load = {
        "status": "ready",
        "queued_texts": state.queued_texts,
        "queued_tokens": state.queued_tokens,
        "running_texts": state.running_texts,
        **_engines(state),
    }
    return json_response(orjson.dumps(load))


def _engines(state: ServiceState) -> dict[str, object]:
    """The engines with a process of their own, by model; nothing if there are none."""
    found = {name: format_process(process) for name, process in state.processes.items()}
    return {"engines": found} if found else {}


def _check_serving(context: ServerContext) -> ServiceState:
    state = context.service.state()
    if context.in_flight.stopping.is_set():
        raise Unavailable("the server is shutting down")
    if state.status == "loading":
        raise Unavailable(state.detail or "Loading model")
    if state.status != "ok":
        raise Unavailable(state.detail or f"the service is {state.status}")
    return state

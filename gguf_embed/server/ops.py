"""What operators and clients ask about the server itself. Nothing here loads, wakes or waits for a model."""

from __future__ import annotations

import orjson
from aiohttp import web

from gguf_embed.errors import NotSupported, Unavailable
from gguf_embed.metrics import CONTENT_TYPE
from gguf_embed.server.body import json_response
from gguf_embed.server.door import Door
from gguf_embed.server.openapi import shown_path
from gguf_embed.server.pictures import MEDIA_MARKER
from gguf_embed.types import ModelInfo, ModelStatus, Pooling, ServiceState


async def health(door: Door, request: web.Request) -> web.Response:
    """`GET /health`: 200 when a request would be answered, else 503 with the reason."""
    _check_serving(door)
    return json_response(b'{"status":"ok"}')


async def ready(door: Door, request: web.Request) -> web.Response:
    """`GET /ready`: as `/health`, with what waits and runs."""
    state = _check_serving(door)
    load = {
        "status": "ready",
        "queued_texts": state.queued_texts,
        "queued_tokens": state.queued_tokens,
        "running_texts": state.running_texts,
    }
    return json_response(orjson.dumps(load))


def _check_serving(door: Door) -> ServiceState:
    state = door.service.state()
    if door.drain.begun.is_set():
        raise Unavailable("the server is shutting down")
    if state.status == "loading":
        raise Unavailable(state.detail or "Loading model")
    if state.status != "ok":
        raise Unavailable(state.detail or f"the service is {state.status}")
    return state


async def metrics(door: Door, request: web.Request) -> web.Response:
    """`GET /metrics`: Prometheus's text format."""
    if not door.options.metrics_enabled:
        raise NotSupported("This server does not support metrics endpoint. Start it without --no-metrics")
    state = door.service.state()
    n_loaded = sum(status.state == "loaded" for status in door.service.models())
    door.metrics.set_load(state.queued_texts, state.queued_tokens, state.running_texts, n_loaded)
    headers = {"Content-Type": CONTENT_TYPE, "Process-Start-Time-Unix": str(door.started_unix_s)}
    return web.Response(body=door.metrics.render(), headers=headers)


async def version(door: Door, request: web.Request) -> web.Response:
    """`GET /version`."""
    return json_response(orjson.dumps({"name": "gguf-embed", "version": door.options.version}))


async def models(door: Door, request: web.Request) -> web.Response:
    """`GET /v1/models` and `/models`: every model that can be asked for, loaded or not; llama-server's shape."""
    served = door.service.models()
    reply = {
        "models": [_ollama_stub(status.info) for status in served],
        "object": "list",
        "data": [format_model(status) for status in served],
    }
    return json_response(orjson.dumps(reply))


async def model(door: Door, request: web.Request) -> web.Response:
    """`GET /v1/models/{id}`: the model that would answer for that name."""
    return json_response(orjson.dumps(format_model(door.service.resolve(request.match_info["model"]))))


def format_model(status: ModelStatus) -> dict[str, object]:
    """One entry of `data`; `meta` has llama-server's keys and the limits it hides."""
    info = status.info
    return {
        "id": info.name,
        "aliases": list(info.aliases),
        "tags": [],
        "object": "model",
        "created": int(status.modified_unix_s),
        "owned_by": "gguf-embed",
        "capabilities": _capabilities(info),
        "status": {"value": status.state},
        "meta": {
            "vocab_type": info.vocab_type,
            "n_vocab": info.n_vocab,
            "n_ctx": info.n_ctx,
            "n_ctx_train": info.n_ctx_train,
            "n_embd": info.n_embd,
            "n_params": info.n_params,
            "size": info.size_bytes,
            "ftype": info.file_type,
            "max_input_tokens": info.max_input_tokens,
            "pooling": info.pooling.value,
            "normalized": info.embd_normalize == 2 and info.pooling not in (Pooling.NONE, Pooling.RANK),
            "prompts": dict(info.prompts),
            "matryoshka": list(info.matryoshka),
            "n_scores": info.n_scores,
            "labels": list(info.labels),
        },
    }


def _capabilities(info: ModelInfo) -> list[str]:
    return ["embedding", "rerank"] if info.n_scores else ["embedding"]


def _ollama_stub(info: ModelInfo) -> dict[str, object]:
    details = {
        "parent_model": "",
        "format": "gguf",
        "family": info.architecture,
        "families": [info.architecture],
        "parameter_size": "",
        "quantization_level": info.file_type,
    }
    return {
        "name": info.name,
        "model": info.name,
        "modified_at": "",
        "size": "",
        "digest": "",
        "type": "model",
        "description": "",
        "tags": [],
        "capabilities": _capabilities(info),
        "parameters": "",
        "details": details,
    }


async def props(door: Door, request: web.Request) -> web.Response:
    """`GET /props`, or `/props?model=…`: llama-server's keys that mean something here, and what it does not tell."""
    state, options = door.service.state(), door.options
    reply = format_props(door.service.resolve(request.query.get("model"))) | {
        "total_slots": state.n_workers,
        "n_threads": state.n_threads,
        "max_inputs": options.max_inputs,
        "max_body_bytes": options.max_body_bytes,
        "endpoint_metrics": options.metrics_enabled,
        "build_info": f"gguf-embed {options.version}",
    }
    return json_response(orjson.dumps(reply))


def format_props(status: ModelStatus) -> dict[str, object]:
    """The model's share of `/props`. `model_path` is the file's name only: directories are nobody's business.

    Of a model that was never loaded, the texts of its special tokens and its tokenizer are not known yet: "".
    """
    info = status.info
    return {
        "default_generation_settings": {"params": {}, "n_ctx": info.n_ctx},
        "model_alias": info.name,
        "model_path": info.path.name if info.path else "",
        "model_ftype": info.file_type,
        "modalities": {"vision": info.reads_pictures, "video": False, "audio": False},
        "media_marker": MEDIA_MARKER,
        "endpoint_slots": False,
        "endpoint_props": False,
        "chat_template": "",
        "bos_token": info.bos_token,
        "eos_token": info.eos_token,
        "is_sleeping": status.state == "unloaded",
        "architecture": info.architecture,
        "description": info.description,
        "weights": info.weights_type,
        "tokenizer": info.tokenizer,
        "pooling": info.pooling.value,
        "embd_normalize": info.embd_normalize,
        "n_embd": info.n_embd,
        "n_ctx": info.n_ctx,
        "n_ctx_train": info.n_ctx_train,
        "max_input_tokens": info.max_input_tokens,
        "prompts": dict(info.prompts),
        "matryoshka": list(info.matryoshka),
        "n_scores": info.n_scores,
        "labels": list(info.labels),
    }


async def index(door: Door, request: web.Request) -> web.Response:
    """`GET /`: what is here, for a person with a browser or curl."""
    served = door.service.models()
    methods = max(len(route.method) for route in door.routes)
    paths = max(len(shown_path(route)) for route in door.routes)
    lines = [
        f"gguf-embed {door.options.version} serves",
        *map(_index_line, served),
        "",
        *(f"{route.method:{methods}}  {shown_path(route):{paths}}  {route.summary}" for route in door.routes),
        "",
        example(f"{request.scheme}://{request.host}", served[0].info if served else None),
        "",
    ]
    # a Host header that is not UTF-8 comes as surrogates
    page = "\n".join(lines).encode("utf-8", "replace")
    return web.Response(body=page, headers={"Content-Type": "text/plain; charset=utf-8"})


def example(url: str, info: ModelInfo | None, *, named: bool = False, headers: str = "") -> str:
    """A line for a terminal that asks this model, None: one yet to come; `named`: it must be asked by name."""
    model = f'"model": "{info.name if info else "NAME"}", ' if named else ""
    path, body = "/v1/embeddings", '"input": "hello"'
    if info is not None and info.pooling is Pooling.RANK:
        path, body = "/rerank", '"query": "hello", "documents": ["hello world", "a red dog"]'
    elif info is not None and info.pooling is Pooling.NONE:
        path = "/embedding"
    return f"curl {url}{path} -H 'Content-Type: application/json'{headers} -d '{{{model}{body}}}'"


def _index_line(status: ModelStatus) -> str:
    info = status.info
    rank = "reranker, " if info.n_scores else ""
    return (
        f"  {info.name} ({rank}{info.n_embd} dimensions, pooling {info.pooling.value}, "
        f"at most {info.max_input_tokens} tokens per text, {status.state})"
    )

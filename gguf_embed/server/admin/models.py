"""`GET /v1/models`, `/models` and `/props`: the served models and their limits. They never load a model."""

from __future__ import annotations

import orjson
from aiohttp import web

from gguf_embed.server.context import ServerContext
from gguf_embed.server.fields.image_schemas import MEDIA_MARKER
from gguf_embed.server.http.body import json_response
from gguf_embed.types import ComputePlan, EngineProcessState, ModelInfo, ModelStatus, Pooling


async def models(context: ServerContext, request: web.Request) -> web.Response:
    """`GET /v1/models` and `/models`: all served models, loaded or not, in llama-server's shape."""
    statuses = context.service.models()
    reply = {
        "models": [_ollama_stub(status.info) for status in statuses],
        "object": "list",
        "data": [format_model(status) for status in statuses],
    }
    return json_response(orjson.dumps(reply))


async def model(context: ServerContext, request: web.Request) -> web.Response:
    """`GET /v1/models/{id}`: the model that would answer to this name."""
    return json_response(orjson.dumps(format_model(context.service.resolve(request.match_info["model"]))))


def format_model(status: ModelStatus) -> dict[str, object]:
    """One entry of `data`. `meta` has llama-server's keys, and limits that llama-server does not show."""
    info = status.info
    return {
        "id": info.name,
        "aliases": list(info.aliases),
        "tags": [],
        "object": "model",
        "created": int(status.modified_unix_s),
        "owned_by": "gguf-embed",
        "capabilities": _capabilities(info),
        "status": {"value": status.state, **format_process(status.process)},
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
            "tasks": list(info.tasks),
            "matryoshka": list(info.matryoshka),
            "n_scores": info.n_scores,
            "labels": list(info.labels),
        },
    }


def format_process(process: EngineProcessState | None) -> dict[str, object]:
    """What is known about the engine's own process; nothing if it has none."""
    if process is None:
        return {}
    return {"engine": process.state, "restarts": process.n_restarts, "last_end": process.last_end}


def _capabilities(info: ModelInfo) -> list[str]:
    more = {"rerank": info.reranks, "multimodal": info.reads_images}
    own = [] if info.is_sparse_only else ["embedding"]
    return [*own, *(name for name, has_it in more.items() if has_it), *info.head_outputs]


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


async def props(context: ServerContext, request: web.Request) -> web.Response:
    """`GET /props`, or `/props?model=…`: llama-server's keys as far as they apply, and some of our own."""
    state, options = context.service.state(), context.options
    reply = format_props(context.service.resolve(request.query.get("model"))) | {
        "total_slots": state.n_workers,
        "n_threads": state.n_threads,
        "max_inputs": options.max_inputs,
        "max_body_bytes": options.max_body_bytes,
        "endpoint_metrics": options.metrics_enabled,
        "build_info": f"gguf-embed {options.version}",
    }
    return json_response(orjson.dumps(reply))


def format_props(status: ModelStatus) -> dict[str, object]:
    """The model's part of `/props`. `model_path` is only the file's name, so that clients do not see directories.

    The texts of special tokens and the tokenizer's name are "" until the model has been loaded once.
    """
    info = status.info
    return {
        "default_generation_settings": {"params": {}, "n_ctx": info.n_ctx},
        "model_alias": info.name,
        "model_path": info.path.name if info.path else "",
        "model_ftype": info.file_type,
        "modalities": {"vision": info.reads_images, "video": False, "audio": False},
        "media_marker": MEDIA_MARKER,
        "endpoint_slots": False,
        "endpoint_props": False,
        "chat_template": "",
        "bos_token": info.bos_token,
        "eos_token": info.eos_token,
        "is_sleeping": status.state == "unloaded",
        "architecture": info.architecture,
        "description": info.description,
        "engine": info.engine,
        "weights": info.weights_type,
        "kernels": info.kernels,
        "compute": None if status.compute is None else _format_plan(status.compute),
        "tokenizer": info.tokenizer,
        "pooling": info.pooling.value,
        "embd_normalize": info.embd_normalize,
        "n_embd": info.n_embd,
        "n_ctx": info.n_ctx,
        "n_ctx_train": info.n_ctx_train,
        "max_input_tokens": info.max_input_tokens,
        "prompts": dict(info.prompts),
        "tasks": list(info.tasks),
        "matryoshka": list(info.matryoshka),
        "n_scores": info.n_scores,
        "labels": list(info.labels),
        "problems": [{"code": one.code, "message": one.message, "fix": one.fix} for one in info.problems],
    }


def _format_plan(plan: ComputePlan) -> dict[str, object]:
    return {
        "workers": plan.n_workers,
        "threads": plan.n_threads,
        "threads_alone": plan.alone_threads,
        "batch_tokens": plan.batch_tokens,
        "details": list(plan.details),
        "measured": plan.measured,
    }

"""Ollama's lists of models and of loaded models, and its facts about one model. Nothing here loads a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import orjson
from aiohttp import web

from gguf_embed.gguf_file.constants import POOLING_NUMBERS, VOCABULARY_TYPES, VocabularyType
from gguf_embed.server.context import ServerContext
from gguf_embed.server.dialects.ollama.model_names import NAME, missing_as, required_name, with_tag
from gguf_embed.server.http.body import json_response, read_json_object
from gguf_embed.types import ModelInfo, ModelStatus

NEVER = "2318-01-01T00:00:00Z"
"""When a model with an infinite keep-alive expires. Ollama adds 292 years, and its command line shows anything beyond
20 years as "Forever". The year 9999 would overflow in other time zones."""

_CAPABILITIES = ["embedding"]
_TOKENIZERS: dict[int, str] = {
    family: name for name, family in reversed(VOCABULARY_TYPES.items()) if family is not VocabularyType.NONE
}
"""Family → its usual `tokenizer.ggml.model`."""


async def tags(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """`GET /api/tags`."""
    return json_response(orjson.dumps({"models": format_tags(context.service.models(pulled=True))}))


async def ps(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """`GET /api/ps`."""
    return json_response(orjson.dumps({"models": format_ps(context.service.models(pulled=True))}))


async def show(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """`POST /api/show`."""
    name = required_name(await read_json_object(context, request), NAME)
    with missing_as("model '{}' not found", name):
        status = context.service.resolve(name, strict=True)
    return json_response(orjson.dumps(format_show(status)))


def format_tags(statuses: Sequence[ModelStatus]) -> list[dict[str, object]]:
    """One entry per name, the newest file first. A copy is another name for the same content, as in Ollama."""
    newest_first = sorted(statuses, key=lambda status: -status.modified_unix_s)
    return [_format_tag(name, status) for name, status in _names(newest_first)]


def _names(statuses: Sequence[ModelStatus]) -> Iterator[tuple[str, ModelStatus]]:
    """Each name once, ignoring case. A model's own name takes precedence over another model's alias."""
    own = {with_tag(status.info.name).lower() for status in statuses}
    seen: set[str] = set()
    for status in statuses:
        yield with_tag(status.info.name), status
        for alias in map(with_tag, status.info.aliases):
            key = alias.lower()
            if key not in own and key not in seen:
                seen.add(key)
                yield alias, status


def _format_tag(name: str, status: ModelStatus) -> dict[str, object]:
    info = status.info
    return {
        "name": name,
        "model": name,
        "modified_at": format_time(status.modified_unix_s),
        "size": info.size_bytes,
        "digest": status.digest,
        "details": format_details(info) | {"context_length": info.n_ctx_train, "embedding_length": info.n_embd},
        "capabilities": _CAPABILITIES,
    }


def format_ps(statuses: Sequence[ModelStatus]) -> list[dict[str, object]]:
    """The loaded models, the one that stays longest first. `context_length` is the limit that applies to a text."""
    loaded = [status for status in statuses if status.state == "loaded"]
    loaded.sort(key=lambda status: -(status.expires_unix_s if status.expires_unix_s is not None else float("inf")))
    return [_format_loaded(status) for status in loaded]


def _format_loaded(status: ModelStatus) -> dict[str, object]:
    name = with_tag(status.info.name)
    return {
        "name": name,
        "model": name,
        "size": status.memory_bytes,
        "digest": status.digest,
        "details": format_details(status.info),
        "expires_at": NEVER if status.expires_unix_s is None else format_time(status.expires_unix_s),
        "size_vram": status.gpu_bytes,
        "context_length": status.info.max_input_tokens,
    }


def format_show(status: ModelStatus) -> dict[str, object]:
    """Ollama's fields, followed by our own after `modified_at`."""
    info = status.info
    name = with_tag(info.name)
    return {
        "license": info.license,
        "modelfile": f'# Modelfile of "{name}", for information only: nothing is built from it\nFROM {name}\n',
        "parameters": f"{'num_ctx':30} {info.max_input_tokens}",
        "template": "",
        "details": format_details(info),
        "model_info": format_model_info(info),
        "capabilities": _CAPABILITIES,
        "modified_at": format_time(status.modified_unix_s),
        "name": name,
        "aliases": list(info.aliases),
        "digest": status.digest,
        "pooling": info.pooling.value,
        "embd_normalize": info.embd_normalize,
        "max_input_tokens": info.max_input_tokens,
        "prompts": dict(info.prompts),
        "matryoshka": list(info.matryoshka),
    }


def format_details(info: ModelInfo) -> dict[str, object]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": info.architecture,
        "families": [info.architecture],
        "parameter_size": format_parameter_size(info.n_params),
        "quantization_level": info.file_type,
    }


def format_model_info(info: ModelInfo) -> dict[str, object]:
    """The parts of the GGUF's metadata that are known here, under their own keys."""
    architecture = info.architecture
    return {
        "general.architecture": architecture,
        "general.parameter_count": info.n_params,
        f"{architecture}.attention.causal": info.causal,
        f"{architecture}.context_length": info.n_ctx_train,
        f"{architecture}.embedding_length": info.n_embd,
        f"{architecture}.pooling_type": POOLING_NUMBERS[info.pooling],
        f"{architecture}.vocab_size": info.n_vocab,
        "tokenizer.ggml.model": _TOKENIZERS.get(info.vocab_type, ""),
    }


def format_parameter_size(n_params: int) -> str:
    """ "22.57M", "7.6B", "137M" (format/format.go, HumanNumber)."""
    if n_params >= 1_000_000_000:
        return f"{n_params / 1e9:.{0 if n_params % 1_000_000_000 == 0 else 1}f}B"
    if n_params >= 1_000_000:
        return f"{n_params / 1e6:.{0 if n_params % 1_000_000 == 0 else 2}f}M"
    return f"{n_params / 1e3:.0f}K" if n_params >= 1_000 else str(n_params)


def format_time(unix_s: float) -> str:
    """RFC 3339, in UTC."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat().replace("+00:00", "Z")

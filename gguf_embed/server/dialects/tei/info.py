"""Text Embeddings Inference's `/info`: the served model, with TEI's keys. Never loads a model."""

from __future__ import annotations

import orjson
from aiohttp import web

from gguf_embed.server.context import ServerContext, ServerOptions
from gguf_embed.server.http.body import json_response
from gguf_embed.types import SCORES, ModelInfo, ModelStatus, Pooling

MAX_CONCURRENT_REQUESTS = 512
"""TEI's default. This server does not limit the number of requests: its queue is limited in tokens."""

TOKENIZATION_WORKERS = 2

_DTYPES = {"F16": "float16", "F32": "float32", "BF16": "bfloat16"}
_POOLINGS = {Pooling.LAST: "last_token"}  # where TEI's name differs (backends/core/src/lib.rs)


async def info(context: ServerContext, request: web.Request) -> web.Response:
    """`GET /info`, or `/info?model=…`: the model that would answer."""
    status = context.service.resolve(request.query.get("model"))
    return json_response(orjson.dumps(format_info(status, context.options)))


def format_info(status: ModelStatus, options: ServerOptions) -> dict[str, object]:
    """All of TEI's keys. `max_batch_tokens` is the longest text, because batch sizes are only chosen on loading."""
    model = status.info
    return {
        "model_id": model.name,
        "model_sha": status.digest,
        "model_dtype": _DTYPES.get(model.file_type, model.file_type.lower()),
        "model_type": _model_type(model),
        "max_concurrent_requests": MAX_CONCURRENT_REQUESTS,
        "max_input_length": model.max_input_tokens,
        "max_batch_tokens": model.max_input_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": options.max_inputs,
        "auto_truncate": True,
        "tokenization_workers": TOKENIZATION_WORKERS,
        "version": options.version,
        "sha": None,
        "docker_label": None,
    }


def _model_type(model: ModelInfo) -> dict[str, object]:
    if model.output.kind != SCORES:
        return {"embedding": {"pooling": _POOLINGS.get(model.pooling, model.pooling.value)}}
    # transformers' names for unnamed labels
    labels = model.labels or tuple(f"LABEL_{index}" for index in range(max(1, model.n_scores)))
    names = {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    return {"reranker" if len(labels) == 1 else "classifier": names}

"""`/classify` in the shapes of vLLM and, for a body with `raw_scores`, of Infinity, whose client always sends it."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace

import numpy as np
import orjson
from aiohttp import web

from gguf_embed.server.context import ServerContext
from gguf_embed.server.fields.classify import labelled, parse_classify
from gguf_embed.server.fields.entries import text_or_texts
from gguf_embed.server.fields.field import Body, Json, Shaped
from gguf_embed.server.fields.inputs import check_count
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.rerank_fields import RAW_SCORES
from gguf_embed.server.fields.truncation import CUTTING_FIELDS
from gguf_embed.server.fields.urgency import URGENCY_FIELDS
from gguf_embed.server.http.body import embed_response, read_json_object
from gguf_embed.server.http.values import JsonObject
from gguf_embed.types import ClassifyResult

_TEXTS: Json = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
INFINITYS = RAW_SCORES.name
CLASSIFIER_SCORES = replace(
    RAW_SCORES,
    text="`true`: the head's own numbers instead of probabilities. The other names but the first mean the opposite.",
    default="`false`",
)
REQUEST = Body(
    "ClassifyRequest",
    (Shaped("input", "One text or several.", required=True, shape=_TEXTS), MODEL, CLASSIFIER_SCORES),
    groups=(replace(CUTTING_FIELDS, default="`--truncate`"), URGENCY_FIELDS),
)


async def classify(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /classify`."""
    body = await read_json_object(context, request)
    result = await context.classify(parse_classify(body, parse_texts(body, context.options.max_inputs)))
    reply = _infinitys(result) if body.get(INFINITYS) is not None else _vllms(result)
    n_tokens = result.usage.prompt_tokens
    reply |= {
        "id": f"classify-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": result.model.name,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }
    return embed_response(orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY), result.truncated)


def parse_texts(body: JsonObject, max_inputs: int) -> tuple[str, ...]:
    """Raises `InvalidRequest`."""
    texts = text_or_texts(body.get("input"), "input")
    check_count(texts, "input", max_inputs)
    return texts


def _vllms(result: ClassifyResult) -> dict[str, object]:
    best = result.numbers.argmax(axis=1).tolist()
    data = [
        {"index": index, "label": result.labels[column], "probs": row, "num_classes": len(result.labels)}
        for index, (row, column) in enumerate(zip(np.ascontiguousarray(result.numbers), best, strict=True))
    ]
    return {"object": "list", "data": data}


def _infinitys(result: ClassifyResult) -> dict[str, object]:
    return {"object": "classify", "data": labelled(result)}

"""vLLM's `/pooling`: what the model gives for each text, whatever it is: a vector, rows of tokens, or scores."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
from aiohttp import web

from gguf_embed.errors import NotSupported, WayOut
from gguf_embed.server.context import ServerContext
from gguf_embed.server.fields.embed_fields import NORMALIZE
from gguf_embed.server.fields.field import Body, Choice, Shaped
from gguf_embed.server.fields.head_outputs import split_rows
from gguf_embed.server.fields.inputs import parse_inputs
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.options import refuse_elsewhere
from gguf_embed.server.fields.output_types import DIMENSIONS, parse_dimensions
from gguf_embed.server.fields.outputs import rows_of
from gguf_embed.server.fields.prompt_prefix import INPUT_TYPE, PROMPT, PROMPT_NAME, parse_prompt_choice
from gguf_embed.server.fields.rerank_fields import RAW_SCORES
from gguf_embed.server.fields.truncation import CUTTING_FIELDS, parse_cutting
from gguf_embed.server.fields.urgency import URGENCY_FIELDS
from gguf_embed.server.http.body import embed_response, read_json_object
from gguf_embed.server.http.values import JsonObject, wrong_value
from gguf_embed.types import DENSE, SCORES, TOKENS, EmbedRequest, EmbedResult, ModelInfo, OutputSpec

_OUTPUTS = {"embed": None, "token_embed": OutputSpec(TOKENS), "classify": OutputSpec(SCORES)}
TASK = Choice(
    "task",
    "`embed`: one vector per text; `token_embed`: one per token; `classify`: the numbers of a rank head.",
    default="what the model gives",
    words=tuple(_OUTPUTS),
)
REQUEST = Body(
    "PoolingRequest",
    (
        Shaped("input", "The texts.", required=True, see="Inputs", shape={"ref": "TextInput"}),
        *(MODEL, TASK, DIMENSIONS, INPUT_TYPE, PROMPT_NAME, PROMPT),
        replace(NORMALIZE, text="`false`: vectors as the model returns them.", default="`true`"),
    ),
    groups=(replace(CUTTING_FIELDS, default="`--truncate`"), URGENCY_FIELDS),
)


async def pooling(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /pooling`."""
    body = await read_json_object(context, request)
    asked = parse_pooling_request(body, context.options.max_inputs)
    check = _gives_vectors if body.get(TASK.name) == "embed" else None
    result = await context.embed(asked, check)
    return embed_response(await asyncio.to_thread(_written, result), result.truncated)


def parse_pooling_request(body: JsonObject, max_inputs: int) -> EmbedRequest:
    """Raises `InvalidRequest` naming the field."""
    scores_only = (name for name in RAW_SCORES.names if name not in NORMALIZE.names)
    refuse_elsewhere(body, ("pooling", "encoding_format", *scores_only))
    if body.get("input") is None:
        raise wrong_value("input", "a string, or an array of strings", None)
    task, normalize, cutting = TASK.read(body), NORMALIZE.read(body), parse_cutting(body)
    return EmbedRequest(
        inputs=parse_inputs(body["input"], "input", max_inputs, joins_mixed=False),
        model=MODEL.read(body),
        output=_OUTPUTS[task] if task else None,
        embd_normalize=-1 if normalize is False else 2,
        dimensions=parse_dimensions(body),
        truncate=cutting.truncate,
        max_tokens=cutting.max_tokens,
        cut_start=cutting.cut_start,
        prompt=parse_prompt_choice({name: value for name, value in body.items() if name != TASK.name}),
        scores=True,
    )


def _gives_vectors(info: ModelInfo) -> None:
    if info.output.kind != DENSE:
        raise NotSupported(f"model {info.name!r} gives no single vector per text", [WayOut.POOL])


def _written(result: EmbedResult) -> bytes:
    output = rows_of(result.output)
    rows: Any = np.ascontiguousarray(output.matrix)
    per_text = rows if output.kind in (DENSE, SCORES) else split_rows(output, list(rows))
    n_tokens = result.usage.prompt_tokens
    reply = {
        "id": f"pool-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": result.model.name,
        "data": [{"index": index, "object": "pooling", "data": data} for index, data in enumerate(per_text)],
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)

"""OpenAI's `POST /v1/embeddings`: JSON → `EmbedRequest`, `EmbedResult` → JSON."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import orjson
from aiohttp import web

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.context import ServerContext
from gguf_embed.server.dialects.llama import embedding as native
from gguf_embed.server.dialects.openai.token_ids import resolve_token_ids
from gguf_embed.server.fields.images import take_images
from gguf_embed.server.fields.inputs import parse_inputs
from gguf_embed.server.fields.options import Extras, parse_extras, refuse_beside_images
from gguf_embed.server.fields.options_reply import openai_data, openai_details, with_extra_headers
from gguf_embed.server.fields.output_types import (
    OutputType,
    check_decodable,
    check_output_types,
    parse_dimensions,
    parse_output_types,
    write_rows,
)
from gguf_embed.server.fields.pooling import parse_pooling
from gguf_embed.server.fields.prompt_prefix import format_applied_prompt, parse_prompt_choice
from gguf_embed.server.fields.truncation import format_truncation
from gguf_embed.server.http.body import embed_response, read_json_object
from gguf_embed.server.http.values import JsonObject, optional_bool, optional_choice, optional_int, optional_str
from gguf_embed.types import EmbedRequest, EmbedResult, FloatMatrix, Pooling

EncodingFormat = Literal["float", "base64"]


@dataclass(frozen=True, slots=True)
class OpenAIEmbed:
    """A parsed body: what to compute, and how to write it."""

    request: EmbedRequest
    encoding_format: EncodingFormat
    output_types: tuple[OutputType, ...] = ()  # none: float, in `encoding_format`
    extras: Extras | None = None


async def embeddings(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /v1/embeddings`; a body with `content` and no `input` gets the native shape, as from llama-server."""
    body = await read_json_object(context, request)
    if body.get("input") is None and body.get("content") is not None:
        return await native.answer_embedding(context, body)
    body, images = await take_images(context, body)
    if images:
        refuse_beside_images(body)
    parsed = parse_openai_embed(body, context.options.max_inputs)
    _refuse_token_rows(context, parsed.request)
    if parsed.output_types:
        check_decodable(parsed.output_types, request.headers)
        pooling = parsed.request.pooling or context.service.resolve(parsed.request.model).info.pooling
        check_output_types(parsed.output_types, pooling, embd_normalize=2)
    wanted = await resolve_token_ids(context, parsed.request)
    result = await context.embed(replace(wanted, images=images) if images else wanted)
    if parsed.extras is None:
        return embed_response(format_openai_embed(result, parsed), result.truncated)
    written = await asyncio.to_thread(format_openai_embed, result, parsed)
    return with_extra_headers(embed_response(written, result.truncated), result)


def _refuse_token_rows(context: ServerContext, request: EmbedRequest) -> None:
    if (request.pooling or context.service.resolve(request.model).info.pooling) is Pooling.NONE:
        raise InvalidRequest(
            "Pooling type 'none' is not OAI compatible. Please use a different pooling type: "
            'send "pooling" (mean, cls, last) or start with --pooling; POST /embedding gives one row per token',
            "pooling",
        )


def parse_openai_embed(body: JsonObject, max_inputs: int) -> OpenAIEmbed:
    """Read a request body. Raises `InvalidRequest` naming the field."""
    if body.get("input") is None:
        raise InvalidRequest('"input" or "content" must be provided', "input")
    embd_normalize = optional_int(body, "embd_normalize", minimum=-1)
    if embd_normalize not in (None, 2):
        raise InvalidRequest(
            '"embd_normalize" must be 2 here: /v1/embeddings always gives vectors of length 1; '
            "POST /embedding takes other values",
            "embd_normalize",
        )
    optional_str(body, "user")  # accepted, checked, not used: nothing here is kept per user
    extras = parse_extras(body, "input", max_inputs)
    request = EmbedRequest(
        inputs=parse_inputs(body["input"], "input", max_inputs) if extras is None else extras.inputs,
        model=optional_str(body, "model"),
        pooling=parse_pooling(body),
        embd_normalize=2,
        dimensions=parse_dimensions(body),
        truncate=optional_bool(body, "truncate"),
        prompt=parse_prompt_choice(body),
    )
    encoding_format = optional_choice(body, "encoding_format", ("float", "base64")) or "float"
    if extras is not None:
        request = extras.apply_to(request)
    return OpenAIEmbed(request, cast(EncodingFormat, encoding_format), parse_output_types(body), extras)


def format_openai_embed(result: EmbedResult, asked: OpenAIEmbed) -> bytes:
    """Write OpenAI's reply, pooled results only; `truncated` is added when something was cut, `prompt` when asked."""
    n_tokens = result.usage.prompt_tokens
    types, extras = asked.output_types, asked.extras
    rows = write_rows(result.vectors, types) if types else _encode_rows(result.vectors, asked.encoding_format)
    reply: dict[str, object] = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        if extras is None
        else openai_data(result, rows, extras),
        "model": result.model.name,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }
    if result.prompt is not None:
        reply["prompt"] = format_applied_prompt(result.prompt)
    if result.truncated:
        reply["truncated"] = [{"index": cut.index, **format_truncation(cut)} for cut in result.truncated]
    if extras is not None:
        reply |= openai_details(result, extras)
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)


def _encode_rows(vectors: FloatMatrix, encoding_format: EncodingFormat) -> Iterable[object]:
    if encoding_format == "float":
        return np.ascontiguousarray(vectors)  # orjson writes the shortest digits that read back as the same float32
    little_endian = np.ascontiguousarray(vectors, dtype="<f4")
    return [binascii.b2a_base64(row, newline=False).decode("ascii") for row in little_endian]

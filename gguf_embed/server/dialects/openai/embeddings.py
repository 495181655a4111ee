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

from gguf_embed.errors import EmbedError, InvalidRequest, describe
from gguf_embed.server.context import ServerContext
from gguf_embed.server.dialects.llama.embedding import answer_embedding
from gguf_embed.server.dialects.openai.errors import ERRORS, error_object
from gguf_embed.server.dialects.openai.token_ids import resolve_token_ids
from gguf_embed.server.fields import options as option_fields
from gguf_embed.server.fields.embed_fields import EMBED_FIELDS, NO_EMBED_FIELDS, parse_embed_fields
from gguf_embed.server.fields.images import take_images
from gguf_embed.server.fields.inputs import parse_inputs
from gguf_embed.server.fields.options import EmbedOptions, parse_options, refuse_beside_images
from gguf_embed.server.fields.options_reply import openai_data, openai_details, with_option_headers
from gguf_embed.server.fields.output_types import OutputType, check_decodable, check_output_types, write_rows
from gguf_embed.server.fields.outputs import check_output
from gguf_embed.server.fields.prompt_prefix import format_applied_prompt
from gguf_embed.server.fields.truncation import format_truncation
from gguf_embed.server.http.body import embed_response, read_json_object
from gguf_embed.server.http.errors import STATUSES
from gguf_embed.server.http.values import JsonObject, optional_choice, optional_int, optional_str
from gguf_embed.types import DENSE, SCORES, EmbedRequest, EmbedResult, ImageInput, Input, ModelInfo, Output
from gguf_embed.vectors import Rows

EncodingFormat = Literal["float", "base64"]


@dataclass(frozen=True, slots=True)
class OpenAIEmbed:
    """A parsed body: what to compute, and how to write it."""

    request: EmbedRequest
    encoding_format: EncodingFormat = "float"
    output_types: tuple[OutputType, ...] = ()  # none: float, in `encoding_format`
    options: EmbedOptions | None = None

    def check(self, info: ModelInfo) -> None:
        """Whether this reply can hold what the model gives. Scores are the service's to refuse."""
        output = self.request.output or info.output
        if output.kind != DENSE:
            check_output(output, _ENCODERS, on_request=True)  # as llama-server, a 400 either way
        if self.output_types:
            check_output_types(self.output_types, output, embd_normalize=2)


async def embeddings(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /v1/embeddings`; a body with `content` and no `input` gets the native shape, as from llama-server."""
    body = await read_json_object(context, request)
    given = body.get("input")
    if given is None and body.get("content") is not None:
        return await answer_embedding(context, body)
    images: tuple[ImageInput, ...] = ()
    if type(given) is dict or (type(given) is list and dict in set(map(type, given))):
        body, images = await take_images(context, body)
        if images:
            refuse_beside_images(body)
    asked = parse_openai_embed(body, context.options.max_inputs)
    if asked.output_types:
        check_decodable(asked.output_types, request.headers)
    wanted = asked.request
    if tuple in set(map(type, wanted.inputs)):
        asked.check(context.service.resolve(wanted.model).info)  # before anything about the ids
        wanted = await resolve_token_ids(context, wanted)
    result = await context.embed(replace(wanted, images=images) if images else wanted, asked.check)
    if asked.options is None:
        return embed_response(format_openai_embed(result, asked), result.truncated)
    written = await asyncio.to_thread(format_openai_embed, result, asked)
    return with_option_headers(embed_response(written, result.truncated), result)


def parse_openai_embed(body: JsonObject, max_inputs: int) -> OpenAIEmbed:
    """Read a request body. Raises `InvalidRequest` naming the field."""
    if body.get("input") is None:
        raise InvalidRequest('"input" or "content" must be provided', "input")
    fields = NO_EMBED_FIELDS if EMBED_FIELDS.isdisjoint(body) else parse_embed_fields(body)
    options = None if option_fields.FIELDS.isdisjoint(body) else parse_options(body, "input", max_inputs)
    inputs: tuple[Input, ...]
    if options is not None:
        inputs = options.inputs
    else:
        given = body["input"]
        inputs = (given,) if isinstance(given, str) else parse_inputs(given, "input", max_inputs)
    request = EmbedRequest(
        inputs=inputs,
        model=fields.model,
        output=fields.output,
        embd_normalize=2,
        dimensions=fields.dimensions,
        truncate=fields.truncate,
        prompt=fields.prompt,
    )
    encoding_format: EncodingFormat = "float"
    if not _OWN_FIELDS.isdisjoint(body):
        encoding_format = _parse_own_fields(body)
    if options is not None:
        request = options.apply_to(request)
    return OpenAIEmbed(request, encoding_format, fields.output_types, options)


_OWN_FIELDS = frozenset({"encoding_format", "user", "embd_normalize"})


def _parse_own_fields(body: JsonObject) -> EncodingFormat:
    embd_normalize = optional_int(body, "embd_normalize", minimum=-1)
    if embd_normalize not in (None, 2):
        raise InvalidRequest(
            '"embd_normalize" must be 2 here: /v1/embeddings always gives vectors of length 1; '
            "POST /embedding takes other values",
            "embd_normalize",
        )
    optional_str(body, "user")  # accepted, checked, not used: nothing here is kept per user
    return cast(EncodingFormat, optional_choice(body, "encoding_format", ("float", "base64")) or "float")


def _error_object(error: EmbedError) -> dict[str, object]:
    """One input's failure, as it stands in `errors`."""
    return error_object(error, describe(error, ERRORS.words), STATUSES[error.kind])


def format_openai_embed(result: EmbedResult, asked: OpenAIEmbed) -> bytes:
    """Write OpenAI's reply, pooled results only; `truncated` is added when something was cut, `prompt` when asked."""
    n_tokens = result.usage.prompt_tokens
    rows, options = _ENCODERS[result.output.kind](result.output, asked), asked.options
    reply: dict[str, object] = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        if options is None
        else openai_data(result, rows, options),
        "model": result.model.name,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }
    if result.prompt is not None:
        reply["prompt"] = format_applied_prompt(result.prompt)
    if result.truncated:
        reply["truncated"] = [{"index": cut.index, **format_truncation(cut)} for cut in result.truncated]
    if options is not None:
        reply |= openai_details(result, options, _error_object)
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)


def _encode_rows(output: Output, asked: OpenAIEmbed) -> Iterable[object]:
    assert isinstance(output, Rows), output.kind
    if asked.output_types:
        return write_rows(output.matrix, asked.output_types)
    if asked.encoding_format == "float":
        return np.ascontiguousarray(
            output.matrix
        )  # orjson writes the shortest digits that read back as the same float32
    little_endian = np.ascontiguousarray(output.matrix, dtype="<f4")
    return [binascii.b2a_base64(row, newline=False).decode("ascii") for row in little_endian]


_ENCODERS = {DENSE: _encode_rows, SCORES: _encode_rows}
"""What writes the `embedding`s of each kind of output."""

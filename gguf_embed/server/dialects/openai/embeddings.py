"""OpenAI's `POST /v1/embeddings`: JSON → `EmbedRequest`, `EmbedResult` → JSON."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import orjson
from aiohttp import web

from gguf_embed.errors import EmbedError, InvalidRequest, describe
from gguf_embed.server.context import ERROR_FORMAT, Sent, ServerContext
from gguf_embed.server.dialects.llama.embedding import answer_embedding
from gguf_embed.server.dialects.openai.token_ids import resolve_token_ids
from gguf_embed.server.dialects.openai.vectors import WRITERS, Written
from gguf_embed.server.fields import aliases
from gguf_embed.server.fields import options as option_fields
from gguf_embed.server.fields.embed_fields import EMBED_FIELDS, NO_EMBED_FIELDS, parse_embed_fields
from gguf_embed.server.fields.field import Body, Choice, Shaped, Text, Whole
from gguf_embed.server.fields.head_outputs import HEAD_FIELDS
from gguf_embed.server.fields.images import take_images
from gguf_embed.server.fields.inputs import parse_inputs
from gguf_embed.server.fields.media_forms import MEDIA_FIELDS, MEDIA_NAMES, with_content_parts
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.openai_errors import ERRORS, error_object
from gguf_embed.server.fields.option_fields import OPTION_FIELDS
from gguf_embed.server.fields.options import EmbedOptions, parse_options, refuse_with_images
from gguf_embed.server.fields.options_reply import openai_data, openai_details, with_option_headers
from gguf_embed.server.fields.output_types import (
    DIMENSIONS,
    ENCODING_FORMAT,
    OUTPUT_TYPE,
    OutputType,
    check_decodable,
    check_output_types,
    write_rows,
)
from gguf_embed.server.fields.outputs import POOLING, check_output
from gguf_embed.server.fields.prompt_prefix import PROMPT_FIELDS, format_applied_prompt
from gguf_embed.server.fields.truncation import CUTTING_FIELDS, format_truncation
from gguf_embed.server.fields.urgency import URGENCY_FIELDS
from gguf_embed.server.fields.voyage import VOYAGE_FIELDS, with_detail
from gguf_embed.server.http.body import embed_response, read_json_object
from gguf_embed.server.http.errors import STATUSES
from gguf_embed.server.http.values import JsonObject
from gguf_embed.types import (
    DENSE,
    SCORES,
    EmbedRequest,
    EmbedResult,
    ImageInput,
    Input,
    ModelInfo,
    Output,
)
from gguf_embed.vectors import Rows

EncodingFormat = Literal["float", "base64"]

EMBD_NORMALIZE = Whole(
    "embd_normalize",
    "Vectors here always have length 1; any other value is a 400.",
    default="`2`",
    minimum=2,
    maximum=2,
)
USER = Text("user", "Accepted, not used.")
REQUEST = Body(
    "OpenAIEmbedRequest",
    (
        Shaped(
            "input",
            "The texts. `content` without `input` gets the reply of `/embedding`, as in llama-server.",
            also=aliases.texts_besides("input", "content"),
            required=True,
            see="Inputs",
            shape={"ref": "Input"},
        ),
        MODEL,
        ENCODING_FORMAT,
        replace(DIMENSIONS, text=f"{DIMENSIONS.text} With `modality`, 0 means all.", minimum=0),
        OUTPUT_TYPE,
        Choice(
            POOLING.name,
            "Pooling for this request; `none` is a 400 here.",
            default=POOLING.default,
            words=("mean", "cls", "last"),
        ),
        EMBD_NORMALIZE,
        USER,
    ),
    groups=(PROMPT_FIELDS, OPTION_FIELDS, HEAD_FIELDS, CUTTING_FIELDS, MEDIA_FIELDS, URGENCY_FIELDS),
)
VOYAGE_ERRORS = with_detail(ERRORS)


@dataclass(frozen=True, slots=True)
class OpenAIEmbed:
    """A parsed body: what to compute, and how to format the reply."""

    request: EmbedRequest
    encoding_format: EncodingFormat = "float"
    output_types: tuple[OutputType, ...] = ()  # (): floats, in `encoding_format`
    options: EmbedOptions | None = None
    image_pixels: int | None = None  # for Voyage's usage; None: OpenAI's

    def check(self, info: ModelInfo) -> None:
        """Check that the reply can hold the model's output. Raises `InvalidRequest`. The service refuses scores."""
        output = self.request.output or info.output
        if output.kind != DENSE:
            check_output(output, WRITERS, on_request=True)  # always a 400, as in llama-server
        if self.output_types:
            check_output_types(self.output_types, output, embd_normalize=2)


async def unversioned(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /embeddings`: a body with `model` and `input` is OpenAI's and gets OpenAI's shape, others llama.cpp's.

    llama-server answers in its own shape here, but OpenAI's clients without /v1 in their address cannot read it.
    """
    body = await read_json_object(context, request)
    names = ("model", "input", "content")
    if [body.get(name) is not None for name in names] != [True, True, False]:
        return await answer_embedding(context, body)
    request[ERROR_FORMAT] = ERRORS
    return await embeddings(context, request, body)


async def deployment(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /openai/deployments/{model}/embeddings`: Azure's route, whose path names the model."""
    body = await read_json_object(context, request)
    MODEL.read(body)  # checked, but not used
    return await embeddings(context, request, {**body, "model": request.match_info["model"]})


async def embeddings(context: ServerContext, request: Sent, body: JsonObject | None = None) -> web.Response:
    """`POST /v1/embeddings`. A body with `content` and no `input` gets llama.cpp's shape, as in llama-server."""
    if body is None:
        assert isinstance(request, web.Request), "a line of a batch has a body"
        body = await read_json_object(context, request)
    if not VOYAGE_FIELDS.isdisjoint(body) and isinstance(request, web.Request):
        request[ERROR_FORMAT] = VOYAGE_ERRORS
    if body.get("input") is None and body.get("content") is not None:
        return await answer_embedding(context, body)
    if not MEDIA_NAMES.isdisjoint(body):
        body = with_content_parts(body)
    given = body.get("input")
    images: tuple[ImageInput, ...] = ()
    if type(given) is dict or (type(given) is list and dict in set(map(type, given))):
        body, images = await take_images(context, body)
        if images:
            refuse_with_images(body)
    parsed = parse_openai_embed(body, context.options.max_inputs)
    if parsed.output_types:
        check_decodable(parsed.output_types, request.headers)
    embed_request = parsed.request
    if tuple in set(map(type, embed_request.inputs)):
        parsed.check(context.service.resolve(embed_request.model).info)  # its errors take precedence over those of ids
        embed_request = await resolve_token_ids(context, embed_request, request.headers.get("User-Agent", ""))
    result = await context.embed(replace(embed_request, images=images) if images else embed_request, parsed.check)
    if parsed.options is None:
        return embed_response(format_openai_embed(result, parsed), result.truncated)
    written = await asyncio.to_thread(format_openai_embed, result, parsed)
    return with_option_headers(embed_response(written, result.truncated), result)


def parse_openai_embed(body: JsonObject, max_inputs: int) -> OpenAIEmbed:
    """Parse a request body. Raises `InvalidRequest` naming the field."""
    param = "input" if body.get("input") is not None else aliases.inputs_field(body, ("input",))
    if body.get(param) is None:
        raise InvalidRequest('"input" or "content" must be provided', "input")
    fields = NO_EMBED_FIELDS if EMBED_FIELDS.isdisjoint(body) else parse_embed_fields(body)
    options = None if option_fields.FIELDS.isdisjoint(body) else parse_options(body, param, max_inputs)
    inputs: tuple[Input, ...]
    if options is not None:
        inputs = options.inputs
    else:
        given = body[param]
        inputs = (given,) if isinstance(given, str) else parse_inputs(given, param, max_inputs)
    request = EmbedRequest(
        inputs=inputs,
        model=fields.model,
        output=fields.output,
        embd_normalize=2,
        dimensions=fields.dimensions,
        pool_factor=fields.pool_factor,
        muvera=fields.muvera,
        truncate=fields.cutting.truncate,
        max_tokens=fields.cutting.max_tokens,
        cut_start=fields.cutting.cut_start,
        prompt=fields.prompt,
    )
    if fields.normalize is False:
        raise InvalidRequest(_ALWAYS_NORMALIZED.format("normalize", "true"), "normalize")
    encoding_format: EncodingFormat = "float"
    if not _OWN_FIELDS.isdisjoint(body):
        encoding_format = _parse_own_fields(body)
    if options is not None:
        request = options.apply_to(request)
    return OpenAIEmbed(request, encoding_format, fields.output_types, options)


_ALWAYS_NORMALIZED = (
    '"{}" must be {} here, because /v1/embeddings always returns vectors of length 1: use POST /embedding for other '
    "values"
)
_OWN_FIELDS = frozenset({ENCODING_FORMAT.name, USER.name, EMBD_NORMALIZE.name})


def _parse_own_fields(body: JsonObject) -> EncodingFormat:
    if body.get(EMBD_NORMALIZE.name) not in (None, EMBD_NORMALIZE.maximum):
        raise InvalidRequest(
            _ALWAYS_NORMALIZED.format(EMBD_NORMALIZE.name, EMBD_NORMALIZE.maximum), EMBD_NORMALIZE.name
        )
    USER.read(body)  # checked, but not used
    return cast(EncodingFormat, ENCODING_FORMAT.read(body) or "float")


def _error_object(error: EmbedError) -> dict[str, object]:
    """The error object for one failed input, in `errors`."""
    return error_object(error, describe(error, ERRORS.words), STATUSES[error.kind])


def format_openai_embed(result: EmbedResult, parsed: OpenAIEmbed) -> bytes:
    """Format OpenAI's reply, for pooled results. `truncated` and `prompt` are our own fields, present if they apply."""
    n_tokens = result.usage.prompt_tokens
    options = parsed.options
    data: list[Written]
    if options is None and result.output.kind == DENSE:  # nearly all requests
        rows = enumerate(_encode_rows(result.output, parsed))
        data = [{"object": "embedding", "index": index, "embedding": row} for index, row in rows]
    else:
        data = _other_data(result, parsed)
    reply: dict[str, object] = {
        "object": "list",
        "data": data,
        "model": result.model.name,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }
    if parsed.image_pixels is not None:
        pixels = {"image_pixels": parsed.image_pixels, "video_pixels": 0}
        reply["usage"] = {"text_tokens": n_tokens, **pixels, "total_tokens": n_tokens}
    if result.prompt is not None:
        reply["prompt"] = format_applied_prompt(result.prompt)
    if result.truncated:
        reply["truncated"] = [{"index": cut.index, **format_truncation(cut)} for cut in result.truncated]
    if options is not None:
        reply |= openai_details(result, options, _error_object)
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)


def _other_data(result: EmbedResult, parsed: OpenAIEmbed) -> list[Written]:
    """`data` with the request's options, or with other kinds of vectors than one dense one per text."""
    vectors = WRITERS[result.output.kind](result.output, lambda output: _encode_rows(output, parsed))
    if result.failures and result.output.kind not in (DENSE, SCORES):  # of these, failed inputs have no rows
        failed = {failure.index for failure in result.failures}
        vectors = [written for index, written in enumerate(vectors) if index not in failed]
    if parsed.options is not None:
        return openai_data(result, vectors, parsed.options)
    return [{"object": "embedding", "index": index, **written} for index, written in enumerate(vectors)]


def _encode_rows(output: Output, parsed: OpenAIEmbed) -> Sequence[object]:
    assert isinstance(output, Rows), output.kind
    if parsed.output_types:
        return write_rows(output.matrix, parsed.output_types)
    if parsed.encoding_format == "float":
        # orjson writes the shortest digits that read back as the same float32
        return list(np.ascontiguousarray(output.matrix))
    little_endian = np.ascontiguousarray(output.matrix, dtype="<f4")
    return [binascii.b2a_base64(row, newline=False).decode("ascii") for row in little_endian]

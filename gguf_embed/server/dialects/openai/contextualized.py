"""Voyage's `POST /v1/contextualizedembeddings`: documents as lists of chunks, each chunk read in its whole document."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import orjson
from aiohttp import web

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.context import ServerContext
from gguf_embed.server.fields.entries import parse_each
from gguf_embed.server.fields.field import Body, Flag, Shaped, has
from gguf_embed.server.fields.head_outputs import split_rows
from gguf_embed.server.fields.inputs import check_count
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.options import MAX_SPANS, refuse_elsewhere
from gguf_embed.server.fields.output_types import (
    DIMENSIONS,
    ENCODING_FORMAT,
    OUTPUT_TYPE,
    OutputType,
    check_output_types,
    parse_dimensions,
    parse_output_types,
    write_rows,
)
from gguf_embed.server.fields.outputs import rows_of
from gguf_embed.server.fields.prompt_prefix import PROMPT_FIELDS, parse_prompt_choice
from gguf_embed.server.fields.truncation import CUTTING_FIELDS, parse_cutting
from gguf_embed.server.fields.urgency import URGENCY_FIELDS
from gguf_embed.server.http.body import embed_response, read_json_object
from gguf_embed.server.http.values import JsonObject, wrong_value
from gguf_embed.types import EmbedRequest, EmbedResult, ModelInfo, OutputSpec, Pooling, Span

_CHUNKS = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
_FLOAT = OutputType("float", "float", base64=False)
AUTO_CHUNKING = Flag("enable_auto_chunking", "`true` is a 400: documents are not split here.", default="`false`")
REQUEST = Body(
    "ContextualizedRequest",
    (
        Shaped(
            "inputs",
            "The documents, each as an array of its chunks. Chunks are joined without anything between them.",
            required=True,
            shape={"type": "array", "items": _CHUNKS, "minItems": 1},
        ),
        *(MODEL, DIMENSIONS, OUTPUT_TYPE, ENCODING_FORMAT, AUTO_CHUNKING),
    ),
    "The vector of a chunk is the mean of its tokens' vectors, after the whole document was read.",
    groups=(PROMPT_FIELDS, replace(CUTTING_FIELDS, default="`--truncate`"), URGENCY_FIELDS),
    rules={"not": has({AUTO_CHUNKING.name: {"const": True}})},
)


@dataclass(frozen=True, slots=True)
class Contextualized:
    """A parsed body: what to compute, and how to format the reply."""

    request: EmbedRequest
    types: tuple[OutputType, ...]

    def check(self, info: ModelInfo) -> None:
        check_output_types(self.types, OutputSpec.of(Pooling.MEAN), embd_normalize=2)


async def contextualized(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /v1/contextualizedembeddings`."""
    body = await read_json_object(context, request)
    parsed = parse_contextualized(body, context.options.max_inputs)
    result = await context.embed(parsed.request, parsed.check)
    return embed_response(await asyncio.to_thread(_written, result, parsed), result.truncated)


def parse_contextualized(body: JsonObject, max_inputs: int) -> Contextualized:
    """Raises `InvalidRequest` naming the field."""
    refuse_elsewhere(body, ("pooling",))
    if AUTO_CHUNKING.read(body):
        raise InvalidRequest(
            f'"{AUTO_CHUNKING.name}" is not supported: send chunks, or leave it out', AUTO_CHUNKING.name
        )
    documents = _documents(body, max_inputs)
    cutting = parse_cutting(body)
    is_base64 = ENCODING_FORMAT.read(body) == "base64"
    types = parse_output_types(body) or (replace(_FLOAT, base64=is_base64),)
    request = EmbedRequest(
        inputs=tuple(map("".join, documents)),
        model=MODEL.read(body),
        output=OutputSpec.of(Pooling.MEAN),
        embd_normalize=2,
        dimensions=parse_dimensions(body),
        truncate=cutting.truncate,
        max_tokens=cutting.max_tokens,
        cut_start=cutting.cut_start,
        prompt=parse_prompt_choice(body),
        spans=tuple(map(_spans, documents)),
    )
    return Contextualized(request, types)


def _documents(body: JsonObject, max_inputs: int) -> Sequence[list[str]]:
    value = body.get("inputs")
    if not isinstance(value, list) or not value:
        raise wrong_value("inputs", "a non-empty array of documents, each an array of texts", value)
    check_count(value, "inputs", max_inputs)
    documents = parse_each(value, _chunks)
    n_chunks = sum(map(len, documents))
    if n_chunks > MAX_SPANS:
        raise InvalidRequest(
            f'"inputs" has {n_chunks} chunks, the limit per request is {MAX_SPANS}: send several requests', "inputs"
        )
    return documents


def _chunks(document: object, index: int) -> list[str]:
    chunks = [chunk for chunk in document if isinstance(chunk, str) and chunk] if isinstance(document, list) else []
    if not isinstance(document, list) or not chunks or len(chunks) < len(document):
        raise InvalidRequest(f'"inputs[{index}]" must be a non-empty array of texts that are not empty', "inputs")
    return chunks


def _spans(chunks: list[str]) -> tuple[Span, ...]:
    ends = list(accumulate(map(len, chunks)))
    return tuple((end - len(chunk), end) for chunk, end in zip(chunks, ends, strict=True))


def _written(result: EmbedResult, parsed: Contextualized) -> bytes:
    rows = rows_of(result.output)
    vectors = write_rows(np.ascontiguousarray(rows.matrix), parsed.types)
    documents = [
        {
            "object": "list",
            "index": index,
            "data": [{"object": "embedding", "index": chunk, "embedding": vector} for chunk, vector in enumerate(own)],
        }
        for index, own in enumerate(split_rows(rows, vectors))
    ]
    n_tokens = result.usage.prompt_tokens
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    reply = {"object": "list", "data": documents, "model": result.model.name, "usage": usage}
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)

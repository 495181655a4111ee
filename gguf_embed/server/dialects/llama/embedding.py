"""llama.cpp's own `/embedding`: JSON → `EmbedRequest`, `EmbedResult` → JSON."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import orjson
from aiohttp import web

from gguf_embed.errors import EmbedError, InvalidRequest, WayOut, describe
from gguf_embed.server.context import ServerContext
from gguf_embed.server.dialects.llama.errors import ERRORS, error_object
from gguf_embed.server.fields import aliases
from gguf_embed.server.fields import options as option_fields
from gguf_embed.server.fields.embed_fields import (
    EMBED_FIELDS,
    NO_EMBED_FIELDS,
    NORMALIZE,
    OWN_INPUTS,
    parse_embed_fields,
)
from gguf_embed.server.fields.field import Body, Shaped, Whole, is_given
from gguf_embed.server.fields.images import take_images
from gguf_embed.server.fields.inputs import parse_inputs
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.option_fields import OPTION_FIELDS
from gguf_embed.server.fields.options import EmbedOptions, parse_options, refuse_with_images
from gguf_embed.server.fields.options_reply import llama_details, with_option_headers
from gguf_embed.server.fields.output_types import (
    DIMENSIONS,
    OUTPUT_TYPE,
    OutputType,
    check_output_types,
    write_matrix,
)
from gguf_embed.server.fields.outputs import POOLING, check_output, rows_of
from gguf_embed.server.fields.prompt_prefix import PROMPT_FIELDS, format_applied_prompt
from gguf_embed.server.fields.truncation import CUTTING_FIELDS, format_truncation
from gguf_embed.server.fields.urgency import URGENCY_FIELDS
from gguf_embed.server.http.body import embed_response, read_json_object
from gguf_embed.server.http.errors import STATUSES
from gguf_embed.server.http.values import JsonObject
from gguf_embed.types import (
    DENSE,
    MULTIVECTOR,
    SCORES,
    TOKENS,
    EmbedRequest,
    EmbedResult,
    FloatMatrix,
    ImageInput,
    Input,
    ModelInfo,
)

_NUMBERS_PER_PIECE = 200_000  # take about 5 ms to serialize
_STREAMED_BYTES = 16 * 2**20  # longer replies are streamed, without a Content-Length
_MAX_NORM = 2**31 - 1  # llama.cpp keeps it in an int32
EMBD_NORMALIZE = Whole(
    "embd_normalize",
    "-1 none, 0 largest magnitude 32760, 1 taxicab, 2 Euclidean, more: p-norm.",
    default="`--embd-normalize`",
    minimum=-1,
    maximum=_MAX_NORM,
)
REQUEST = Body(
    "LlamaEmbedRequest",
    (
        Shaped(
            OWN_INPUTS[0],
            "The texts.",
            also=aliases.texts_besides(*OWN_INPUTS),
            default="required",
            see="Inputs",
            shape={"ref": "Input"},
        ),
        Shaped(
            OWN_INPUTS[1],
            "The same, without `input`; also the content parts of one input.",
            shape={"anyOf": [{"ref": "Input"}, {"type": "array", "items": {"ref": "ContentPart"}, "minItems": 1}]},
        ),
        MODEL,
        POOLING,
        EMBD_NORMALIZE,
        replace(NORMALIZE, text="`true`: the same as `embd_normalize` 2; `false`: as -1."),
        DIMENSIONS,
        OUTPUT_TYPE,
    ),
    "`input` or `content` is required; `input` takes precedence.",
    groups=(PROMPT_FIELDS, OPTION_FIELDS, CUTTING_FIELDS, URGENCY_FIELDS),
    rules={"anyOf": [is_given("input"), is_given("content")]},
)
_NORMALIZES = frozenset({*EMBD_NORMALIZE.names, *NORMALIZE.names})
_KINDS = (DENSE, TOKENS, SCORES, MULTIVECTOR)  # kinds of output that have rows


@dataclass(frozen=True, slots=True)
class LlamaEmbed:
    """A parsed body: what to compute, and how to format the reply."""

    request: EmbedRequest
    output_types: tuple[OutputType, ...] = ()
    options: EmbedOptions | None = None

    def check(self, info: ModelInfo) -> None:
        """Check that the reply can hold the model's output. Raises `InvalidRequest` or `NotSupported`."""
        request = self.request
        output = request.output or info.output
        check_output(output, _KINDS, on_request=request.output is not None)
        if self.output_types:
            kind = info.embd_normalize if request.embd_normalize is None else request.embd_normalize
            check_output_types(self.output_types, output, kind)


async def embedding(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /embedding`."""
    return await answer_embedding(context, await read_json_object(context, request))


async def answer_embedding(context: ServerContext, body: JsonObject) -> web.Response:
    """Answer a parsed body in llama-server's shape."""
    given = body.get("content") if body.get("input") is None else body["input"]
    images: tuple[ImageInput, ...] = ()
    if type(given) is dict or (type(given) is list and dict in set(map(type, given))):
        body, images = await take_images(context, body)
        if images:
            refuse_with_images(body)
    parsed = parse_llama_embed(body, context.options.max_inputs)
    result = await context.embed(replace(parsed.request, images=images) if images else parsed.request, parsed.check)
    if parsed.options is None:
        return embed_response(await _as_body(iter_llama_embed(result, parsed.output_types)), result.truncated)
    details = await asyncio.to_thread(llama_details, result, parsed.options, _error_object)
    written = await _as_body(iter_llama_embed(result, parsed.output_types, details))
    return with_option_headers(embed_response(written, result.truncated), result)


async def _as_body(pieces: Iterator[bytes]) -> bytes | AsyncIterator[bytes]:
    """The whole reply, or a stream if it is large: token rows may take gigabytes.

    The event loop can serve other requests between two pieces.
    """
    pieces_so_far: list[bytes] = []
    n_bytes = 0
    for piece in pieces:
        pieces_so_far.append(piece)
        n_bytes += len(piece)
        if n_bytes > _STREAMED_BYTES:
            return _streamed(itertools.chain(pieces_so_far, pieces))
        await asyncio.sleep(0)
    return b"".join(pieces_so_far)


async def _streamed(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)


def parse_llama_embed(body: JsonObject, max_inputs: int) -> LlamaEmbed:
    """Parse a request body. `input` takes precedence over `content`. Raises `InvalidRequest` naming the field."""
    param = "input" if body.get("input") is not None else aliases.inputs_field(body, OWN_INPUTS)
    if body.get(param) is None:
        raise InvalidRequest('"input" or "content" must be provided', "input")
    fields = NO_EMBED_FIELDS if EMBED_FIELDS.isdisjoint(body) else parse_embed_fields(body)
    if fields.pool_factor > 1 or fields.muvera is not None:
        raise InvalidRequest("this route returns multi-vectors as they are", ways_out=[WayOut.HEAD_VECTORS])
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
        embd_normalize=None if _NORMALIZES.isdisjoint(body) else _parse_embd_normalize(body, fields.normalize),
        dimensions=fields.dimensions,
        truncate=fields.cutting.truncate,
        max_tokens=fields.cutting.max_tokens,
        cut_start=fields.cutting.cut_start,
        prompt=fields.prompt,
        scores=True,  # as in llama-server
    )
    return LlamaEmbed(request if options is None else options.apply_to(request), fields.output_types, options)


def _error_object(error: EmbedError) -> dict[str, object]:
    """The error object for one failed input."""
    return error_object(error, describe(error, ERRORS.words), STATUSES[error.kind])


def _parse_embd_normalize(body: JsonObject, normalize: bool | None) -> int | None:
    """`embd_normalize`, or other APIs' flag: true is 2, false is -1."""
    value = EMBD_NORMALIZE.read(body)
    if normalize is not None:
        if value not in (None, 2 if normalize else -1):
            raise InvalidRequest(
                '"embd_normalize" and "normalize" contradict each other: send only one of them', "normalize"
            )
        return 2 if normalize else -1
    return value


def iter_llama_embed(
    result: EmbedResult,
    output_types: Sequence[OutputType] = (),
    details: Sequence[dict[str, object]] | None = None,
) -> Iterator[bytes]:
    """Format `[{"index": 0, "embedding": [[…], …]}, …]` in pieces that take a few milliseconds each.

    Rows are always nested, even a single pooled one. A piece ends after the item that fills it; an item larger than a
    piece is split. `details` comes from `llama_details`, one per input.
    """
    output = rows_of(result.output)
    vectors = np.ascontiguousarray(output.matrix)
    cuts = {cut.index: cut for cut in result.truncated}
    opening, items, n_numbers = b"[", list[dict[str, object]](), 0
    for index, (start, end) in enumerate(itertools.pairwise(output.offsets)):
        rows = vectors[start:end]
        item: dict[str, object] = {"index": index, "embedding": None}
        if result.prompt is not None:
            item["prompt"] = format_applied_prompt(result.prompt)
        if index in cuts:
            item["truncated"] = format_truncation(cuts[index])
        if details is not None:
            item = {"index": index, **details[index]} if "error" in details[index] else item | details[index]
        if rows.size > _NUMBERS_PER_PIECE:
            yield opening + (_dump_items(items) + b"," if items else b"")
            yield from _dump_large(item, rows, output_types)
            opening, items, n_numbers = b",", [], 0
            continue
        if "error" not in item:
            item["embedding"] = write_matrix(rows, output_types) if output_types else rows
        items.append(item)
        n_numbers += rows.size
        if n_numbers >= _NUMBERS_PER_PIECE:
            yield opening + _dump_items(items)
            opening, items, n_numbers = b",", [], 0
    yield (opening + _dump_items(items) if items else b"") + b"]"


def _dump_large(item: dict[str, object], rows: FloatMatrix, output_types: Sequence[OutputType]) -> Iterator[bytes]:
    """Format an item that has too many rows for one piece."""
    yield b'{"index":' + orjson.dumps(item["index"]) + b',"embedding":'
    if len(output_types) < 2:
        yield from _dump_rows(rows, output_types)
    else:
        for number, output in enumerate(output_types):
            yield (b"," if number else b"{") + orjson.dumps(output.name) + b":"
            yield from _dump_rows(rows, (output,))
        yield b"}"
    rest = {key: value for key, value in item.items() if key not in ("index", "embedding")}
    yield (b"," + orjson.dumps(rest)[1:-1] if rest else b"") + b"}"


def _dump_rows(rows: FloatMatrix, output_types: Sequence[OutputType]) -> Iterator[bytes]:
    """Format one array of rows, in one type."""
    n_rows = max(1, _NUMBERS_PER_PIECE // rows.shape[1])
    for begin in range(0, len(rows), n_rows):
        part = rows[begin : begin + n_rows]
        written = write_matrix(part, output_types) if output_types else part
        yield (b"," if begin else b"[") + orjson.dumps(written, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    yield b"]"


def _dump_items(items: list[dict[str, object]]) -> bytes:
    return orjson.dumps(items, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]

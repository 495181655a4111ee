"""Text Embeddings Inference's `/embed`, `/embed_all`, `/similarity`, `POST /`: JSON → `EmbedRequest`, rows → JSON."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import numpy as np
import orjson
from aiohttp import web

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.context import ServerContext
from gguf_embed.server.dialects.tei.pairs import answer_pairs, wants_pairs
from gguf_embed.server.fields import aliases, output_types
from gguf_embed.server.fields.embed_fields import NORMALIZE
from gguf_embed.server.fields.entries import parse_strings
from gguf_embed.server.fields.field import Body, Json, Shaped
from gguf_embed.server.fields.inputs import parse_inputs
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.options import refuse_elsewhere
from gguf_embed.server.fields.output_types import DIMENSIONS, parse_dimensions
from gguf_embed.server.fields.outputs import check_output, rows_of
from gguf_embed.server.fields.prompt_prefix import PROMPT_FIELDS, parse_prompt_choice
from gguf_embed.server.fields.truncation import CUTTING_FIELDS, parse_cutting
from gguf_embed.server.fields.urgency import URGENCY_FIELDS
from gguf_embed.server.http.body import embed_response, read_json_object
from gguf_embed.server.http.errors import NoInputs, TooManyInputs
from gguf_embed.server.http.values import JsonObject, describe, wrong_value
from gguf_embed.types import DENSE, SCORES, TOKENS, EmbedRequest, FloatMatrix, ModelInfo, OutputSpec

_TEXT: Json = {"type": "string"}
REQUEST = Body(
    "TeiEmbedRequest",
    (
        Shaped(
            "inputs",
            'The texts. Numbers among texts (`["a", 5]`) are a 422.',
            also=aliases.texts_besides("inputs"),
            required=True,
            see="Inputs",
            shape={"ref": "TextInput"},
        ),
        MODEL,
        replace(
            NORMALIZE,
            text="`false`: vectors as the model returns them. Token vectors are never normalized.",
            default="`true`",
        ),
        DIMENSIONS,
    ),
    groups=(PROMPT_FIELDS, replace(CUTTING_FIELDS, default="`true`"), URGENCY_FIELDS),
)
SENTENCES = Shaped(
    "inputs",
    "The source sentence, and those that are compared with it.",
    required=True,
    shape={
        "type": "object",
        "required": ["source_sentence", "sentences"],
        "properties": {
            "source_sentence": _TEXT,
            "sentences": {"type": "array", "items": _TEXT, "minItems": 1},
        },
    },
)
_SHAPE = '{"inputs": {"source_sentence": "…", "sentences": ["…"]}}'
PARAMETERS = Shaped(
    "parameters",
    "`truncate` and the like, and prompt fields such as `prompt_name`.",
    shape={"anyOf": [{"type": "object", "allOf": [{"ref": PROMPT_FIELDS.name}, {"ref": CUTTING_FIELDS.name}]}]},
)
SIMILARITY = Body("TeiSimilarityRequest", (SENTENCES, PARAMETERS, MODEL))


async def embed(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /embed`: `[[…], …]`, one vector per input."""
    return await _answer_embed(context, await read_json_object(context, request))


async def embed_all(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /embed_all`: `[[[…], …], …]`, one vector per token of each input, not normalized."""
    body = await read_json_object(context, request)
    result = await context.embed(parse_embed(body, context.options.max_inputs, OutputSpec(TOKENS)))
    output = rows_of(result.output)
    pieces = []
    for start, end in itertools.pairwise(output.offsets):
        pieces.append(_dump(output.matrix[start:end]))
        await asyncio.sleep(0)  # serializing a million token rows takes seconds, so let other requests run in between
    return embed_response(b"[" + b",".join(pieces) + b"]", result.truncated)


async def similarity(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /similarity`: the cosine of each sentence to the source sentence, or of all texts to each other."""
    body = await read_json_object(context, request)
    return await (answer_pairs if wants_pairs(body) else _answer_similarity)(context, body)


async def root(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /`: TEI serves the model's own task here. huggingface_hub's client uses it to embed and for similarity."""
    body = await read_json_object(context, request)
    inputs = body.get("inputs")
    if isinstance(inputs, dict) and "prompt_string" not in inputs:
        return await _answer_similarity(context, body)
    return await _answer_embed(context, body)


async def _answer_embed(context: ServerContext, body: JsonObject) -> web.Response:
    result = await context.embed(parse_embed(body, context.options.max_inputs), _check_model)
    return embed_response(_dump(rows_of(result.output).matrix), result.truncated)


async def _answer_similarity(context: ServerContext, body: JsonObject) -> web.Response:
    result = await context.embed(parse_similarity(body, context.options.max_inputs), _check_model)
    return embed_response(_dump(cosines(rows_of(result.output).matrix)), result.truncated)


def _check_model(info: ModelInfo) -> None:
    check_output(info.output, (DENSE, SCORES), on_request=False)  # the service refuses scores


def parse_embed(body: JsonObject, max_inputs: int, output: OutputSpec | None = None) -> EmbedRequest:
    """Parse a body of `/embed` or `/embed_all`. Raises `InvalidRequest` naming the field."""
    refuse_elsewhere(body, (*output_types.FIELDS, "pooling", "embd_normalize"))
    param = aliases.inputs_field(body, ("inputs",))
    if body.get(param) is None:
        raise InvalidRequest('"inputs" must be provided: a string, or an array of strings', "inputs")
    normalize = NORMALIZE.read(body)
    cutting = parse_cutting(body, default=True)
    return EmbedRequest(
        inputs=parse_inputs(body[param], param, max_inputs, joins_mixed=False),
        model=MODEL.read(body),
        output=output,
        embd_normalize=-1 if normalize is False else 2,
        dimensions=parse_dimensions(body),
        truncate=cutting.truncate,
        max_tokens=cutting.max_tokens,
        cut_start=cutting.cut_start,
        prompt=parse_prompt_choice(body),
    )


def parse_similarity(body: JsonObject, max_inputs: int) -> EmbedRequest:
    """Parse a body of `/similarity`. Input 0 is the source sentence. Raises `InvalidRequest` naming the field."""
    refuse_elsewhere(body, output_types.FIELDS)
    inputs = _object(body, "inputs")
    if inputs is None and "source_sentence" in body:
        raise InvalidRequest(f'"source_sentence" belongs in "inputs": send {_SHAPE}', "source_sentence")
    if inputs is None:
        raise InvalidRequest(f'"inputs" must be provided: send {_SHAPE}', "inputs")
    source, sentences = inputs.get("source_sentence"), inputs.get("sentences")
    if not isinstance(source, str):
        raise wrong_value("inputs.source_sentence", "a string", source)
    if not isinstance(sentences, list):
        raise wrong_value("inputs.sentences", "an array of strings", sentences)
    if not sentences:
        raise NoInputs('"inputs.sentences" must not be empty', "inputs")
    if len(sentences) + 1 > max_inputs:
        raise TooManyInputs(
            f'"inputs" has {len(sentences) + 1} sentences, the limit per request is {max_inputs}: '
            "send several requests",
            "inputs",
        )
    texts = parse_strings(sentences, "inputs", "inputs.sentences")
    parameters = _object(body, "parameters") or {}
    refuse_elsewhere(parameters, (*output_types.FIELDS, "pooling"))
    cutting = parse_cutting(parameters, default=True)
    return EmbedRequest(
        inputs=(source, *texts),
        model=MODEL.read(body),
        embd_normalize=2,
        truncate=cutting.truncate,
        max_tokens=cutting.max_tokens,
        cut_start=cutting.cut_start,
        prompt=parse_prompt_choice(parameters),
    )


def _object(body: JsonObject, field: str) -> dict[str, object] | None:
    value = body.get(field)
    if value is None or isinstance(value, dict):
        return value
    raise InvalidRequest(f'"{field}" must be an object, found {describe(value)}', field)


def cosines(vectors: FloatMatrix) -> FloatMatrix:
    """The cosine between row 0 and each other row of float32[n + 1, d]: float32[n]. Rows have length 1 or are zero."""
    wide = vectors.astype(np.float64)
    return np.asarray(np.clip(wide[1:] @ wide[0], -1.0, 1.0), np.float32)


def _dump(numbers: FloatMatrix) -> bytes:
    return orjson.dumps(np.ascontiguousarray(numbers), option=orjson.OPT_SERIALIZE_NUMPY)

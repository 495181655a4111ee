"""Text Embeddings Inference's `/predict`: a classifier's labels for texts and pairs of texts."""

from __future__ import annotations

from dataclasses import replace

import orjson
from aiohttp import web

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.context import ServerContext
from gguf_embed.server.fields.classify import labelled, parse_classify
from gguf_embed.server.fields.entries import parse_each
from gguf_embed.server.fields.field import Body, Json, Shaped
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.rerank_fields import RAW_SCORES
from gguf_embed.server.fields.truncation import CUTTING_FIELDS
from gguf_embed.server.fields.urgency import URGENCY_FIELDS
from gguf_embed.server.http.body import embed_response, read_json_object
from gguf_embed.server.http.errors import NoInputs, TooManyInputs
from gguf_embed.server.http.values import JsonObject, describe

_TEXT: Json = {"type": "string"}
_ONE: Json = {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 2}
REQUEST = Body(
    "TeiPredictRequest",
    (
        Shaped(
            "inputs",
            "One text; a pair, `[a, b]`; or several, each in an array of its own: `[[a], [b, c]]`.",
            required=True,
            shape={"anyOf": [_TEXT, _ONE, {"type": "array", "items": _ONE, "minItems": 1}]},
        ),
        MODEL,
        replace(
            RAW_SCORES,
            text="`true`: the head's own numbers instead of probabilities. The other names but the first mean the "
            "opposite.",
            default="`false`",
        ),
    ),
    groups=(replace(CUTTING_FIELDS, default="`true`"), URGENCY_FIELDS),
)

Text = str | tuple[str, str]


async def predict(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /predict`: `[{"score": …, "label": …}, …]`, the best label first; an array of these for several texts."""
    body = await read_json_object(context, request)
    texts, is_batch = parse_texts(body, context.options.max_inputs)
    result = await context.classify(parse_classify(body, texts, truncate=True))
    written = labelled(result)
    reply = written if is_batch else written[0]
    return embed_response(orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY), result.truncated)


def parse_texts(body: JsonObject, max_inputs: int) -> tuple[tuple[Text, ...], bool]:
    """The texts and pairs, and whether the reply is an array of arrays. Raises `InvalidRequest`."""
    value = body.get("inputs")
    if isinstance(value, str):
        return (value,), False
    if not isinstance(value, list):
        raise InvalidRequest(f'"inputs" must be a string or an array, found {describe(value)}', "inputs")
    if not value:
        raise NoInputs('"inputs" must not be empty', "inputs")
    if all(isinstance(entry, str) for entry in value):
        return (_one(value, "inputs"),), False
    if len(value) > max_inputs:
        raise TooManyInputs(
            f'"inputs" has {len(value)} entries, the limit per request is {max_inputs}: send several requests', "inputs"
        )
    return parse_each(value, lambda entry, index: _one(entry, f"inputs[{index}]")), True


def _one(value: object, where: str) -> Text:
    match value:
        case [str(text)]:
            return text
        case [str(first), str(second)]:
            return first, second
        case _:
            raise InvalidRequest(
                f'"{where}" must be an array of one text or of two, a pair, found {describe(value)}', "inputs"
            )

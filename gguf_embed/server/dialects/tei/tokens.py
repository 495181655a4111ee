"""Text Embeddings Inference's `/tokenize` (a body with `inputs`) and `/decode`."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from aiohttp import web

from gguf_embed.errors import InvalidRequest
from gguf_embed.gguf_file.constants import VocabularyType
from gguf_embed.preprocessing.token_offsets import check_offset_budget
from gguf_embed.server.context import ServerContext
from gguf_embed.server.fields.entries import parse_each, parse_strings
from gguf_embed.server.fields.field import Body, Flag, Shaped
from gguf_embed.server.fields.inputs import TOKENS, check_count, parse_parts
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.http.body import json_response, read_json_object
from gguf_embed.server.http.values import JsonObject, describe, whole_number, wrong_value
from gguf_embed.types import TextTokens

_SPACE_BEFORE = (VocabularyType.SPM, VocabularyType.WPM, VocabularyType.UGM)
"""Vocabularies that put a space before the first word when decoding."""

_TEXT = {"type": "string"}
INPUTS = Shaped(
    "inputs",
    "Texts, for a reply in TEI's shape.",
    shape={"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]},
)
ADD_SPECIAL = Flag(
    "add_special",
    "Add the model's special tokens, such as `[CLS]` and `[SEP]`.",
    also=("add_special_tokens",),
    default="`false`; with `inputs` `true`",
)
SKIP_SPECIAL_TOKENS = Flag(
    "skip_special_tokens", "Leave out the special tokens that stand around a text.", default="`true`"
)
DECODE = Body(
    "TeiDecodeRequest",
    (
        Shaped(
            "ids",
            "One sequence of token ids, or several.",
            required=True,
            shape={"anyOf": [TOKENS, {"type": "array", "items": TOKENS}], "minItems": 1},
        ),
        SKIP_SPECIAL_TOKENS,
        MODEL,
    ),
)


async def answer_tokenize(context: ServerContext, body: JsonObject) -> web.Response:
    """Answer a parsed body: for each input, its tokens with their texts and offsets."""
    texts = parse_texts(body, context.options.max_inputs)
    model, add_special = MODEL.read(body), ADD_SPECIAL.read(body)
    found = await context.service.text_tokens(texts, model=model, add_special=add_special is not False)
    reply = [format_tokens(text, tokens) for text, tokens in zip(texts, found, strict=True)]
    return json_response(orjson.dumps(reply))


async def decode(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /decode`: the text of each sequence of ids."""
    body = await read_json_object(context, request)
    sequences = parse_ids(body, context.options.max_inputs)
    model, skip = MODEL.read(body), SKIP_SPECIAL_TOKENS.read(body)
    skipped: frozenset[int] = frozenset()
    if skip is not False:
        around = await context.service.tokenize("", model=model, add_special=True, parse_special=True)
        skipped = frozenset(around)
    texts = [
        await context.service.detokenize([token for token in tokens if token not in skipped], model=model)
        for tokens in sequences
    ]
    if context.service.resolve(model).info.vocab_type in _SPACE_BEFORE:
        texts = [text.removeprefix(" ") for text in texts]
    return json_response(orjson.dumps(texts))


def parse_texts(body: JsonObject, max_inputs: int) -> Sequence[str]:
    """`inputs`: a string, or an array of strings. Raises `InvalidRequest` for an entry that is not a string."""
    inputs = body.get("inputs")
    entries = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(entries, list):
        raise wrong_value("inputs", "a string or an array of strings", inputs)
    check_count(entries, "inputs", max_inputs)
    texts = parse_strings(entries, "inputs")
    check_offset_budget(texts)
    return texts


def parse_ids(body: JsonObject, max_inputs: int) -> Sequence[Sequence[int]]:
    """`ids`: token ids, or an array of such arrays. Raises `InvalidRequest` for an entry that is not a token id."""
    ids = body.get("ids")
    if not isinstance(ids, list):
        raise wrong_value("ids", "an array of token ids, or of such arrays", ids)
    one = all(whole_number(entry) is not None for entry in ids)
    sequences = [ids] if one and ids else ids
    check_count(sequences, "ids", max_inputs)
    return parse_each(sequences, lambda entry, index: _ids_of(entry, "ids" if one else f"ids[{index}]"))


def _ids_of(value: object, where: str) -> list[int]:
    if not isinstance(value, list):
        raise InvalidRequest(f'"{where}" must be an array of token ids, found {describe(value)}', "ids")
    parts = parse_parts(value, "ids", where)
    ids = [part for part in parts if isinstance(part, int)]
    if len(ids) != len(parts):
        raise InvalidRequest(f'"{where}" must contain only token ids, found a string', "ids")
    return ids


def format_tokens(text: str, found: TextTokens) -> list[dict[str, object]]:
    """TEI's tokens of one input. `start` and `stop` count code points; they are null if the offsets are unknown."""
    tokens = found.tokens
    written: list[dict[str, object]] = []
    for index, (token, piece, span) in enumerate(zip(tokens.ids, tokens.pieces, tokens.offsets, strict=True)):
        shown = piece.decode("utf-8", "replace") if span is None else text[span[0] : span[1]]
        start, stop = span or (None, None)
        written.append({"id": token, "text": shown, "special": index not in found.own, "start": start, "stop": stop})
    return written

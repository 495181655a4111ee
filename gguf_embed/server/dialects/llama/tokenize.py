"""llama.cpp's `/tokenize` and `/detokenize`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from aiohttp import web

from gguf_embed.errors import InvalidRequest
from gguf_embed.preprocessing.tokens import MAX_CHARACTERS
from gguf_embed.server.context import ServerContext
from gguf_embed.server.dialects.tei.tokens import INPUTS, answer_tokenize
from gguf_embed.server.fields.field import Body, Flag, Shaped, is_given
from gguf_embed.server.fields.inputs import PARTS, TOKENS, parse_parts
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.pieces import format_piece
from gguf_embed.server.http.body import json_response, read_json_object
from gguf_embed.server.http.values import JsonObject, wrong_value
from gguf_embed.types import Input

MAX_INLINE_TOKENS = 2_000
"""Larger replies are serialized on a thread; this many pieces take about 2 ms."""

CONTENT = Shaped(
    "content",
    f"A text, or texts and token ids that form one sequence; {MAX_CHARACTERS:,} characters in total.",
    default="required",
    shape={"anyOf": [{"type": "string"}, PARTS]},
)
ADD_SPECIAL = Flag(
    "add_special",
    "Add the model's special tokens, such as `[CLS]` and `[SEP]`. `add_special_tokens`, TEI's and vLLM's name for it, "
    "is true by default with `inputs`.",
    also=("add_special_tokens",),
    default="`false`",
)
PARSE_SPECIAL = Flag(
    "parse_special",
    "`[SEP]` in a text is that token; with `false`, llama.cpp's tokenizer reads it as characters.",
    default="`true`",
)
WITH_PIECES = Flag("with_pieces", "Also return the text of each token.", default="`false`")
TOKENIZE = Body(
    "TokenizeRequest",
    (CONTENT, INPUTS, MODEL, ADD_SPECIAL, PARSE_SPECIAL, WITH_PIECES),
    "Exactly one of `content` and `inputs` (TEI's shape) is required.",
    rules={"oneOf": [is_given("content"), is_given("inputs")]},
)
IDS = Shaped("tokens", "Token ids of the model.", required=True, shape=TOKENS)
DETOKENIZE = Body("DetokenizeRequest", (IDS, MODEL))


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """A parsed `/tokenize` body. The defaults are llama-server's."""

    content: Input
    model: str | None = None
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


async def tokenize(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /tokenize`; a body with `inputs` and no `content` gets TEI's shape."""
    body = await read_json_object(context, request)
    if body.get("inputs") is not None:
        if body.get("content") is not None:
            raise InvalidRequest('"content" is llama.cpp\'s field, "inputs" is TEI\'s: send only one of them', "inputs")
        return await answer_tokenize(context, body)
    parsed = parse_tokenize(body)
    tokens = await context.service.tokenize(
        parsed.content, model=parsed.model, add_special=parsed.add_special, parse_special=parsed.parse_special
    )
    if not parsed.with_pieces:
        return json_response(orjson.dumps({"tokens": tokens}))
    pieces = await context.service.token_pieces(tokens, model=parsed.model)
    if len(tokens) <= MAX_INLINE_TOKENS:
        return json_response(format_pieces(tokens, pieces))
    return json_response(await asyncio.to_thread(format_pieces, tokens, pieces))


async def detokenize(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /detokenize`."""
    body = await read_json_object(context, request)
    text = await context.service.detokenize(parse_detokenize(body), model=MODEL.read(body))
    return json_response(orjson.dumps({"content": text}))


def parse_tokenize(body: JsonObject) -> TokenizeRequest:
    """Parse a request body. `content` is a string, or texts and ids that form one sequence."""
    content = body.get("content")
    if isinstance(content, list):
        content = parse_parts(content, "content")
    elif not isinstance(content, str):
        raise wrong_value("content", "a string, or an array of strings and token ids", content)
    n_characters = len(content) if isinstance(content, str) else sum(len(p) for p in content if isinstance(p, str))
    if n_characters > MAX_CHARACTERS:
        raise InvalidRequest(
            f'"content" has {n_characters:,} characters, the limit is {MAX_CHARACTERS:,}: split it', "content"
        )
    parse_special = PARSE_SPECIAL.read(body)
    return TokenizeRequest(
        content=content,
        model=MODEL.read(body),
        add_special=ADD_SPECIAL.read(body) or False,
        parse_special=True if parse_special is None else parse_special,
        with_pieces=WITH_PIECES.read(body) or False,
    )


def parse_detokenize(body: JsonObject) -> tuple[int, ...]:
    """Parse a request body. Raises `InvalidRequest` for an entry that is not a token id."""
    tokens = body.get("tokens")
    if not isinstance(tokens, list):
        raise wrong_value("tokens", "an array of token ids", tokens)
    parts = parse_parts(tokens, "tokens")
    ids = tuple(part for part in parts if isinstance(part, int))
    if len(ids) != len(parts):
        raise InvalidRequest('"tokens" must contain only token ids, found a string', "tokens")
    return ids


def format_pieces(tokens: Sequence[int], pieces: Sequence[bytes]) -> bytes:
    """Format each token with its text."""
    written = [{"id": token, "piece": format_piece(piece)} for token, piece in zip(tokens, pieces, strict=True)]
    return orjson.dumps({"tokens": written})

"""Reads request bodies and builds replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast

import orjson
from aiohttp import ClientPayloadError, web

from gguf_embed.server.context import ServerContext
from gguf_embed.server.fields.misspelled import refuse_misspelled
from gguf_embed.server.http.json_text import as_object, parse_object
from gguf_embed.server.http.large_body import (
    BODY_TIMEOUT_S,
    SMALL_BODY_BYTES,
    incomplete,
    late,
    read_large_object,
)
from gguf_embed.server.http.terms import PRIORITY_FIELD, ask_priority
from gguf_embed.server.http.values import JsonObject
from gguf_embed.types import Truncation

TRUNCATED_HEADER = "X-Gguf-Embed-Truncated"
_MAX_INDICES_IN_HEADER = 50


async def read_json_object(context: ServerContext, request: web.Request) -> JsonObject:
    """The decompressed body as a JSON object. Ignores the Content-Type, because `curl -d` sends that of a form.

    Its `priority` becomes that of this task's caller.

    Raises `PayloadTooLarge`, or `InvalidRequest` with the position of the error, or for a misspelled field.
    """
    length, limit = request.content_length, min(SMALL_BODY_BYTES, context.options.max_body_bytes)
    if length is None or length > limit or "Content-Encoding" in request.headers:
        body = await read_large_object(context, request)
    else:
        raw = await _read_body(context, request)
        try:
            value = orjson.loads(raw)
            body = cast(JsonObject, value) if isinstance(value, dict) else as_object(value)
        except orjson.JSONDecodeError:
            body = parse_object(raw)  # it repairs what can be repaired, and has the words for the rest
    if not body.keys() <= context.field_names:
        refuse_misspelled(body, context.field_names)
    if body.get(PRIORITY_FIELD) is not None:
        ask_priority(body[PRIORITY_FIELD], PRIORITY_FIELD)
    return body


async def _read_body(context: ServerContext, request: web.Request) -> bytes:
    """Read the body, then count the request as in flight, so that a shutdown waits for it but not for half a body."""
    task = asyncio.current_task()
    assert task is not None
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            raw = await request.read()
    except TimeoutError as exc:
        raise late() from exc
    except (web.RequestPayloadError, ClientPayloadError) as exc:
        raise incomplete() from exc
    context.in_flight.enter(task)
    return raw


def json_response(body: bytes | AsyncIterator[bytes], status: int = 200) -> web.Response:
    """A reply from JSON bytes, complete or as a stream."""
    # content_type= would parse and rebuild this constant value every time
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json"})


def embed_response(body: bytes | AsyncIterator[bytes], truncated: Sequence[Truncation]) -> web.Response:
    """A reply with vectors, and with `X-Gguf-Embed-Truncated: 0,3` if inputs 0 and 3 were cut."""
    response = json_response(body)
    if truncated:
        response.headers[TRUNCATED_HEADER] = format_truncated_header(truncated)
    return response


def format_truncated_header(truncated: Sequence[Truncation]) -> str:
    """The indexes of the inputs that were cut."""
    return format_indices([cut.index for cut in truncated])


def format_indices(indices: Sequence[int]) -> str:
    """The first 50 indexes, then the number of others, as in "0,1,2,+12"."""
    shown = ",".join(map(str, indices[:_MAX_INDICES_IN_HEADER]))
    n_more = len(indices) - _MAX_INDICES_IN_HEADER
    return f"{shown},+{n_more}" if n_more > 0 else shown

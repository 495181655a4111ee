"""Reads request bodies and builds replies."""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import AsyncIterator, Sequence
from typing import cast

import orjson
from aiohttp import ClientPayloadError, web

from gguf_embed.errors import InvalidRequest, PayloadTooLarge, Unavailable
from gguf_embed.server.context import ServerContext
from gguf_embed.server.http import content_encoding
from gguf_embed.server.http.values import JsonObject, describe
from gguf_embed.types import Truncation

TRUNCATED_HEADER = "X-Gguf-Embed-Truncated"
BODY_TIMEOUT_S = 60.0
_MAX_INDICES_IN_HEADER = 50
_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

# Matches any escape as a whole, so that an escaped backslash before a "u" is not mistaken for a surrogate.
_ESCAPES = re.compile(
    rb"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.DOTALL
)


async def read_json_object(context: ServerContext, request: web.Request) -> JsonObject:
    """The decompressed body as a JSON object. Ignores the Content-Type, because `curl -d` sends that of a form.

    Raises `PayloadTooLarge`, or `InvalidRequest` with the position of the error.
    """
    limit = context.options.max_body_bytes
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit)
    try:
        raw = await _read_body(context, request)
    except TimeoutError as exc:
        raise InvalidRequest(f"the body did not arrive within {BODY_TIMEOUT_S:g} s: send it again") from exc
    except web.HTTPRequestEntityTooLarge as exc:
        raise _too_large(limit) from exc
    except (web.RequestPayloadError, ClientPayloadError) as exc:
        raise InvalidRequest("the body could not be read: it is incomplete or not encoded as its headers say") from exc
    encoding = request.headers.get("Content-Encoding")
    return parse_json_object(raw) if encoding is None else await _parse_encoded(raw, encoding, limit)


async def _parse_encoded(raw: bytes, encoding: str, limit: int) -> JsonObject:
    """Parse a body with a Content-Encoding. Plain JSON is accepted too, because some clients send "utf-8" there."""
    if not content_encoding.is_supported(encoding):
        try:
            return parse_json_object(raw)
        except InvalidRequest as exc:
            raise exc if _is_identity(encoding) else content_encoding.unsupported(encoding) from exc
    unpacked = await asyncio.to_thread(content_encoding.unpack, raw, encoding, limit)
    if len(unpacked) > limit:
        raise _too_large(limit)
    return parse_json_object(unpacked)


def _is_identity(encoding: str) -> bool:
    return encoding.strip().lower() in ("", "identity")


async def _read_body(context: ServerContext, request: web.Request) -> bytes:
    """Read the body, then count the request as in flight, so that a shutdown waits for it but not for half a body."""
    task = asyncio.current_task()
    assert task is not None
    async with asyncio.timeout(BODY_TIMEOUT_S):
        raw = await request.read()
    context.in_flight.enter(task)
    if context.in_flight.stopping.is_set():
        raise Unavailable("the server is shutting down and takes no new work")
    return raw


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body is over {limit} bytes: send less in one request, or start the server with a larger --max-body-size"
    )


def parse_json_object(raw: bytes) -> JsonObject:
    """Parse a JSON object, in UTF-8 or with a byte order mark in UTF-16.

    A lone surrogate, which JavaScript produces when it splits an emoji, becomes U+FFFD.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        value = _parse_repaired(raw, exc)
    if not isinstance(value, dict):
        raise InvalidRequest(f"the body must be a JSON object, found {describe(value)}")
    return cast(JsonObject, value)


def _without_mark(raw: bytes) -> bytes:
    """A body that begins with a byte order mark (.NET, n8n, PowerShell), as UTF-8 without it."""
    if raw.startswith(codecs.BOM_UTF8):
        return raw[len(codecs.BOM_UTF8) :]
    try:
        return raw.decode("utf-16").encode()
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"the body is not valid UTF-16: {exc.reason} at byte {exc.start}") from exc


def _parse_repaired(raw: bytes, first: orjson.JSONDecodeError) -> object:
    """Without a byte order mark and lone surrogates."""
    plain = _without_mark(raw) if raw.startswith(_BYTE_ORDER_MARKS) else raw
    repaired = _ESCAPES.sub(lambda found: b"\\ufffd" if found[2] else found[0], plain)
    if repaired == raw:
        raise _malformed(raw, first) from first
    try:
        return orjson.loads(repaired)
    except orjson.JSONDecodeError as exc:
        raise _malformed(repaired, exc) from exc


def _malformed(raw: bytes, error: orjson.JSONDecodeError) -> InvalidRequest:
    if not raw:
        return InvalidRequest("the body is empty, it must be a JSON object")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        return InvalidRequest(f"the body is not valid UTF-8: byte {exc.start} is {raw[exc.start]:#04x}")
    return InvalidRequest(f"the body is not valid JSON: {error}")


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

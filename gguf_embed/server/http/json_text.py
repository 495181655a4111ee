"""What JSON text may look like besides plain UTF-8, and the errors for what cannot be read. Pure."""

from __future__ import annotations

import codecs
import re
from typing import cast

import orjson

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.http.values import JsonObject, describe

BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

# Matches any escape as a whole, so that an escaped backslash before a "u" is not mistaken for a surrogate.
_ESCAPES = re.compile(
    rb"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.DOTALL
)


def as_object(value: object) -> JsonObject:
    """Raises `InvalidRequest` for anything but an object."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"the body must be a JSON object, found {describe(value)}")
    return cast(JsonObject, value)


def parse_object(raw: bytes | bytearray) -> JsonObject:
    """Parse a JSON object, in UTF-8 or with a byte order mark in UTF-16.

    A lone surrogate, which JavaScript produces when it splits an emoji, becomes U+FFFD.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        value = parse_repaired(raw, exc)
    return as_object(value)


def without_mark(raw: bytes | bytearray) -> bytes | bytearray:
    """A body that begins with a byte order mark (.NET, n8n, PowerShell), as UTF-8 without it."""
    if raw.startswith(codecs.BOM_UTF8):
        return raw[len(codecs.BOM_UTF8) :]
    try:
        return raw.decode("utf-16").encode()
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"the body is not valid UTF-16: {exc.reason} at byte {exc.start}") from exc


def without_lone_surrogates(raw: bytes | bytearray) -> bytes:
    """With U+FFFD for the escape of half a character, which JavaScript produces when it splits an emoji."""
    return _ESCAPES.sub(lambda found: b"\\ufffd" if found[2] else found[0], raw)


def parse_repaired(raw: bytes | bytearray, first: orjson.JSONDecodeError) -> object:
    """Parse what failed with `first`, without a byte order mark and lone surrogates."""
    plain = without_mark(raw) if raw.startswith(BYTE_ORDER_MARKS) else raw
    repaired = without_lone_surrogates(plain)
    if repaired == raw:
        raise malformed(raw, first) from first
    try:
        return orjson.loads(repaired)
    except orjson.JSONDecodeError as exc:
        raise malformed(repaired, exc) from exc


def malformed(raw: bytes | bytearray, error: orjson.JSONDecodeError) -> InvalidRequest:
    """The error for a whole body."""
    if not raw:
        return InvalidRequest("the body is empty, it must be a JSON object")
    return not_utf8(raw) or InvalidRequest(f"the body is not valid JSON: {error}")


def not_utf8(part: bytes | bytearray, begin: int = 0) -> InvalidRequest | None:
    """The error if a part of a body, which begins at byte `begin`, is not UTF-8."""
    try:
        part.decode("utf-8")
    except UnicodeDecodeError as exc:
        return InvalidRequest(f"the body is not valid UTF-8: byte {begin + exc.start} is {part[exc.start]:#04x}")
    return None

"""Compressed request bodies: gzip and deflate. Pure; aiohttp is told to leave bodies as they came.

aiohttp itself answers what it cannot decompress in plain text, before any handler, so without the request's id.
"""

from __future__ import annotations

import zlib

from gguf_embed.errors import InvalidRequest

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


def is_read(encoding: str) -> bool:
    """Whether a body with this Content-Encoding can be unpacked."""
    return _plain(encoding) in ("gzip", "x-gzip", "deflate")


def unpack(raw: bytes, encoding: str, limit: int) -> bytes:
    """What was compressed; of more than `limit` bytes the first `limit + 1`, so that no bomb is ever unpacked whole.

    Raises `InvalidRequest` for bytes that are cut off, damaged, or followed by others.
    """
    if not raw:
        return raw
    unpacker = zlib.decompressobj(_window_bits(raw, _plain(encoding)))
    try:
        unpacked = unpacker.decompress(raw, limit + 1)
    except zlib.error as exc:
        raise _damaged(encoding) from exc
    if len(unpacked) <= limit and (not unpacker.eof or unpacker.unused_data):
        raise _damaged(encoding)
    return unpacked


def not_read(encoding: str) -> InvalidRequest:
    """For a body that is no JSON as it came."""
    return InvalidRequest(
        f"Content-Encoding {encoding[:40]!r} is not read here: send gzip, deflate, or the JSON as it is"
    )


def _plain(encoding: str) -> str:
    return encoding.strip().lower()


def _window_bits(raw: bytes, encoding: str) -> int:
    """Deflate is zlib's format (RFC 9110, 8.4.1.2), but some clients send it without zlib's header."""
    if encoding != "deflate":
        return _GZIP
    has_header = raw[0] & 0x0F == zlib.DEFLATED and int.from_bytes(raw[:2], "big") % 31 == 0
    return _ZLIB if has_header else _RAW


def _damaged(encoding: str) -> InvalidRequest:
    return InvalidRequest(f"the body could not be read: it is cut off, damaged, or not {encoding.strip()[:40]}")

"""Decompresses request bodies: gzip and deflate. Pure.

aiohttp's own decompression is off, because its error replies are plain text, sent before any handler runs, and without
the request's id.
"""

from __future__ import annotations

import zlib

from gguf_embed.errors import InvalidRequest

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


def is_supported(encoding: str) -> bool:
    """Whether a body with this Content-Encoding can be decompressed."""
    return _plain(encoding) in ("gzip", "x-gzip", "deflate")


def is_identity(encoding: str) -> bool:
    """Whether this Content-Encoding means that the body is not compressed."""
    return _plain(encoding) in ("", "identity")


def unpack(raw: bytes | bytearray, encoding: str, limit: int) -> bytearray:
    """Decompress at most `limit + 1` bytes, so that a decompression bomb is never unpacked completely.

    Raises `InvalidRequest` for bytes that are incomplete, damaged, or followed by others.
    """
    if not raw:
        return bytearray()
    unpacker = zlib.decompressobj(_window_bits(raw, _plain(encoding)))
    try:
        unpacked = bytearray(unpacker.decompress(raw, limit + 1))
    except zlib.error as exc:
        raise _damaged(encoding) from exc
    if len(unpacked) <= limit and (not unpacker.eof or unpacker.unused_data):
        raise _damaged(encoding)
    return unpacked


def unsupported(encoding: str) -> InvalidRequest:
    """The error for a body with another encoding that is not plain JSON either."""
    return InvalidRequest(
        f"Content-Encoding {encoding[:40]!r} is not supported: send gzip, deflate, or uncompressed JSON"
    )


def _plain(encoding: str) -> str:
    return encoding.strip().lower()


def _window_bits(raw: bytes | bytearray, encoding: str) -> int:
    """Deflate is zlib's format (RFC 9110, 8.4.1.2), but some clients send it without zlib's header."""
    if encoding != "deflate":
        return _GZIP
    has_header = raw[0] & 0x0F == zlib.DEFLATED and int.from_bytes(raw[:2], "big") % 31 == 0
    return _ZLIB if has_header else _RAW


def _damaged(encoding: str) -> InvalidRequest:
    return InvalidRequest(f"the body could not be read: it is incomplete, damaged, or not {encoding.strip()[:40]}")

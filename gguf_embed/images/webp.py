"""The size of a WebP from its header, before anything decodes it."""

from __future__ import annotations

_LOSSY_START = b"\x9d\x01\x2a"


def is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of the canvas; None if the first chunk is not one of an image (RFC 9649)."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":  # extended: sizes minus one, of 24 bits
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L" and body[0] == 0x2F:  # lossless: sizes minus one, of 14 bits
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and body[3:6] == _LOSSY_START:  # lossy: 14 bits, and 2 for scaling, which is not applied
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return None

"""PNG and JPEG files as they come from clients: what they claim to be, checked before anything decodes them.

llama.cpp decodes with stb_image, which takes width times height times 3 bytes on a header's word alone.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from gguf_embed.errors import InvalidRequest

MAX_BYTES = 16 * 2**20
MAX_SIDE = 8192
MAX_PIXELS = 2**25
"""33.5 million: 100 MB when decoded."""

MAX_ASPECT = 100
"""A picture's longer side may be this many times the shorter one: towers were not made for strips."""

MAX_SCANS = 64
"""Parts of a progressive JPEG. Each is a pass over the whole picture, however few bytes it has; usual are 10."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_INFLATE_STEP = 2**20
_JPEG = b"\xff\xd8"
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # start of frame, of any kind
_SCAN, _END = 0xDA, 0xD9
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length


def check_picture(data: bytes, where: str) -> None:
    """Refuse what is no PNG or JPEG, damaged in its structure, or larger than the limits. `where` names it.

    Costs some microseconds. Raises `InvalidRequest`.
    """
    if len(data) > MAX_BYTES:
        raise InvalidRequest(f"{where} has {len(data):,} bytes, the limit is {MAX_BYTES:,}: send a smaller picture")
    width, height = picture_size(data, where)
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise InvalidRequest(
            f"{where} is {width} x {height} pixels, the limit is {MAX_SIDE} for a side and {MAX_PIXELS:,} in all: "
            "send it smaller, models see it at about a thousand or less"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidRequest(
            f"{where} is {width} x {height} pixels, and no side may be over {MAX_ASPECT} times the other: cut it"
        )


def picture_size(data: bytes, where: str) -> tuple[int, int]:
    """Width and height as the header tells. Raises `InvalidRequest` for anything but a PNG or JPEG."""
    if data.startswith(_PNG):
        header = next(_png_chunks(data), None)
        if header is None or header[0] != b"IHDR" or len(header[1]) != 13:
            raise _damaged(where, "PNG")
        width, height = struct.unpack(">II", header[1][:8])
        return int(width), int(height)
    if data.startswith(_JPEG):
        found = _jpeg_size(data)
        if found is None or data.count(b"\xff\xda") > MAX_SCANS:
            raise _damaged(where, "JPEG")
        return found
    raise InvalidRequest(f"{where} is neither a PNG nor a JPEG: convert it")


def check_pixels(data: bytes, where: str) -> None:
    """Inflate a PNG once, keeping nothing, so that stb_image need not find out where its data end.

    Takes as long as decoding it; a JPEG needs none of this. Raises `InvalidRequest`.
    """
    if not data.startswith(_PNG):
        return
    limit, inflated = 0, 0
    stream = zlib.decompressobj()
    for kind, content in _png_chunks(data):
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", content[:10])
            row_bytes = 1 + (width * depth * _PNG_CHANNELS.get(colour, 4) + 7) // 8
            limit = 2 * row_bytes * height + 1024  # twice: interlaced pictures have more and shorter rows
        while kind == b"IDAT" and content:
            try:
                inflated += len(stream.decompress(content, _INFLATE_STEP))
            except zlib.error as exc:
                raise _damaged(where, "PNG") from exc
            if inflated > limit:
                raise _damaged(where, "PNG")
            content = stream.unconsumed_tail
    if not stream.eof:
        raise _damaged(where, "PNG")


def _damaged(where: str, kind: str) -> InvalidRequest:
    return InvalidRequest(f"{where} is a damaged {kind}: save it again and send that")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each whole chunk."""
    place = len(_PNG)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        if place + 12 + length > len(data):
            return
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """From the first frame header; None when there is none before the first scan."""
    place = len(_JPEG)
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker in _ALONE:
            place += 2
        elif marker in (_SCAN, _END):
            return None
        elif marker in _FRAMES:
            if place + 9 > len(data):
                return None
            height, width = struct.unpack_from(">HH", data, place + 5)
            return int(width), int(height)
        else:
            place += 2 + int(struct.unpack_from(">H", data, place + 2)[0])
    return None

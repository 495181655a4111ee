"""PNG and JPEG files as they come from clients: what they claim to be, checked before anything decodes them.

llama.cpp decodes with stb_image, which takes width times height times 3 bytes on a header's word alone.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gguf_embed.errors import InvalidRequest

MAX_BYTES = 16 * 2**20
MAX_SIDE = 8192
MAX_PIXELS = 2**25
"""33.5 million: 100 MB when decoded. Of an image, and of all in one input, which are decoded together."""

MAX_ASPECT = 100
"""An image's longer side may be this many times the shorter one: towers were not made for strips."""

MAX_SCANS = 64
"""Parts of a progressive JPEG. Each is a pass over the whole image, however few bytes it has; usual are 10."""

MAX_SEGMENTS = 1000
"""Before a JPEG's frame. A camera writes 10, a color profile has 255 at most, and each may have 64 KiB."""

MAX_CHUNKS = 65_536
"""Of a PNG. Usual are 2,000 for 16 MiB."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # the standard's table 11.1
_INFLATE_STEP = 2**20
_FEED_STEP = 2**16
_JPEG = b"\xff\xd8"
_FILL = re.compile(rb"\xff+")
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # start of frame, of any kind
_READ_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive: what stb_image decodes
_SCAN, _END = 0xDA, 0xD9
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length


def check_image(data: bytes, where: str) -> None:
    """Refuse what is no PNG or JPEG, damaged in its structure, or larger than the limits. `where` names it.

    Costs some microseconds, milliseconds for the largest. Raises `InvalidRequest`.
    """
    if len(data) > MAX_BYTES:
        raise InvalidRequest(f"{where} has {len(data):,} bytes, the limit is {MAX_BYTES:,}: send a smaller image")
    width, height = image_size(data, where)
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise InvalidRequest(
            f"{where} is {width} x {height} pixels, the limit is {MAX_SIDE} for a side and {MAX_PIXELS:,} in all: "
            "send it smaller, models see it at about a thousand or less"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidRequest(
            f"{where} is {width} x {height} pixels, and no side may be over {MAX_ASPECT} times the other: cut it"
        )


def image_size(data: bytes, where: str) -> tuple[int, int]:
    """Width and height as the header tells. Raises `InvalidRequest` for anything but a PNG or JPEG."""
    if data.startswith(_PNG):
        header = next(_png_chunks(data), None)
        if header is None or header[0] != b"IHDR" or len(header[1]) != 13:
            raise _damaged(where, "PNG")
        width, height, depth, color = struct.unpack_from(">IIBB", header[1])
        if depth not in _PNG_DEPTHS.get(color, ()):
            raise InvalidRequest(
                f"{where} is a PNG with {depth} bits and color type {color}, which do not exist together: save it "
                "again and send that"
            )
        return int(width), int(height)
    if data.startswith(_JPEG):
        frame = _jpeg_frame(data)
        if frame is None:
            raise _damaged(where, "JPEG")
        return _check_jpeg(data, frame, where)
    raise InvalidRequest(f"{where} is neither a PNG nor a JPEG: convert it")


def check_together(files: Iterable[bytes], where: str) -> None:
    """Refuse the images of one input that are larger together than one may be. Raises `InvalidRequest`."""
    sizes = [image_size(data, where) for data in files]
    n_pixels = sum(width * height for width, height in sizes)
    if n_pixels > MAX_PIXELS:
        raise InvalidRequest(
            f"{where} has images of {n_pixels:,} pixels together, the limit for one input is {MAX_PIXELS:,}: send "
            "them smaller, models see each at about a million or less"
        )


def check_pixels(data: bytes, where: str) -> None:
    """Inflate a PNG once, keeping nothing, so that stb_image need not find out where its data end.

    Takes as long as decoding it; a JPEG needs none of this. Raises `InvalidRequest`.
    """
    if not data.startswith(_PNG):
        return
    limit = _inflated_limit(data, where)
    inflated = 0
    stream = zlib.decompressobj()
    for number, (kind, content) in enumerate(_png_chunks(data)):
        if number == MAX_CHUNKS or (kind == b"IHDR") != (number == 0):
            raise _damaged(where, "PNG")
        if kind != b"IDAT":
            continue
        try:
            for piece in _inflate(stream, content):
                inflated += piece
                if inflated > limit:
                    raise _damaged(where, "PNG")
        except zlib.error as exc:
            raise _damaged(where, "PNG") from exc
    if not stream.eof:
        raise _damaged(where, "PNG")


def _inflated_limit(data: bytes, where: str) -> int:
    """Bytes that its pixels may have."""
    width, height = image_size(data, where)
    depth, color = data[24], data[25]  # of IHDR, which `image_size` found in its place
    row_bytes = 1 + (width * depth * _PNG_CHANNELS[color] + 7) // 8
    return 2 * row_bytes * height + 1024  # twice: interlaced images have more and shorter rows


def _inflate(stream: zlib._Decompress, content: bytes) -> Iterator[int]:
    """The number of bytes that each step gives: small steps in, because zlib copies what it has not read yet.

    What follows the stream's end is not read: zlib would keep it, and copy it with every piece.
    """
    for at in range(0, len(content), _FEED_STEP):
        rest = content[at : at + _FEED_STEP]
        while rest and not stream.eof:
            yield len(stream.decompress(rest, _INFLATE_STEP))
            rest = stream.unconsumed_tail


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


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a JPEG's frame header tells."""

    marker: int
    precision: int
    width: int
    height: int
    n_colours: int
    end: int  # where its segment ends


def _check_jpeg(data: bytes, frame: _Frame, where: str) -> tuple[int, int]:
    if frame.marker not in _READ_FRAMES or frame.precision != 8 or frame.n_colours not in (1, 3, 4):
        raise InvalidRequest(
            f"{where} is a JPEG of a kind that is not read: save it as a baseline or progressive JPEG of 8 bits"
        )
    n_scans = data.count(bytes((0xFF, _SCAN)))
    if n_scans > MAX_SCANS:
        raise InvalidRequest(
            f"{where} is a JPEG of {n_scans} scans, the limit is {MAX_SCANS}: save it as a baseline JPEG or a PNG"
        )
    colors = set(data[frame.end - 3 * frame.n_colours : frame.end : 3])
    if not colors <= _scanned(data, frame.end) or data.find(bytes((0xFF, _END)), frame.end) < 0:
        raise _damaged(where, "JPEG")
    return frame.width, frame.height


def _scanned(data: bytes, start: int) -> set[int]:
    """The colors that have a scan. stb_image gives for others whatever was in the memory before."""
    found: set[int] = set()
    at = data.find(bytes((0xFF, _SCAN)), start)
    for _ in range(MAX_SCANS + 1):
        if at < 0 or at + 5 > len(data):
            break
        found.update(data[at + 5 : at + 5 + 2 * data[at + 4] : 2])
        at = data.find(bytes((0xFF, _SCAN)), at + 2)
    return found


def _jpeg_frame(data: bytes) -> _Frame | None:
    """The first frame header; None when there is none before the first scan, or not within `MAX_SEGMENTS`."""
    place = len(_JPEG)
    for _ in range(MAX_SEGMENTS):
        fill = _FILL.match(data, place)  # the marker's 0xFF, and any number before it
        if fill is None or fill.end() + 3 > len(data):
            return None
        marker, place = data[fill.end()], fill.end() + 1
        if marker in (_SCAN, _END):
            return None
        if marker in _FRAMES:
            if place + 8 > len(data):
                return None
            length, precision, height, width, n_colours = struct.unpack_from(">HBHHB", data, place)
            end = place + length
            return _Frame(marker, precision, width, height, n_colours, end) if length == 8 + 3 * n_colours else None
        if marker not in _ALONE:
            place += int(struct.unpack_from(">H", data, place)[0])
    return None

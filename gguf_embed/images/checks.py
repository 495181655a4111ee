"""Checks PNG, JPEG and WebP files from clients before anything decodes them.

llama.cpp decodes with stb_image, which allocates width x height x 3 bytes for whatever size a header claims.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gguf_embed.errors import InvalidRequest
from gguf_embed.images.webp import is_webp, webp_size

MAX_BYTES = 16 * 2**20
MAX_SIDE = 8192
MAX_PIXELS = 2**25
"""33.5 million, 100 MB when decoded. For one image, and for all images of one input, which are decoded together."""

MAX_ASPECT = 100
"""An image's longer side may be this many times the shorter one: vision towers are not made for narrow strips."""

MAX_SCANS = 64
"""Scans of a progressive JPEG, usually about 10. Each costs a pass over the whole image, however few bytes it has."""

MAX_SEGMENTS = 1000
"""Segments before a JPEG's frame header, of up to 64 KiB each. A camera writes 10, a color profile takes up to 255."""

MAX_CHUNKS = 65_536
"""Chunks of a PNG. A file of 16 MiB usually has 2,000."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # the standard's table 11.1
_INFLATE_STEP = 2**20
_FEED_STEP = 2**16
_JPEG = b"\xff\xd8"
_FILL = re.compile(rb"\xff+")
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # start of frame, of any kind
_SUPPORTED_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive: what stb_image decodes
_SCAN, _END = 0xDA, 0xD9
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length


def check_image(data: bytes, where: str) -> None:
    """Refuse anything but a well-formed PNG, JPEG or WebP within the limits. `where` names the image in errors.

    Takes microseconds, milliseconds for the largest files. Raises `InvalidRequest`.
    """
    if len(data) > MAX_BYTES:
        raise InvalidRequest(f"{where} has {len(data):,} bytes, the limit is {MAX_BYTES:,}: send a smaller image")
    width, height = image_size(data, where)
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise InvalidRequest(
            f"{where} is {width} x {height} pixels, the limit is {MAX_SIDE} per side and {MAX_PIXELS:,} in all: "
            "resize it; models downscale images to about 1,000 pixels a side"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidRequest(
            f"{where} is {width} x {height} pixels, the limit for the longer side is {MAX_ASPECT} times the shorter: "
            "crop it"
        )


def image_size(data: bytes, where: str) -> tuple[int, int]:
    """Width and height from the file's header. Raises `InvalidRequest` for anything but a PNG, JPEG or WebP."""
    if data.startswith(_PNG):
        header = next(_png_chunks(data), None)
        if header is None or header[0] != b"IHDR" or len(header[1]) != 13:
            raise _damaged(where, "PNG")
        width, height, depth, color = struct.unpack_from(">IIBB", header[1])
        if depth not in _PNG_DEPTHS.get(color, ()):
            raise InvalidRequest(
                f"{where} is a PNG with bit depth {depth} and color type {color}, which the format does not allow "
                "together: save it again"
            )
        return int(width), int(height)
    if data.startswith(_JPEG):
        jpeg = _read_jpeg_header(data)
        if jpeg is None:
            raise _damaged(where, "JPEG")
        _check_jpeg(data, jpeg, where)
        return jpeg.width, jpeg.height
    if is_webp(data):
        size = webp_size(data)
        if size is None:
            raise _damaged(where, "WebP")
        return size
    raise InvalidRequest(f"{where} is neither a PNG nor a JPEG: convert it to one of them")


def check_together(files: Iterable[bytes], where: str) -> None:
    """Refuse the images of one input if they have more pixels together than one image may. Raises `InvalidRequest`."""
    sizes = [image_size(data, where) for data in files]
    n_pixels = sum(width * height for width, height in sizes)
    if n_pixels > MAX_PIXELS:
        raise InvalidRequest(
            f"{where} has images of {n_pixels:,} pixels together, the limit for one input is {MAX_PIXELS:,}: resize "
            "them; models downscale each to about a million pixels"
        )


def check_pixels(data: bytes, where: str) -> None:
    """Inflate a PNG once and discard the result, so that stb_image never meets compressed data of the wrong length.

    Takes as long as decoding it. A JPEG does not need this. Raises `InvalidRequest`.
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
    """The most bytes that the pixels of this PNG may inflate to."""
    width, height = image_size(data, where)
    depth, color = data[24], data[25]  # in IHDR, which `image_size` has checked
    row_bytes = 1 + (width * depth * _PNG_CHANNELS[color] + 7) // 8
    return 2 * row_bytes * height + 1024  # twice: interlaced images have more and shorter rows


def _inflate(stream: zlib._Decompress, content: bytes) -> Iterator[int]:
    """Yield the number of bytes that each step inflates to.

    The input goes in small steps, because zlib copies what it has not read yet. Nothing is fed after the end of the
    stream: zlib would keep it, and copy it with every step.
    """
    for at in range(0, len(content), _FEED_STEP):
        rest = content[at : at + _FEED_STEP]
        while rest and not stream.eof:
            yield len(stream.decompress(rest, _INFLATE_STEP))
            rest = stream.unconsumed_tail


def _damaged(where: str, kind: str) -> InvalidRequest:
    return InvalidRequest(f"{where} is a damaged {kind}: save it again")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of each complete chunk."""
    position = len(_PNG)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        if position + 12 + length > len(data):
            return
        yield data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        position += 12 + length


@dataclass(frozen=True, slots=True)
class _JpegHeader:
    """A JPEG's frame header (start of frame)."""

    marker: int
    precision: int
    width: int
    height: int
    n_components: int
    end: int  # where its segment ends


def _check_jpeg(data: bytes, header: _JpegHeader, where: str) -> None:
    if header.marker not in _SUPPORTED_FRAMES or header.precision != 8 or header.n_components not in (1, 3, 4):
        raise InvalidRequest(
            f"{where} is a JPEG with an unsupported encoding: save it as a baseline or progressive JPEG of 8 bits"
        )
    n_scans = data.count(bytes((0xFF, _SCAN)))
    if n_scans > MAX_SCANS:
        raise InvalidRequest(
            f"{where} is a JPEG of {n_scans} scans, the limit is {MAX_SCANS}: save it as a baseline JPEG or a PNG"
        )
    components = set(data[header.end - 3 * header.n_components : header.end : 3])
    has_end = data.find(bytes((0xFF, _END)), header.end) >= 0
    if not has_end or not components <= _scanned_components(data, header.end):
        raise _damaged(where, "JPEG")


def _scanned_components(data: bytes, start: int) -> set[int]:
    """Ids of the color components that have a scan. stb_image fills the others with uninitialized memory."""
    found: set[int] = set()
    at = data.find(bytes((0xFF, _SCAN)), start)
    for _ in range(MAX_SCANS + 1):
        if at < 0 or at + 5 > len(data):
            break
        found.update(data[at + 5 : at + 5 + 2 * data[at + 4] : 2])
        at = data.find(bytes((0xFF, _SCAN)), at + 2)
    return found


def _read_jpeg_header(data: bytes) -> _JpegHeader | None:
    """The first frame header; None if there is none before the first scan or within `MAX_SEGMENTS`."""
    position = len(_JPEG)
    for _ in range(MAX_SEGMENTS):
        fill = _FILL.match(data, position)  # the marker's 0xFF, and any number of them before it
        if fill is None or fill.end() + 3 > len(data):
            return None
        marker, position = data[fill.end()], fill.end() + 1
        if marker in (_SCAN, _END):
            return None
        if marker in _FRAME_MARKERS:
            return _parse_frame(data, marker, position)
        if marker not in _ALONE:
            position += int(struct.unpack_from(">H", data, position)[0])
    return None


def _parse_frame(data: bytes, marker: int, position: int) -> _JpegHeader | None:
    """The frame header whose length field is at `position`; None when it is cut off or of the wrong length."""
    if position + 8 > len(data):
        return None
    length, precision, height, width, n_components = struct.unpack_from(">HBHHB", data, position)
    if length != 8 + 3 * n_components:
        return None
    return _JpegHeader(marker, precision, width, height, n_components, position + length)

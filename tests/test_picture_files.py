"""What is refused before anything decodes a picture."""

import struct
import zlib

import numpy as np
import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.picture_files import MAX_BYTES, MAX_SCANS, check_picture, check_pixels, picture_size
from tests.vision_models import noise, png, png_chunk


def png_of(width, height, data=b"", colour=2):
    """A PNG that claims a size, whatever it holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def jpeg_of(width, height, before=b"", frame=0xC0):
    return b"\xff\xd8" + before + struct.pack(">BBHBHHB", 0xFF, frame, 17, 8, height, width, 3) + bytes(9)


APP = b"\xff\xe1" + struct.pack(">H", 10) + b"\xff\xc0EXIF.."  # a marker inside a segment is no marker


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png(noise(1, size=20)), (20, 20)),
        (png_of(3, 7), (3, 7)),
        (jpeg_of(640, 480), (640, 480)),
        (jpeg_of(640, 480, frame=0xC2), (640, 480)),
        (jpeg_of(1, 2, before=APP + b"\xff\xff\xff\xdb\x00\x04\x00\x00"), (1, 2)),
    ],
)
def test_the_size_is_read_off_the_header(data, size):
    assert picture_size(data, "x") == size


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "neither a PNG nor a JPEG"),
        (b"GIF89a\x01\x00\x01\x00", "neither a PNG nor a JPEG"),
        (b"RIFF\x00\x00\x00\x00WEBP", "neither a PNG nor a JPEG"),
        (b"ID3\x03sound", "neither a PNG nor a JPEG"),
        (b"\x89PNG\r\n\x1a\n", "damaged PNG"),
        (png(noise(1))[:30], "damaged PNG"),
        (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IDAT", b"x" * 13), "damaged PNG"),
        (b"\xff\xd8", "damaged JPEG"),
        (b"\xff\xd8\xff\xda\x00\x04\x00\x00", "damaged JPEG"),
        (b"\xff\xd8\x00\x00\x00\x00", "damaged JPEG"),
        (jpeg_of(9, 9)[:8], "damaged JPEG"),
        (b"\xff\xd8\xff\xe1\x00\x00\xff\xe1\x00\x00", "damaged JPEG"),
        (jpeg_of(9, 9) + b"\xff\xda" * (MAX_SCANS + 1), "damaged JPEG"),
        (png_of(0, 5), "0 x 5 pixels"),
        (png_of(8193, 200), "8193 x 200 pixels, the limit is 8192"),
        (png_of(2**31, 2**31), "the limit is 8192"),
        (jpeg_of(8000, 8000), "8000 x 8000 pixels, the limit is 8192 for a side and 33,554,432 in all"),
        (png_of(101, 1), "no side may be over 100 times the other"),
        (png_of(2, 201), "no side may be over 100 times the other"),
        (png(noise(1)) + bytes(MAX_BYTES), "the limit is 16,777,216"),
    ],
)
def test_what_cannot_be_a_picture_for_us_is_refused_with_the_reason(data, problem):
    with pytest.raises(InvalidRequest, match="^here .*" + problem):
        check_picture(data, "here")


@pytest.mark.parametrize("size", [(8192, 4096), (100, 1), (1, 100), (1, 1)])
def test_the_largest_and_the_narrowest_are_taken(size):
    check_picture(png_of(*size), "here")


@pytest.mark.parametrize(
    "data",
    [
        png_of(16, 16, zlib.compress(bytes(50_000_000))),  # inflates far beyond its size
        png_of(16, 16, zlib.compress(bytes(16 * 49))[:-8]),  # ends too early
        png_of(16, 16, b"no deflate stream"),
        png_of(16, 16),
    ],
)
def test_a_png_whose_data_do_not_fit_its_size_is_refused(data):
    check_picture(data, "here")
    with pytest.raises(InvalidRequest, match="here is a damaged PNG"):
        check_pixels(data, "here")


@pytest.mark.parametrize("data", [png(noise(1)), png(np.zeros((300, 400, 3), np.uint8)), jpeg_of(3, 3)])
def test_a_sound_picture_passes(data):
    check_pixels(data, "here")

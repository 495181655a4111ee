"""Images that are refused before anything decodes them."""

import struct
import time
import zlib

import numpy as np
import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.images.checks import (
    MAX_BYTES,
    MAX_CHUNKS,
    MAX_SCANS,
    MAX_SEGMENTS,
    check_image,
    check_pixels,
    check_together,
    image_size,
)
from tests.vision_models import noise, png, png_chunk


def png_of(width, height, data=b"", color=2, depth=8):
    """A PNG that claims a size, whatever it holds."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def jpeg_of(width, height, before=b"", frame=0xC0, precision=8, n_components=3, scanned=None):
    colors = range(1, n_components + 1)
    header = struct.pack(">BBHBHHB", 0xFF, frame, 8 + 3 * n_components, precision, height, width, n_components)
    header += b"".join(bytes((color, 0x11, 0)) for color in colors)
    return b"\xff\xd8" + before + header + scan_of(*colors if scanned is None else scanned) + b"\xff\xd9"


def scan_of(*colors):
    listed = b"".join(bytes((color, 0)) for color in colors)
    return struct.pack(">BBHB", 0xFF, 0xDA, 6 + 2 * len(colors), len(colors)) + listed + b"\0\x3f\0" + b"pixels"


APP = b"\xff\xe1" + struct.pack(">H", 10) + b"\xff\xc0EXIF.."  # a marker inside a segment is no marker


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png(noise(1, size=20)), (20, 20)),
        (png_of(3, 7), (3, 7)),
        (jpeg_of(640, 480), (640, 480)),
        (jpeg_of(640, 480, frame=0xC2), (640, 480)),
        (jpeg_of(5, 6, before=b"\xff" * 1000), (5, 6)),
        (jpeg_of(5, 6, frame=0xC1, n_components=1), (5, 6)),
        (jpeg_of(5, 6, n_components=4), (5, 6)),
        (jpeg_of(5, 6, scanned=(1,))[:-2] + scan_of(2) + scan_of(3, 1) + b"\xff\xd9", (5, 6)),
        (png_of(5, 6, color=0, depth=1), (5, 6)),
        (png_of(5, 6, color=3, depth=4), (5, 6)),
        (png_of(5, 6, color=6, depth=16), (5, 6)),
        (jpeg_of(1, 2, before=APP + b"\xff\xff\xff\xdb\x00\x04\x00\x00"), (1, 2)),
    ],
)
def test_the_size_is_read_off_the_header(data, size):
    assert image_size(data, "x") == size


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "neither a PNG nor a JPEG"),
        (b"GIF89a\x01\x00\x01\x00", "neither a PNG nor a JPEG"),
        (b"RIFF\x00\x00\x00\x00WEBP", "damaged WebP"),
        (b"ID3\x03sound", "neither a PNG nor a JPEG"),
        (b"\x89PNG\r\n\x1a\n", "damaged PNG"),
        (png(noise(1))[:30], "damaged PNG"),
        (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IDAT", b"x" * 13), "damaged PNG"),
        (b"\xff\xd8", "damaged JPEG"),
        (b"\xff\xd8\xff\xda\x00\x04\x00\x00", "damaged JPEG"),
        (b"\xff\xd8\x00\x00\x00\x00", "damaged JPEG"),
        (jpeg_of(9, 9)[:8], "damaged JPEG"),
        (b"\xff\xd8\xff\xe1\x00\x00\xff\xe1\x00\x00", "damaged JPEG"),
        (jpeg_of(9, 9, before=b"\xff\xd0" * MAX_SEGMENTS), "damaged JPEG"),
        (jpeg_of(9, 9)[:-2], "damaged JPEG"),  # cut off
        (jpeg_of(9, 9, scanned=()), "damaged JPEG"),
        (jpeg_of(9, 9, scanned=(1, 3)), "damaged JPEG"),
        (jpeg_of(9, 9)[:21] + b"\xff\xd9", "damaged JPEG"),
        (jpeg_of(9, 9) + b"\xff\xda" * MAX_SCANS, "a JPEG of 65 scans, the limit is 64"),
        (jpeg_of(9, 9, frame=0xC3), "a JPEG with an unsupported encoding"),  # lossless
        (jpeg_of(9, 9, frame=0xC9), "a JPEG with an unsupported encoding"),  # arithmetic coding
        (jpeg_of(9, 9, precision=12), "a JPEG with an unsupported encoding"),
        (jpeg_of(9, 9, n_components=2), "a JPEG with an unsupported encoding"),
        (png_of(9, 9, depth=255), "a PNG with bit depth 255 and color type 2"),
        (png_of(9, 9, depth=4), "a PNG with bit depth 4 and color type 2"),
        (png_of(9, 9, color=5), "a PNG with bit depth 8 and color type 5"),
        (png_of(0, 5), "0 x 5 pixels"),
        (png_of(8193, 200), "8193 x 200 pixels, the limit is 8192"),
        (png_of(2**31, 2**31), "the limit is 8192"),
        (jpeg_of(8000, 8000), "8000 x 8000 pixels, the limit is 8192 per side and 33,554,432 in all"),
        (png_of(101, 1), "101 x 1 pixels, .* 100 times"),
        (png_of(2, 201), "2 x 201 pixels, .* 100 times"),
        (png(noise(1)) + bytes(MAX_BYTES), "the limit is 16,777,216"),
    ],
)
def test_an_unusable_image_is_refused_with_the_reason(data, problem):
    with pytest.raises(InvalidRequest, match="^here .*" + problem):
        check_image(data, "here")


@pytest.mark.parametrize("size", [(8192, 4096), (100, 1), (1, 100), (1, 1)])
def test_the_largest_and_the_narrowest_are_accepted(size):
    data = png_of(*size)
    check_image(data, "here")
    assert image_size(data, "here") == size


@pytest.mark.parametrize(
    "data",
    [
        png_of(16, 16, zlib.compress(bytes(50_000_000))),  # inflates far beyond its size
        png_of(16, 16, zlib.compress(bytes(16 * 49))[:-8]),  # ends too early
        png_of(16, 16, b"no deflate stream"),
        png_of(16, 16),
        png(noise(1))[:-12] + png_chunk(b"IHDR", b"\0"),  # a second header, which is too short to read
        png(noise(1)) + png(noise(1))[8:],  # two images
        png(noise(1)) + png_chunk(b"tEXt", b"") * MAX_CHUNKS,
    ],
)
def test_a_png_whose_data_do_not_fit_its_size_is_refused(data):
    check_image(data, "here")
    with pytest.raises(InvalidRequest, match="here is a damaged PNG"):
        check_pixels(data, "here")


@pytest.mark.parametrize("data", [png(noise(1)), png(np.zeros((300, 400, 3), np.uint8)), jpeg_of(3, 3)])
def test_a_sound_image_is_accepted(data):
    check_pixels(data, "here")


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\xd0", b"\xff\xe1\x00\x02"])
def test_a_file_made_of_markers_alone_costs_no_time(filling):
    data = b"\xff\xd8" + filling * ((MAX_BYTES - 100) // len(filling))
    began_s = time.thread_time()
    with pytest.raises(InvalidRequest, match="here is a damaged JPEG"):
        check_image(data, "here")
    assert time.thread_time() - began_s < 0.3  # a step in Python for each took 1.4 s and more


@pytest.mark.parametrize(
    "data",
    [
        png_of(16, 16, zlib.compress(bytes(16 * 49))) + png_chunk(b"IDAT", bytes(500)) * 30_000,
        png_of(1024, 1024, zlib.compress(bytes(1024 * 3073)) + bytes(15_000_000)),
    ],
)
def test_what_follows_the_end_of_the_stream_is_not_read(data):
    began_s = time.thread_time()
    check_pixels(data, "here")
    assert time.thread_time() - began_s < 0.5  # kept and copied by zlib with every chunk it took 20 s and more


def test_images_of_one_input_have_one_limit_together():
    half = png_of(4096, 4096)
    check_together([half, half], "here")
    with pytest.raises(InvalidRequest, match=r"^here has images of 33,554,433 pixels together, the limit"):
        check_together([half, png_of(1, 1), half], "here")

"""Pictures as image towers read them. Vectors are compared with the original's in test_towers.py."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.images.checks import image_size
from gguf_embed.images.pixels import PixelForm, read_patches

Image = pytest.importorskip("PIL.Image")

PLAIN = PixelForm(size=8, patch_size=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), resize="crop")


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, kind, **options)
    return file.getvalue()


def gradient(height, width):
    """Red grows to the right, green downwards."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), np.zeros_like(x)], axis=-1)


def test_patches_come_row_by_row_and_colors_first():
    picture = gradient(8, 8)
    found = read_patches(encoded(picture), PLAIN, "x")
    assert found.shape == (4, 48)
    upper_right = found[1].reshape(3, 4, 4)
    np.testing.assert_allclose(upper_right[0], picture[:4, 4:, 0] / 255, atol=1e-6)
    np.testing.assert_allclose(upper_right[1], picture[:4, 4:, 1] / 255, atol=1e-6)


def test_numbers_are_scaled_by_mean_and_deviation():
    white = encoded(np.full((8, 8, 3), 255))
    form = replace(PLAIN, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    np.testing.assert_allclose(read_patches(white, form, "x")[0].reshape(3, -1)[:, 0], [1, 3, 0.5])


def test_the_middle_is_cut_out_or_the_whole_is_squashed():
    wide = encoded(gradient(8, 24))
    cropped, squashed = (read_patches(wide, replace(PLAIN, resize=way), "x") for way in ("crop", "squash"))
    assert cropped[:, :16].min() > 0.25
    assert cropped[:, :16].max() < 0.75
    assert squashed[:, :16].min() < 0.1
    assert squashed[:, :16].max() > 0.9


def test_a_picture_is_turned_as_its_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    turned = read_patches(encoded(gradient(8, 8), exif=exif), PLAIN, "x")
    expected = read_patches(encoded(np.rot90(gradient(8, 8), -1)), PLAIN, "x")
    np.testing.assert_array_equal(turned, expected)


def test_what_is_transparent_is_white():
    picture = np.zeros((8, 8, 4))
    picture[:, 4:, 3] = 255
    found = read_patches(encoded(picture), PLAIN, "x")
    assert (found[0].min(), found[1].max()) == (1, 0)


def test_patches_that_do_not_fill_the_picture_leave_its_edge():
    assert read_patches(encoded(gradient(8, 8)), replace(PLAIN, size=10), "x").shape == (4, 48)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_narrow_strip_is_read_within_the_limit_and_refused_beyond(kind):
    assert read_patches(encoded(gradient(4, 400), kind), PLAIN, "x").shape == (4, 48)
    with pytest.raises(InvalidRequest, match="100 times the shorter"):
        read_patches(encoded(gradient(4, 404), kind), PLAIN, "x")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_of_the_library_are_not_decoded(kind):
    with pytest.raises(InvalidRequest, match="neither a PNG nor a JPEG"):
        read_patches(encoded(gradient(8, 8), kind), PLAIN, "x")


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 95}, {"lossless": True, "exif": b"Exif\0\0II*\0"}])
def test_a_webp_is_read_as_the_same_picture(options):
    picture = gradient(30, 50)
    webp = encoded(picture, "WEBP", **options)
    assert image_size(webp, "x") == (50, 30)
    found, expected = read_patches(webp, PLAIN, "x"), read_patches(encoded(picture), PLAIN, "x")
    np.testing.assert_allclose(found, expected, atol=0 if "lossless" in options else 0.1)


def test_a_webp_over_the_limit_is_refused_by_its_header():
    extended = bytearray(encoded(gradient(30, 50), "WEBP", lossless=True, exif=b"Exif\0\0II*\0"))
    extended[24:27] = (16_000).to_bytes(3, "little")
    with pytest.raises(InvalidRequest, match="16001 x 30 pixels"):
        read_patches(bytes(extended), PLAIN, "x")


def test_no_damaged_file_is_more_than_an_error():
    """Bytes changed at random: each file is read, or refused as a damaged one."""
    random = np.random.default_rng(0)
    n_refused = 0
    for kind in ("PNG", "JPEG", "WEBP"):
        whole = encoded(random.integers(0, 256, (40, 60, 3)), kind)
        for _ in range(150):
            data = bytearray(whole)
            for at in random.integers(2, len(data), 4):
                data[at] = random.integers(0, 256)
            try:
                assert np.isfinite(read_patches(bytes(data[: random.integers(60, len(data) + 1)]), PLAIN, "x")).all()
            except InvalidRequest:
                n_refused += 1
    assert n_refused > 100

"""Normalizing, cutting and quantizing rows, against numpy written another way and others' documented scales."""

import json
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.types import DENSE, SCORES, TOKENS
from gguf_embed.vectors import INT8_SCALE, Rows, finish, normalize, quantize

ROWS = np.array([[3.0, -4.0, 0.0], [1e-30, 2e-30, -2e-30], [0.0, 0.0, 0.0]], np.float32)


@pytest.mark.parametrize("p", [1, 2, 3, 7])
def test_a_p_norm_becomes_one(p):
    scaled = normalize(ROWS[:1], p)
    assert np.isclose(np.linalg.norm(scaled[0].astype(np.float64), ord=p), 1.0, rtol=1e-6)
    assert scaled.dtype == np.float32


def test_minus_one_leaves_rows_as_they_are():
    np.testing.assert_array_equal(normalize(ROWS, -1), ROWS)


def test_zero_scales_the_largest_magnitude_to_the_int16_range():
    np.testing.assert_allclose(normalize(ROWS[:1], 0), [[24570.0, -32760.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 2**31 - 1])
def test_tiny_rows_keep_their_direction_and_zeros_stay_zeros(kind):
    scaled = normalize(ROWS, kind)
    assert np.isfinite(scaled).all()
    np.testing.assert_allclose(scaled[1] / scaled[1, 1], [0.5, 1.0, -1.0], rtol=1e-6)
    np.testing.assert_array_equal(scaled[2], 0.0)


@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e38])
def test_the_smallest_and_largest_float32_get_length_1(size):
    scaled = normalize(np.full((1, 384), size, np.float32), 2)
    np.testing.assert_allclose(np.linalg.norm(scaled), 1.0, rtol=1e-6)


def test_cutting_comes_before_normalizing():
    np.testing.assert_allclose(finish(ROWS[:1], 2, 1), [[1.0]])
    np.testing.assert_allclose(finish(ROWS[:1], 2, None), [[0.6, -0.8, 0.0]], rtol=1e-6)
    assert finish(ROWS, 2, 2).flags.c_contiguous


@pytest.mark.parametrize("dtype", ["int8", "uint8", "binary", "ubinary"])
def test_small_numbers_are_those_of_sentence_transformers(dtype):
    """data/make_quantize_reference.py made them, with the ranges of the fixed scale and 21 dimensions."""
    reference = json.loads((Path(__file__).parent / "data" / "quantized.json").read_text("utf-8"))
    found = quantize(np.array(reference["rows"], np.float32), dtype)
    assert found.dtype == (np.int8 if dtype in ("int8", "binary") else np.uint8)
    assert found.shape == (8, 3 if "binary" in dtype else 21)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, reference[dtype])


@pytest.mark.parametrize(
    ("number", "int8", "uint8"),
    [
        (0.0, 0, 128),
        (-0.0, 0, 128),
        (1.0, 127, 255),
        (-1.0, -127, 1),
        (0.25, 32, 160),
        (1.5, 127, 255),
        (-9.0, -127, 1),
    ],
)
def test_the_scale_is_127_levels_and_what_is_beyond_one_is_one(number, int8, uint8):
    rows = np.array([[number]], np.float32)
    assert (quantize(rows, "int8")[0, 0], quantize(rows, "uint8")[0, 0]) == (int8, uint8)


def test_a_number_is_its_level_over_127_within_half_a_level():
    rows = normalize(np.random.default_rng(1).standard_normal((50, 384)).astype(np.float32), 2)
    back = quantize(rows, "int8") / np.float32(INT8_SCALE)
    assert np.abs(back - rows).max() <= 0.5 / INT8_SCALE + 1e-7
    lengths = np.linalg.norm(back, axis=1)
    assert ((back * rows).sum(axis=1) / lengths).min() > 0.998


def test_the_last_byte_of_a_row_of_bits_is_filled_with_zeros():
    row = np.array([[1, -1, 1, 0, 0, 0, 0, -1, 1, 1]], np.float32)
    assert quantize(row, "ubinary").tolist() == [[0b10100000, 0b11000000]]
    assert quantize(row, "binary").tolist() == [[0b10100000 - 128, 0b11000000 - 128]]


def test_token_rows_are_copies_so_that_none_keeps_the_batch_alive():
    rows = Rows.per_token(np.zeros((3, 2), np.float32), [1, 2])
    assert all(rows.part(index).matrix.base is None for index in range(len(rows)))


def test_parts_joined_are_the_whole_and_a_missing_one_has_no_rows():
    rows = Rows.per_token(np.arange(6, dtype=np.float32).reshape(3, 2), [1, 2])
    whole = Rows.join([rows.part(0), None, rows.part(1)])
    np.testing.assert_array_equal(whole.matrix, rows.matrix)
    assert (whole.kind, whole.offsets, len(whole)) == (TOKENS, (0, 1, 1, 3), 3)


def test_dense_rows_are_normalized_and_token_rows_are_not():
    matrix = np.full((2, 2), 3.0, np.float32)
    dense = Rows.one_each(DENSE, matrix).finished(2, None)
    np.testing.assert_allclose(np.linalg.norm(dense.matrix, axis=1), 1.0, rtol=1e-6)
    tokens = Rows.per_token(matrix, [2]).finished(2, 1)
    np.testing.assert_array_equal(tokens.matrix, matrix[:, :1])


@pytest.mark.parametrize(
    ("kind", "rows", "fault"),
    [
        (DENSE, [[1.0, np.inf], [1.0, 2.0]], "not finite"),
        (TOKENS, [[1.0, np.nan], [1.0, 2.0]], "not finite"),
        (SCORES, [[-np.inf], [1.0]], "not finite"),
        (DENSE, [[1.0, 2.0], [0.0, -0.0]], "zeros"),
        (DENSE, [[1.0, 2.0], [0.0, -1e-40]], ""),
        (DENSE, [[1e30, 0.0], [-1e30, 0.0]], ""),
        (TOKENS, [[1.0, 2.0], [0.0, 0.0]], ""),
        (SCORES, [[0.0], [0.0]], ""),
    ],
)
def test_what_is_no_answer_shows(kind, rows, fault):
    found = Rows.one_each(kind, np.array(rows, np.float32)).fault()
    assert bool(found) == bool(fault), found
    assert found.endswith(fault)

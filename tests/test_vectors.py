"""Normalising and cutting rows, against numpy written another way and llama.cpp's documented scales."""

import numpy as np
import pytest

from gguf_embed.vectors import finish, normalise

ROWS = np.array([[3.0, -4.0, 0.0], [1e-30, 2e-30, -2e-30], [0.0, 0.0, 0.0]], np.float32)


@pytest.mark.parametrize("p", [1, 2, 3, 7])
def test_a_p_norm_becomes_one(p):
    scaled = normalise(ROWS[:1], p)
    assert np.isclose(np.linalg.norm(scaled[0].astype(np.float64), ord=p), 1.0, rtol=1e-6)
    assert scaled.dtype == np.float32


def test_minus_one_leaves_rows_as_they_are():
    np.testing.assert_array_equal(normalise(ROWS, -1), ROWS)


def test_zero_scales_the_largest_magnitude_to_the_int16_range():
    np.testing.assert_allclose(normalise(ROWS[:1], 0), [[24570.0, -32760.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 2**31 - 1])
def test_tiny_rows_keep_their_direction_and_zeros_stay_zeros(kind):
    scaled = normalise(ROWS, kind)
    assert np.isfinite(scaled).all()
    np.testing.assert_allclose(scaled[1] / scaled[1, 1], [0.5, 1.0, -1.0], rtol=1e-6)
    np.testing.assert_array_equal(scaled[2], 0.0)


def test_cutting_comes_before_normalising():
    np.testing.assert_allclose(finish(ROWS[:1], 2, 1), [[1.0]])
    np.testing.assert_allclose(finish(ROWS[:1], 2, None), [[0.6, -0.8, 0.0]], rtol=1e-6)
    assert finish(ROWS, 2, 2).flags.c_contiguous

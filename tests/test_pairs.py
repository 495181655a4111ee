"""The pairs most alike among many vectors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gguf_embed.vectors.pairs import BLOCK_ROWS, similar_pairs


def units(n_rows, n_dims=8, seed=1):
    rows = np.random.default_rng(seed).standard_normal((n_rows, n_dims)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def expected(rows, top_k, threshold):
    scores = rows @ rows.T
    pairs = [(a, b) for a, b in itertools.combinations(range(len(rows)), 2) if scores[a, b] >= threshold]
    return len(pairs), sorted(pairs, key=lambda pair: -scores[pair])[:top_k]


@pytest.mark.parametrize("n_rows", [1, 2, 30, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS + 7])
@pytest.mark.parametrize(("top_k", "threshold"), [(1, -1.0), (50, -1.0), (50, 0.9), (10_000, 0.8), (5, 2.0)])
def test_they_are_those_of_the_whole_matrix(n_rows, top_k, threshold):
    rows = units(n_rows)
    n_found, pairs = expected(rows, top_k, threshold)
    found = similar_pairs(rows, top_k, threshold)
    assert found.n_found == n_found
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == pairs
    assert all(first < second for first, second in pairs)
    assert np.all(np.diff(found.scores) <= 0)


def test_equal_pairs_come_in_the_order_of_the_texts():
    rows = np.repeat(units(1), 2 * BLOCK_ROWS, axis=0)
    found = similar_pairs(rows, 3)
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3)]
    assert found.n_found == BLOCK_ROWS * (2 * BLOCK_ROWS - 1)
    assert float(found.scores[0]) <= 1.0

"""Pooled multi-vectors are those of sentence-transformers, up to the order of their rows."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.service.head_outputs import with_fewer_rows
from gguf_embed.types import DENSE, MULTIVECTOR
from gguf_embed.vectors import Rows
from gguf_embed.vectors.joint import JointOutput
from gguf_embed.vectors.token_pooling import MAX_ROWS, pool_rows
from tests.data.grouped_rows import CASES, rows_of
from tests.data.head_directories import DATA


@pytest.mark.parametrize(("n_rows", "factor"), CASES)
def test_the_rows_are_those_of_sentence_transformers(n_rows, factor):
    with np.load(DATA / "heads" / "token_pooling.npz") as stored:
        expected = stored[f"{n_rows}-{factor}"]
    found = pool_rows(rows_of(n_rows), factor)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    cosines = found @ expected.T
    assert sorted(cosines.argmax(axis=1)) == list(range(len(expected)))
    assert cosines.max(axis=1).min() > 0.999999


def test_equal_rows_become_one_and_short_texts_stay():
    row = rows_of(2)[:1]
    np.testing.assert_allclose(pool_rows(np.repeat(row, 9, axis=0), 8), np.repeat(row, 2, axis=0), atol=1e-6)
    for n_rows in (0, 1, 2):
        assert pool_rows(rows_of(2)[:n_rows], 4).shape == (n_rows, 16)


def test_only_multivectors_are_pooled_and_failed_texts_have_none():
    matrix, dense = rows_of(40), Rows.one_each(DENSE, rows_of(3))
    both = JointOutput({DENSE: dense, MULTIVECTOR: Rows(MULTIVECTOR, matrix, (0, 21, 21, 40))})
    found = with_fewer_rows(both, 2)
    assert isinstance(found, JointOutput)
    assert found.by_kind[DENSE] is dense
    pooled = found.by_kind[MULTIVECTOR]
    assert isinstance(pooled, Rows)
    assert list(pooled.offsets) == [0, 11, 11, 21]


def test_a_text_with_too_many_rows_is_named():
    rows = Rows(MULTIVECTOR, np.ones((MAX_ROWS + 4, 1), np.float32), (0, 3, MAX_ROWS + 4))
    with pytest.raises(InvalidRequest, match=r"input 1 has 2,049 vectors, of which 2,048 at most"):
        with_fewer_rows(rows, 2)

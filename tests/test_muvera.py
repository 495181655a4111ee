"""MUVERA vectors are those of fastembed, and their dot products rank as MaxSim does."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_embed.service.head_outputs import with_one_vector
from gguf_embed.types import DENSE, MULTIVECTOR, MUVERA, Muvera
from gguf_embed.vectors import Rows
from gguf_embed.vectors.joint import JointOutput
from gguf_embed.vectors.muvera import encoder_of
from tests.data.grouped_rows import MUVERA_CASES, rows_of
from tests.data.head_directories import DATA


@pytest.mark.parametrize("number", range(len(MUVERA_CASES)))
@pytest.mark.parametrize("is_query", [False, True])
def test_the_numbers_are_those_of_fastembed(number, is_query):
    n_rows, given = MUVERA_CASES[number]
    settings = Muvera(**given)
    with np.load(DATA / "heads" / "muvera.npz") as stored:
        expected = stored[f"{number}-{'query' if is_query else 'document'}"]
    found = encoder_of(settings, 16).encode(rows_of(n_rows), is_query=is_query)
    assert (found.dtype, found.shape) == (np.float32, (settings.n_dims,))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def test_dot_products_rank_as_maxsim():
    random = np.random.default_rng(1)
    n_dims, n_documents = 64, 200
    topics = random.standard_normal((40, n_dims))
    documents, queries = [], []
    for _ in range(n_documents):
        own = topics[random.integers(0, len(topics), 6)]
        noise = random.standard_normal((60, n_dims))
        documents.append(unit(own[random.integers(0, 6, 60)] + 0.8 * noise))
    for at in random.choice(n_documents, 40, replace=False):
        noise = random.standard_normal((12, n_dims))
        queries.append(unit(documents[at][random.choice(60, 12)] + 0.06 * noise))
    maxsim = np.array([[(query @ document.T).max(axis=1).sum() for document in documents] for query in queries])

    encoder = encoder_of(Muvera(), n_dims)
    left = np.stack([encoder.encode(query, is_query=True) for query in queries])
    right = np.stack([encoder.encode(document, is_query=False) for document in documents])
    dots = left @ right.T
    assert (dots.argmax(axis=1) == maxsim.argmax(axis=1)).all()
    correlations = [np.corrcoef(one, other)[0, 1] for one, other in zip(maxsim, dots, strict=True)]
    assert min(correlations) > 0.8
    cosines = dots / np.linalg.norm(right, axis=1)  # as vector databases compare them
    assert (cosines.argmax(axis=1) == maxsim.argmax(axis=1)).all()


def test_only_multivectors_are_encoded_and_failed_texts_have_none():
    matrix, dense = rows_of(40), Rows.one_each(DENSE, rows_of(3))
    both = JointOutput({DENSE: dense, MULTIVECTOR: Rows(MULTIVECTOR, matrix, (0, 21, 21, 40))})
    settings = Muvera(k_sim=2, dim_proj=3, r_reps=2)
    found = with_one_vector(both, settings, is_query=False)
    assert isinstance(found, JointOutput)
    assert found.by_kind.keys() == {DENSE, MUVERA}
    assert found.by_kind[DENSE] is dense
    encoded = found.by_kind[MUVERA]
    assert isinstance(encoded, Rows)
    assert (encoded.matrix.shape, list(encoded.offsets)) == ((2, settings.n_dims), [0, 1, 1, 2])
    expected = encoder_of(settings, 16).encode(matrix[21:], is_query=False)
    np.testing.assert_array_equal(encoded.matrix[1], expected)


def test_random_numbers_do_not_depend_on_an_odd_number_of_signs():
    """fastembed draws all signs at once, we draw them by repetition."""
    random = np.random.default_rng(3)
    random.normal(size=(3, 5, 2))
    found = encoder_of(Muvera(k_sim=2, dim_proj=3, r_reps=3, random_seed=3), 5).signs
    np.testing.assert_array_equal(found, random.choice([-1, 1], size=(3, 5, 3)))

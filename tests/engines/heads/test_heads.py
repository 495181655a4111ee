"""The arithmetic of heads, on rows made by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from gguf_embed.engines.base import ContextSpec
from gguf_embed.engines.heads import sparse
from gguf_embed.engines.heads.engine import HeadedContext, HeadedSpec, pooled, rows_output
from gguf_embed.engines.heads.late_interaction import kept_tokens, multivectors
from gguf_embed.engines.heads.sparse import gelu, largest_per_token, query_vectors, splade_weights
from gguf_embed.engines.openvino.packing import n_attended
from gguf_embed.gguf_file.token_heads import LateInteraction, MaskedLanguageHead, Projection, SparseHead, TokenHeads
from gguf_embed.types import DENSE, JOINT, MULTIVECTOR, SPARSE, TOKENS, OutputSpec, Pooling
from gguf_embed.vectors import Rows
from gguf_embed.vectors.joint import JointOutput, none_of
from gguf_embed.vectors.sparse import SparseRows

LATE = LateInteraction(None, 2, skipped=frozenset({7}), expansion_token=9)


def test_documents_lose_skipped_tokens_and_queries_do_not():
    assert kept_tokens([1, 7, 2], LATE, is_query=False).tolist() == [True, False, True]
    assert kept_tokens([1, 7, 2], LATE, is_query=True).tolist() == [True, True, True]
    assert kept_tokens([7, 7], LATE, is_query=False).tolist() == [False, True]
    assert kept_tokens([1, 7, 2], replace(LATE, skips_first=True), is_query=True).tolist() == [False, True, True]


def test_multivectors_are_projected_and_have_length_1():
    late = replace(LATE, projection=Projection(np.array([[0.0, 2.0], [2.0, 0.0]], np.float32), None))
    rows = Rows.per_token(np.array([[1, 0], [5, 5], [0, 3], [3, 4]], np.float32), [3, 1])
    found = multivectors(rows, [[1, 7, 2], [3]], late, is_query=False)
    assert (found.kind, list(found.offsets)) == (MULTIVECTOR, [0, 2, 3])
    np.testing.assert_allclose(found.matrix, [[0, 1], [1, 0], [0.8, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(found.finished(2, 1).matrix, [[0], [1], [1]], rtol=1e-6)


@pytest.mark.parametrize(("text", "n"), [([1, 2, 9, 9], 2), ([1, 2], 2), ([9, 9], 1), ([9, 1, 9], 2)])
def test_mask_tokens_at_the_end_are_not_attended_to(text, n):
    assert n_attended(text, 9) == n


def test_only_queries_of_a_model_that_expands_them_have_unattended_tokens():
    heads = TokenHeads(LATE)
    assert rows_output(OutputSpec(MULTIVECTOR, is_query=True), heads) == OutputSpec(TOKENS, unattended=9)
    assert rows_output(OutputSpec(MULTIVECTOR), heads) == OutputSpec(TOKENS)
    attended = TokenHeads(replace(LATE, expansion_attended=True))
    assert rows_output(OutputSpec(MULTIVECTOR, is_query=True), attended) == OutputSpec(TOKENS)


def test_lexical_weights_are_the_largest_of_each_token():
    weights = np.array([0.5, 0.2, 0.9, 0.0, 0.7], np.float32)
    indices, values = largest_per_token([5, 3, 3, 4, 0], weights, frozenset({0}))
    assert indices.tolist() == [3, 5]
    np.testing.assert_array_equal(values, np.array([0.9, 0.5], np.float32))


def mlm(n_vocab: int, n_log: int = 1) -> MaskedLanguageHead:
    random = np.random.default_rng(0)
    numbers = random.standard_normal((n_vocab, 4)).astype(np.float32)
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    bias = random.standard_normal(n_vocab).astype(np.float32)
    return MaskedLanguageHead(
        Projection(np.eye(4, dtype=np.float32), None), "gelu", ones, zeros, 1e-12, numbers, bias, n_log
    )


@pytest.mark.parametrize("n_log", [1, 2])
def test_logits_are_made_in_blocks(monkeypatch, n_log):
    head = mlm(11, n_log)
    hidden = np.random.default_rng(1).standard_normal((9, 4)).astype(np.float32)
    whole = splade_weights(hidden, head)
    expected = np.maximum(hidden @ head.decoder.T + head.output_bias, 0)
    for _ in range(n_log):
        expected = np.log1p(expected)
    np.testing.assert_allclose(whole, expected.max(axis=0), rtol=1e-5)
    monkeypatch.setattr(sparse, "BLOCK_BYTES", 2 * head.output_bias.nbytes)
    np.testing.assert_allclose(splade_weights(hidden, head), whole, rtol=1e-6)


def test_gelu_is_that_of_erf():
    x = np.linspace(-8, 8, 2001, dtype=np.float32)
    exact = [value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x.tolist()]
    assert np.abs(gelu(x[np.newaxis])[0] - exact).max() < 2e-6


def test_queries_weighed_by_a_table_need_no_network():
    found = query_vectors([[2, 1, 2], [0]], np.array([0.0, 1.5, 2.5], np.float32))
    assert [found.text(0)[0].tolist(), found.text(0)[1].tolist()] == [[1, 2], [1.5, 2.5]]
    assert found.text(1)[0].size == 0


class RowsOfOnes:
    """An `EngineContext` with token rows of ones."""

    def __init__(self, spec: ContextSpec) -> None:
        self.spec = spec

    def embed(self, batch, n_threads):
        lengths = [len(text) for text in batch]
        return Rows.per_token(np.ones((sum(lengths), 4), np.float32), lengths)

    def close(self) -> None: ...


def test_a_table_weighs_queries_beside_dense_vectors_too():
    heads = TokenHeads(sparse=SparseHead(3, mlm=mlm(3), query_weights=np.array([0.0, 1.5, 2.5], np.float32)))
    spec = OutputSpec(JOINT, Pooling.MEAN, is_query=True, parts=(DENSE, SPARSE))
    context = HeadedContext(HeadedSpec(spec, 8, 2, None), RowsOfOnes(ContextSpec(OutputSpec(TOKENS), 8, 2)), heads)
    found = context.embed([[2, 1, 2]], 1)
    assert isinstance(found, JointOutput)
    assert found.by_kind[SPARSE].text(0)[1].tolist() == [1.5, 2.5]
    assert found.by_kind[DENSE].matrix.tolist() == [[1, 1, 1, 1]]


class KeepingRows(RowsOfOnes):
    """It keeps buffers, too."""

    n_released = 0

    def release_buffers(self) -> None:
        self.n_released += 1


def test_buffers_are_those_of_the_context_that_computes_the_rows():
    heads = TokenHeads(sparse=SparseHead(3, mlm=mlm(3)))
    spec = OutputSpec(SPARSE)
    rows = KeepingRows(ContextSpec(OutputSpec(TOKENS), 8, 2))
    HeadedContext(HeadedSpec(spec, 8, 2, None), rows, heads).release_buffers()
    assert rows.n_released == 1
    HeadedContext(HeadedSpec(spec, 8, 2, None), None, heads).release_buffers()


@pytest.mark.parametrize("kind", [DENSE, MULTIVECTOR, SPARSE, JOINT])
def test_texts_that_all_failed_have_an_output_without_rows(kind):
    found = none_of(OutputSpec(kind, parts=(DENSE, SPARSE) if kind == JOINT else ()), 2)
    assert (found.kind, len(found), found.fault()) == (kind, 2, "")


def test_dense_vectors_are_pooled_from_token_rows():
    rows = Rows.per_token(np.array([[1, 1], [3, 5], [7, 8]], np.float32), [2, 1])
    assert pooled(rows, Pooling.CLS).matrix.tolist() == [[1, 1], [7, 8]]
    assert pooled(rows, Pooling.LAST).matrix.tolist() == [[3, 5], [7, 8]]
    assert pooled(rows, Pooling.MEAN).matrix.tolist() == [[2, 3], [7, 8]]


def test_joint_and_sparse_outputs_are_split_and_joined():
    texts = SparseRows.of(
        [
            (np.array([1, 2], np.int32), np.array([0.5, 1.0], np.float32)),
            (np.array([3], np.int32), np.ones(1, np.float32)),
        ]
    )
    dense = Rows.one_each("dense", np.array([[3, 4], [1, 0]], np.float32))
    both = JointOutput({"dense": dense, "sparse": texts})
    again = JointOutput.join([both.part(0), None, both.part(1)]).finished(2, None)
    assert len(again) == 3
    np.testing.assert_allclose(again.part(0).by_kind["dense"].matrix, [[0.6, 0.8]])
    assert again.by_kind["sparse"].text(1)[0].size == 0
    assert again.by_kind["sparse"].text(2)[0].tolist() == [3]
    assert both.fault() == ""
    broken = SparseRows.of([(np.array([1], np.int32), np.array([np.nan], np.float32))])
    assert "not finite" in JointOutput({"sparse": broken}).fault()

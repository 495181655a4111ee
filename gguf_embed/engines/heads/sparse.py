"""Sparse vectors from token rows: BGE-M3's lexical weights, SPLADE, and queries weighed by a table. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gguf_embed.gguf_file.head_source import Numbers
from gguf_embed.gguf_file.token_heads import Bm25, MaskedLanguageHead, SparseHead
from gguf_embed.types import FloatMatrix
from gguf_embed.vectors import Rows
from gguf_embed.vectors.sparse import Indices, SparseRows, Weights

BLOCK_BYTES = 2**23
"""Limit on the logits that are in memory at once: a text of 8,000 tokens would have a gigabyte of them."""


def sparse_vectors(rows: Rows, batch: Sequence[Sequence[int]], head: SparseHead) -> SparseRows:
    """The sparse vector of each text of `batch`, whose tokens have the rows `rows`.

    Each text is computed by itself, so that the others do not change how BLAS rounds.
    """
    if head.mlm is not None:
        return SparseRows.of([_nonzero(splade_weights(transformed(text, head.mlm), head.mlm)) for text in rows.texts()])
    assert head.lexical is not None
    return SparseRows.of(
        [
            largest_per_token(tokens, np.maximum(head.lexical(text)[:, 0], 0.0), head.skipped)
            for tokens, text in zip(batch, rows.texts(), strict=True)
        ]
    )


def query_vectors(batch: Sequence[Sequence[int]], table: Numbers) -> SparseRows:
    """Each distinct token with its weight in `table`, float32[n_vocab], without the network."""
    distinct = [np.unique(np.asarray(tokens, np.int32)) for tokens in batch]
    return SparseRows.of([_positive(tokens, table[tokens]) for tokens in distinct])


def counted(batch: Sequence[Sequence[int]], bm25: Bm25, *, is_query: bool) -> SparseRows:
    """Each distinct word with its weight: BM25's without the inverse document frequency; 1 in a query."""
    texts = []
    for words in batch:
        distinct, counts = np.unique(np.asarray(words, np.int64), return_counts=True)
        length = 1.0 - bm25.b + bm25.b * len(words) / bm25.average_length
        weights = np.ones(len(distinct)) if is_query else counts * (bm25.k + 1.0) / (counts + bm25.k * length)
        texts.append((np.asarray(distinct, np.int32), np.asarray(weights, np.float32)))
    return SparseRows.of(texts)


def largest_per_token(tokens: Sequence[int], weights: Weights, skipped: frozenset[int]) -> tuple[Indices, Weights]:
    """The largest weight of each distinct token, of those above 0 and not in `skipped`."""
    distinct, numbers = np.unique(np.asarray(tokens, np.int32), return_inverse=True)
    largest = np.zeros(len(distinct), np.float32)
    np.maximum.at(largest, numbers, weights)
    largest[np.isin(distinct, list(skipped))] = 0.0
    return _positive(distinct, largest)


def transformed(rows: FloatMatrix, head: MaskedLanguageHead) -> FloatMatrix:
    """float32[n, d] → float32[n, d]: what the decoder multiplies."""
    hidden = head.dense(rows)
    hidden = gelu(hidden) if head.activation == "gelu" else np.maximum(hidden, 0.0)
    centered = hidden - hidden.mean(axis=1, keepdims=True)
    variance = np.square(centered).mean(axis=1, keepdims=True)
    scaled: FloatMatrix = centered / np.sqrt(variance + np.float32(head.norm_epsilon))
    return scaled * head.norm_weight + head.norm_bias


def splade_weights(hidden: FloatMatrix, head: MaskedLanguageHead) -> Weights:
    """float32[n_vocab] from float32[n, d]: log(1 + relu(x)), x the entry's largest logit over a text's tokens."""
    n_block = max(1, BLOCK_BYTES // head.output_bias.nbytes)
    largest = np.full(len(head.output_bias), -np.inf, np.float32)
    for begin in range(0, len(hidden), n_block):
        logits = hidden[begin : begin + n_block] @ head.decoder.T
        np.maximum(largest, logits.max(axis=0), out=largest)
    weights: Weights = np.maximum(largest + head.output_bias, 0.0)
    for _ in range(head.n_log):
        weights = np.log1p(weights)
    return weights


def gelu(x: FloatMatrix) -> FloatMatrix:
    """x times the normal distribution's probability up to x, with erf as in Abramowitz and Stegun 7.1.26 (1.5e-7)."""
    z = np.abs(x) * np.float32(0.7071067811865476)
    t = 1.0 / (1.0 + np.float32(0.3275911) * z)
    terms = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
    tail: FloatMatrix = np.zeros_like(x)
    for factor in reversed(terms):
        tail = (tail + np.float32(factor)) * t
    tail *= np.exp(-np.square(z))  # 1 - erf(z)
    return x * np.where(x >= 0, 1.0 - 0.5 * tail, 0.5 * tail).astype(np.float32)


def _nonzero(weights: Weights) -> tuple[Indices, Weights]:
    indices = np.flatnonzero(weights > 0).astype(np.int32)
    return indices, weights[indices]


def _positive(tokens: Indices, weights: Weights) -> tuple[Indices, Weights]:
    kept = weights > 0
    return tokens[kept], weights[kept]

"""Splits a batch into parts to compute one after another, and pools the rows they return. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from gguf_embed.types import FloatMatrix, Pooling


def cut_parts(lengths: Sequence[int], n_tokens: int) -> Iterator[list[range]]:
    """Split texts of these lengths into parts of `n_tokens`; the last may be shorter. Each part is, for every text,
    the range of its positions in the part."""
    begins = list(accumulate(lengths, initial=0))
    for begin in range(0, begins[-1], n_tokens):
        end = begin + n_tokens
        yield [
            range(min(max(begin - first, 0), length), min(max(end - first, 0), length))
            for first, length in zip(begins, lengths, strict=False)
        ]


def pool_rows(rows: FloatMatrix, lengths: Sequence[int], pooling: Pooling) -> FloatMatrix:
    """Pool float32[total tokens, n_embd]: unchanged with pooling none, else each text's mean or first row."""
    if pooling is Pooling.NONE:
        return rows
    begins = np.array([0, *accumulate(lengths[:-1])])
    if pooling is Pooling.CLS:
        return np.take(rows, begins, axis=0)
    assert pooling is Pooling.MEAN, pooling
    totals = np.add.reduceat(rows, begins, axis=0, dtype=np.float64)
    return np.asarray(totals / np.array(lengths)[:, np.newaxis], np.float32)

"""What every loop around a library does itself: sort by length, pad, pool, normalize. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = Sequence[Sequence[int]]
Ids = NDArray[np.int64]
Matrix = NDArray[np.float32]


def batches_by_length(texts: Tokens, batch_size: int) -> list[list[int]]:
    """Indexes of the texts, the longest first, in batches: the order of sentence-transformers."""
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def pad(texts: Tokens) -> tuple[Ids, Ids]:
    """Ids and mask, int64[n, longest], with zeros after each text's end."""
    longest = max(map(len, texts))
    ids, mask = np.zeros((len(texts), longest), np.int64), np.zeros((len(texts), longest), np.int64)
    for row, tokens in enumerate(texts):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return ids, mask


def pool(hidden: NDArray[Any], mask: Ids, pooling: str) -> Matrix:
    """Unit vectors float32[n, d] from token vectors [n, longest, d]. `pooling` is "mean" or "cls"."""
    if pooling == "cls":
        rows = hidden[:, 0]
    else:
        weights = mask.astype(hidden.dtype)
        rows = np.einsum("nld,nl->nd", hidden, weights, optimize=True) / weights.sum(axis=1, keepdims=True)
    unit: Matrix = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def fill(n_texts: int, parts: Sequence[tuple[Sequence[int], Matrix]]) -> Matrix:
    """One matrix in the order of the texts, from the vectors of each batch."""
    vectors = np.empty((n_texts, parts[0][1].shape[1]), np.float32)
    for indexes, rows in parts:
        vectors[list(indexes)] = rows
    return vectors

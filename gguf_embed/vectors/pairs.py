"""Which pairs among many vectors are most alike, without a matrix of all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 256
"""Rows that are compared with all others at once: a few MB for some thousand vectors."""

Floats = NDArray[np.float32]
Indexes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SimilarPairs:
    """Pairs of rows, the most alike first; each pair once, its lower index first."""

    first: Indexes
    second: Indexes
    scores: Floats  # cosines
    n_found: int  # over the threshold, of which these are the best


def cosine_rows(units: Floats, begin: int, end: int) -> Floats:
    """The cosines of these rows to all rows, float32[end - begin, n]. Rows have length 1 or are zero."""
    return np.asarray(np.clip(units[begin:end] @ units.T, -1.0, 1.0), np.float32)


def similar_pairs(units: Floats, top_k: int, threshold: float = -1.0) -> SimilarPairs:
    """The `top_k` pairs with the highest cosine, of at least `threshold`. Rows have length 1 or are zero."""
    n_found = 0
    kept = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    for begin in range(0, len(units), BLOCK_ROWS):
        scores = cosine_rows(units, begin, begin + BLOCK_ROWS)
        rows = np.arange(begin, begin + len(scores))
        is_pair = (scores >= threshold) & (np.arange(len(units)) > rows[:, None])
        n_found += int(is_pair.sum())
        if len(kept[2]) == top_k and top_k:
            is_pair &= scores > kept[2][-1]
        at, second = np.nonzero(is_pair)
        joined = np.concatenate([kept[0], rows[at]]), np.concatenate([kept[1], second])
        kept = _best(*joined, np.concatenate([kept[2], scores[at, second]]), top_k)
    return SimilarPairs(*kept, n_found)


def _best(first: Indexes, second: Indexes, scores: Floats, top_k: int) -> tuple[Indexes, Indexes, Floats]:
    """The `top_k` highest, sorted; equal ones by their indexes."""
    order = np.lexsort((second, first, -scores))[:top_k]
    return first[order], second[order], scores[order]

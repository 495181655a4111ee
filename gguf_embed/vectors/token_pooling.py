"""Fewer rows per multi-vector: Ward clusters of its rows by cosine distance, each replaced by its mean.

As `HierarchicalTokenPooling` of sentence-transformers 6 and PyLate's pooling after version 1.3.4 do it, but for the
order of the rows, which MaxSim does not see. Pure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gguf_embed.types import FloatMatrix
from gguf_embed.vectors.rows import normalize

MAX_ROWS = 2048
"""Per text. The distances of so many take 34 MB."""

N_PROTECTED = 1  # rows at the beginning that are left as they are


def pool_rows(rows: FloatMatrix, factor: int) -> FloatMatrix:
    """float32[n, d] → float32[m, d] of length 1, m about n / factor. Clusters are in the order of their first rows.

    `rows` have length 1, and are `MAX_ROWS` at most.
    """
    free = rows[N_PROTECTED:]
    n_clusters = max(len(free) // factor, 1)
    if n_clusters >= len(free):
        return rows
    labels = ward_labels(np.clip(1.0 - free @ free.T, 0.0, 2.0), n_clusters)
    sums = np.zeros((n_clusters, rows.shape[1]), np.float32)
    np.add.at(sums, labels, free)
    means = sums / np.bincount(labels)[:, np.newaxis].astype(np.float32)
    return normalize(np.concatenate([rows[:N_PROTECTED], means]), 2)


def ward_labels(distances: FloatMatrix, n_clusters: int) -> NDArray[np.intp]:
    """A number from 0 to `n_clusters` - 1 for each of n items, from their float32[n, n] distances."""
    n_items = len(distances)
    cluster_of = np.arange(n_items)
    for one, other in _merges(distances)[: n_items - n_clusters]:
        cluster_of[cluster_of == cluster_of[one]] = cluster_of[other]
    _, first, labels = np.unique(cluster_of, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[labels], np.intp)


def _merges(distances: FloatMatrix) -> list[tuple[int, int]]:
    """An item of each of the two clusters that are merged, the nearest first: nearest-neighbor chains."""
    squares = distances.astype(np.float64) ** 2
    np.fill_diagonal(squares, np.inf)
    sizes = np.ones(len(squares))
    merges: list[tuple[float, int, int]] = []
    chain: list[int] = []
    last = 0  # an item whose cluster is still there
    for _ in range(len(squares) - 1):
        chain = chain or [last]
        one, other = _nearest_pair(squares, chain)
        merges.append((squares[one, other], one, other))
        sums = sizes[one] + sizes, sizes[other] + sizes
        merged = sums[0] * squares[one] + sums[1] * squares[other] - sizes * squares[one, other]
        squares[other] = squares[:, other] = merged / (sizes[one] + sums[1])
        squares[one] = squares[:, one] = squares[other, other] = np.inf
        sizes[other] += sizes[one]
        last = other
    return [(one, other) for _, one, other in sorted(merges, key=lambda merge: merge[0])]


def _nearest_pair(squares: NDArray[np.float64], chain: list[int]) -> tuple[int, int]:
    """Two clusters that are each other's nearest, removed from the end of the chain that led to them."""
    while True:
        row = squares[chain[-1]]
        nearest = int(row.argmin())
        if len(chain) > 1 and row[chain[-2]] <= row[nearest]:
            return chain.pop(), chain.pop()
        chain.append(nearest)

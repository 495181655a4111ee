"""MUVERA: a vector of fixed size per multi-vector, whose dot products approximate MaxSim (arXiv:2405.19504). Pure.

The same numbers as fastembed's `Muvera` with the same settings: random planes divide the space into clusters, and each
cluster gets the sum (query) or the mean (document) of the rows in it, projected by random signs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gguf_embed.types import MUVERA, FloatMatrix, Muvera
from gguf_embed.vectors.rows import Rows

MAX_K_SIM = 10
MAX_DIMS = 65_536
"""Numbers per vector; Qdrant takes no more. The signs then take up to 32 MB for rows of 1,024 numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """The random numbers of some settings, for rows of one width."""

    planes: NDArray[np.float64]  # float64[r_reps, n_dims, k_sim]
    signs: NDArray[np.int8] | None  # int8[r_reps, n_dims, dim_proj]; None: no projection
    distances: NDArray[np.uint8]  # uint8[n_clusters, n_clusters]: in how many planes two clusters differ

    def encode(self, rows: FloatMatrix, *, is_query: bool) -> NDArray[np.float32]:
        """float32[n_rows, n_dims] → float32[r_reps * n_clusters * dim_proj]. At least one row."""
        wide = rows.astype(np.float64)
        parts = [self._clusters(wide, number, is_query).reshape(-1) for number in range(len(self.planes))]
        return np.concatenate(parts).astype(np.float32)

    def _clusters(self, rows: NDArray[np.float64], number: int, is_query: bool) -> NDArray[np.float64]:
        """float64[n_clusters, dim_proj] of one repetition.

        A document's empty clusters get the first row of the nearest cluster that has rows; a query's get zeros.
        """
        planes = self.planes[number]
        clusters = (rows @ planes > 0) @ (1 << np.arange(planes.shape[1]))
        if self.signs is not None:
            signs = self.signs[number]
            rows = rows @ signs.astype(np.float64) / np.sqrt(signs.shape[1])
        found, first, where, counts = np.unique(clusters, return_index=True, return_inverse=True, return_counts=True)
        sums = np.zeros((len(found), rows.shape[1]))
        np.add.at(sums, where, rows)
        if is_query:
            centers = np.zeros((len(self.distances), rows.shape[1]))
            centers[found] = sums
            return centers
        nearest = self.distances[:, found].argmin(axis=1)
        centers = np.asarray(rows[first[nearest]], np.float64)
        centers[found] = sums / counts[:, np.newaxis]
        return centers


@functools.lru_cache(maxsize=4)
def encoder_of(settings: Muvera, n_dims: int) -> Encoder:
    """For rows of `n_dims` numbers, at least `dim_proj`. The random numbers come in fastembed's order."""
    random = np.random.default_rng(settings.random_seed)
    planes = random.normal(size=(settings.r_reps, n_dims, settings.k_sim))
    signs = None
    if settings.dim_proj < n_dims:
        size = (n_dims, settings.dim_proj)
        signs = np.stack([random.choice([-1, 1], size=size).astype(np.int8) for _ in range(settings.r_reps)])
    numbers = np.arange(2**settings.k_sim)
    n_bits = sum((numbers >> bit) & 1 for bit in range(settings.k_sim))
    return Encoder(planes, signs, np.asarray(n_bits, np.uint8)[numbers[:, np.newaxis] ^ numbers])


def encode_texts(rows: Rows, settings: Muvera, *, is_query: bool) -> Rows:
    """One row for each text that has rows, not normalized."""
    encoder = encoder_of(settings, rows.matrix.shape[1])
    texts = [text for text in rows.texts() if len(text)]
    matrix = np.stack([encoder.encode(text, is_query=is_query) for text in texts])
    has_rows = np.diff(rows.offsets) > 0
    return Rows(MUVERA, matrix, (0, *np.cumsum(has_rows).tolist()))

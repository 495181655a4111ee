"""Distances between tokens, divided into buckets as T5, MPNet and DeBERTa do it: near ones exactly, far ones coarsely.

Pure. Logarithms are computed in float32, as in the original packages: in float64 some distances get another bucket.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MAX_DISTANCE = 128
"""T5's and MPNet's: what is farther away is in the last bucket. No file says it."""

MIN_BUCKETS, MAX_BUCKETS = 4, 256
"""With less, no distance would have a bucket of its own; with more, none would share one."""


def t5_buckets(n_buckets: int) -> NDArray[np.int32]:
    """int32[2M + 1], the buckets of the distances -M to M, `MAX_DISTANCE`: the seen token's position minus the seeing
    one's. Half of the `MIN_BUCKETS` to `MAX_BUCKETS` are for each direction (T5Attention._relative_position_bucket)."""
    distances = np.arange(-MAX_DISTANCE, MAX_DISTANCE + 1)
    half = n_buckets // 2
    n_exact = half // 2
    away = np.abs(distances)
    ratio = np.maximum(away, 1).astype(np.float32) / np.float32(n_exact)
    logarithm = np.log(ratio) / np.float32(math.log(MAX_DISTANCE / n_exact)) * np.float32(half - n_exact)
    coarse = np.minimum(n_exact + logarithm.astype(np.int32), half - 1)
    buckets: NDArray[np.int32] = (np.where(away < n_exact, away, coarse) + half * (distances > 0)).astype(np.int32)
    return buckets


def deberta_rows(n_buckets: int, max_distance: int) -> NDArray[np.int32]:
    """int32[2M + 1], the row of DeBERTa's table of 2 `n_buckets` for the distances -M to M, `max_distance`: the seen
    token's position minus the seeing one's (make_log_bucket_position, where it is the other way round).

    Up to half of `n_buckets`, each distance has its own row; the others share rows up to `max_distance`, which is
    over that half.
    """
    distances = np.arange(max_distance, -max_distance - 1, -1)
    half = n_buckets // 2
    away = np.maximum(np.abs(distances), half - 1).astype(np.float32)
    span = np.log(np.float32((max_distance - 1) / half))
    coarse = np.ceil(np.log(away / np.float32(half)) / span * np.float32(half - 1)) + half
    buckets = np.where(away <= half, distances, coarse * np.sign(distances))
    rows: NDArray[np.int32] = np.clip(buckets + n_buckets, 0, 2 * n_buckets - 1).astype(np.int32)
    return rows

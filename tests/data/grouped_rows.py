"""Random multi-vectors whose rows are near each other in groups, as those of real texts."""

from __future__ import annotations

import numpy as np

CASES = ((5, 2), (9, 3), (40, 2), (40, 5), (130, 4), (300, 3), (2, 64))
"""Rows, and by which factor they become fewer."""

MUVERA_CASES = (
    (40, {"k_sim": 4, "dim_proj": 5, "r_reps": 3}),
    (40, {"k_sim": 3, "dim_proj": 16, "r_reps": 2, "random_seed": 7}),
    (1, {"k_sim": 5, "dim_proj": 3, "r_reps": 1}),
    (300, {"k_sim": 2, "dim_proj": 7, "r_reps": 3, "random_seed": 0}),
)
"""Rows, and settings of MUVERA with and without a projection."""


def rows_of(n_rows: int) -> np.ndarray:
    """float32[n_rows, 16], of length 1."""
    random = np.random.default_rng(n_rows)
    centers = random.standard_normal((max(2, n_rows // 6), 16))
    rows = centers[random.integers(0, len(centers), n_rows)] + 0.7 * random.standard_normal((n_rows, 16))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

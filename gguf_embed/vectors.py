"""Pure numpy on finished rows: normalise, cut dimensions. Shapes and dtypes in every docstring."""

from __future__ import annotations

import numpy as np

from gguf_embed.types import FloatMatrix

INT16_SCALE = 32760.0
"""llama.cpp's scale for max-abs normalisation (its --embd-normalize 0)."""


def normalise(rows: FloatMatrix, kind: int) -> FloatMatrix:
    """Scale each row of float32[n, d] as llama.cpp's --embd-normalize: float32[n, d].

    -1 leaves it, 0 makes the largest magnitude 32760, 1 the sum of magnitudes 1, 2 the Euclidean length 1, and p > 2
    the p-norm 1. A row of zeros stays zeros. Computed in float64 and on rows divided by their largest magnitude, so
    that no p overflows or loses a row.
    """
    if kind < 0 or rows.size == 0:
        return rows
    wide = rows.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True)
    largest[largest == 0.0] = 1.0
    wide /= largest
    if kind == 0:
        return np.asarray(wide * INT16_SCALE, np.float32)
    if kind == 2:
        lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, np.newaxis]
    else:
        lengths = (np.abs(wide) ** kind).sum(axis=1, keepdims=True) ** (1.0 / kind)
    lengths[lengths == 0.0] = 1.0
    return np.asarray(wide / lengths, np.float32)


def finish(rows: FloatMatrix, kind: int, n_dims: int | None) -> FloatMatrix:
    """Cut float32[n, d] to the first `n_dims` columns (None: all) and normalise what is left."""
    kept = rows if n_dims is None or n_dims >= rows.shape[1] else rows[:, :n_dims]
    return np.ascontiguousarray(normalise(kept, kind))

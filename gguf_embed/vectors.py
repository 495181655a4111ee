"""Pure numpy on finished rows: normalize, cut dimensions, quantize. Shapes and dtypes in every docstring."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gguf_embed.types import FloatMatrix

INT16_SCALE = 32760.0
"""llama.cpp's scale for max-abs normalization (its --embd-normalize 0)."""

INT8_SCALE = 127.0
"""Levels between 0 and 1: a number is its level divided by this, within `MAX_INT8_ERROR`."""

MAX_INT8_ERROR = 0.5 / INT8_SCALE

_SIGN_BIT = np.uint8(0x80)  # flipped, it adds 128 to a byte or takes it away

SmallDtype = Literal["int8", "uint8", "binary", "ubinary"]
SmallMatrix = NDArray[np.int8] | NDArray[np.uint8]
"""int8 or uint8[n_rows, n_bytes], C-contiguous."""


def normalize(rows: FloatMatrix, kind: int) -> FloatMatrix:
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
    """Cut float32[n, d] to the first `n_dims` columns (None: all) and normalize what is left."""
    kept = rows if n_dims is None or n_dims >= rows.shape[1] else rows[:, :n_dims]
    return np.ascontiguousarray(normalize(kept, kind))


def quantize(rows: FloatMatrix, dtype: SmallDtype) -> SmallMatrix:
    """Make one byte per number, or one bit, of float32[n, d]. A row's bytes depend on that row alone.

    int8[n, d]: round(127 x), a number beyond -1 or 1 becomes -127 or 127; uint8[n, d]: the same plus 128.
    ubinary uint8[n, ceil(d / 8)]: bit 1 for x > 0, the first number in the highest bit, the last byte filled with
    zero bits; binary int8: the same minus 128. The bits, and the 128 between signed and unsigned, are those of
    sentence-transformers' `quantize_embeddings`; its scale is not, because it takes it from a calibration set.
    """
    if dtype in ("binary", "ubinary"):
        bits: NDArray[np.uint8] = np.packbits(rows > 0.0, axis=-1)
        return bits if dtype == "ubinary" else (bits ^ _SIGN_BIT).view(np.int8)
    levels: NDArray[np.int8] = np.rint(np.clip(rows, -1.0, 1.0) * np.float32(INT8_SCALE)).astype(np.int8)
    return levels if dtype == "int8" else levels.view(np.uint8) ^ _SIGN_BIT

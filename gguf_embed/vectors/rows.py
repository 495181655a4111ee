"""Vectors as models return them, and pure numpy functions on them: normalize, cut dimensions, quantize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gguf_embed.types import DENSE, MULTIVECTOR, TOKENS, FloatMatrix

INT16_SCALE = 32760.0
"""llama.cpp's scale for max-abs normalization (its --embd-normalize 0)."""

INT8_SCALE = 127.0
"""Levels between 0 and 1. A level divided by this is the original number, within half a level."""

_SIGN_BIT = np.uint8(0x80)  # flipping it adds or subtracts 128

SmallDtype = Literal["int8", "uint8", "binary", "ubinary"]
SmallMatrix = NDArray[np.int8] | NDArray[np.uint8]
"""int8 or uint8[n_rows, n_bytes], C-contiguous."""


def normalize(rows: FloatMatrix, kind: int) -> FloatMatrix:
    """Scale each row of float32[n, d] as llama.cpp's --embd-normalize does; returns float32[n, d].

    -1 leaves the row unchanged; 0 scales the largest magnitude to 32760; 1, 2 and p > 2 scale the 1-norm, the
    Euclidean length and the p-norm to 1. A row of zeros stays zeros. Computed in float64, where no square of a float32
    overflows or underflows, and for all but 2 on rows divided by their largest magnitude.
    """
    if kind < 0 or rows.size == 0:
        return rows
    wide = rows.astype(np.float64)
    if kind == 2:
        lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, np.newaxis]
    else:
        largest = np.abs(wide).max(axis=1, keepdims=True)
        largest[largest == 0.0] = 1.0
        wide /= largest
        if kind == 0:
            return np.asarray(wide * INT16_SCALE, np.float32)
        lengths = (np.abs(wide) ** kind).sum(axis=1, keepdims=True) ** (1.0 / kind)
    lengths[lengths == 0.0] = 1.0
    return np.asarray(wide / lengths, np.float32)


def finish(rows: FloatMatrix, kind: int, n_dims: int | None) -> FloatMatrix:
    """Cut float32[n, d] to the first `n_dims` columns (None: all), then normalize."""
    kept = rows if n_dims is None or n_dims >= rows.shape[1] else rows[:, :n_dims]
    return np.ascontiguousarray(normalize(kept, kind))


def quantize(rows: FloatMatrix, dtype: SmallDtype) -> SmallMatrix:
    """Quantize float32[n, d] to one byte or one bit per number. A row's bytes depend on that row alone.

    int8[n, d]: round(127 x), clipped to -127 and 127; uint8[n, d]: the same plus 128.
    ubinary, uint8[n, ceil(d / 8)]: bit 1 for x > 0, the first number in the highest bit, the last byte padded with
    zero bits; binary, int8: the same minus 128. The bits and the offset of 128 match sentence-transformers'
    `quantize_embeddings`; the scale does not, because theirs comes from a calibration set.
    """
    if dtype in ("binary", "ubinary"):
        bits: NDArray[np.uint8] = np.packbits(rows > 0.0, axis=-1)
        return bits if dtype == "ubinary" else (bits ^ _SIGN_BIT).view(np.int8)
    levels: NDArray[np.int8] = np.rint(np.clip(rows, -1.0, 1.0) * np.float32(INT8_SCALE)).astype(np.int8)
    return levels if dtype == "int8" else levels.view(np.uint8) ^ _SIGN_BIT


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The `Output` for all vectors but sparse ones, and for scores: a matrix in which each text owns some rows.

    Text i owns `matrix[offsets[i] : offsets[i + 1]]`: one row when pooled, one per token, one per requested span, or
    none if the text failed.
    """

    kind: str
    matrix: FloatMatrix  # float32[n_rows, n_dims]
    offsets: Sequence[int]  # ascending from 0 to n_rows, n_texts + 1 of them

    @classmethod
    def one_each(cls, kind: str, matrix: FloatMatrix) -> Rows:
        """From float32[n_texts, n_dims]: one row per text."""
        return cls(kind, matrix, range(len(matrix) + 1))

    @classmethod
    def per_token(cls, matrix: FloatMatrix, lengths: Sequence[int]) -> Rows:
        """From float32[sum(lengths), n_dims]: one row per token."""
        return cls(TOKENS, matrix, (0, *accumulate(lengths)))

    @classmethod
    def none_of(cls, kind: str, n_texts: int) -> Rows:
        """For texts that all failed."""
        return cls(kind, np.empty((0, 0), np.float32), (0,) * (n_texts + 1))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def texts(self) -> list[FloatMatrix]:
        """The rows of each text, as views."""
        return [self.matrix[begin:end] for begin, end in pairwise(self.offsets)]

    def part(self, index: int) -> Rows:
        """Rows of tokens are copied, so that a slow client does not keep a whole batch in memory; others are a view."""
        rows = self.matrix[self.offsets[index] : self.offsets[index + 1]]
        return Rows(self.kind, rows.copy() if self.kind in (TOKENS, MULTIVECTOR) else rows, (0, len(rows)))

    @classmethod
    def join(cls, parts: Sequence[Rows | None]) -> Rows:
        if len(parts) == 1 and parts[0] is not None:
            return parts[0]
        found = [part for part in parts if part is not None]
        offsets = (0, *accumulate(0 if part is None else len(part.matrix) for part in parts))
        return cls(found[0].kind, np.concatenate([part.matrix for part in found]), offsets)

    def fault(self) -> str:
        """A text's vector of zeros has no direction. Scores may be zero, and so may the vector of one token."""
        largest = np.abs(self.matrix).max(axis=1, initial=0.0)
        if not np.isfinite(largest).all():
            return "the model returned numbers that are not finite"
        return "the model returned a vector of zeros" if self.kind == DENSE and not largest.all() else ""

    def finished(self, embd_normalize: int, dimensions: int | None) -> Rows:
        """Token vectors and scores are only cut, never normalized; multi-vectors keep the length 1."""
        kind = embd_normalize if self.kind == DENSE else -1
        if self.kind == MULTIVECTOR and dimensions is not None:
            kind = 2
        return Rows(self.kind, finish(self.matrix, kind, dimensions), self.offsets)

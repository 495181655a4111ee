"""Sparse vectors as models return them: the weights of a few vocabulary entries per text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from gguf_embed.types import SPARSE

Indices = NDArray[np.int32]
Weights = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class SparseRows:
    """The `Output` for sparse vectors. Text i owns the entries from `offsets[i]` to `offsets[i + 1]`.

    A text's indices are ascending, and its weights are above 0. A text may have none.
    """

    indices: Indices  # int32[n_entries], token ids
    weights: Weights  # float32[n_entries]
    offsets: Sequence[int]  # ascending from 0 to n_entries, n_texts + 1 of them

    @property
    def kind(self) -> str:
        return SPARSE

    @classmethod
    def of(cls, texts: Sequence[tuple[Indices, Weights]]) -> SparseRows:
        """From the indices and weights of each text, in order. At least one text."""
        indices, weights = zip(*texts, strict=True)
        return cls(np.concatenate(indices), np.concatenate(weights), (0, *accumulate(map(len, indices))))

    @classmethod
    def none_of(cls, n_texts: int) -> SparseRows:
        """For texts that all failed."""
        return cls(np.empty(0, np.int32), np.empty(0, np.float32), (0,) * (n_texts + 1))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def text(self, index: int) -> tuple[Indices, Weights]:
        """The indices and weights of one text."""
        begin, end = self.offsets[index], self.offsets[index + 1]
        return self.indices[begin:end], self.weights[begin:end]

    def part(self, index: int) -> SparseRows:
        indices, weights = self.text(index)
        return SparseRows(indices.copy(), weights.copy(), (0, len(indices)))

    @classmethod
    def join(cls, parts: Sequence[SparseRows | None]) -> SparseRows:
        found = [part for part in parts if part is not None]
        offsets = (0, *accumulate(0 if part is None else len(part.indices) for part in parts))
        return cls(
            np.concatenate([part.indices for part in found]), np.concatenate([part.weights for part in found]), offsets
        )

    def fault(self) -> str:
        return "" if np.isfinite(self.weights).all() else "the model returned weights that are not finite"

    def finished(self, embd_normalize: int, dimensions: int | None) -> SparseRows:
        """Unchanged: weights are not normalized, and all entries of the vocabulary are dimensions."""
        return self

"""What a caller may ask about the model behind an `Embedder` or a `Client`, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gguf_embed.types import FloatMatrix

Vector: TypeAlias = NDArray[np.float32]
"""float32[n_dims], of length 1 unless it was asked for as the model gives it."""


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """Weights of some vocabulary entries; all others have 0. A text may have none."""

    indices: NDArray[np.int32]  # token ids, ascending
    values: NDArray[np.float32]  # all above 0


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document of `rerank`."""

    index: int  # in the documents as they were given
    score: float  # higher is better; a logit or a probability, as the model gives it


@dataclass(frozen=True)
class Info:
    """Facts about a model."""

    name: str
    dimensions: int  # numbers per vector
    max_tokens: int | None  # the longest text, special tokens included; None: the server does not tell
    pooling: str  # "mean", "cls", "last", "rank" or "none"; "": the server does not tell
    prompts: Mapping[str, str]  # what the model wants before a text, by name
    find_fingerprint: Callable[[], str] = field(repr=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """ "sha256:…" of the model's file; "" if it is not known.

        The first call of an `Embedder`'s reads the whole file, at about 1 GB/s.
        """
        return self.find_fingerprint()


def similarity(a: Any, b: Any) -> FloatMatrix:
    """The cosine of every vector of `a` with every one of `b`: float32[n, d], float32[m, d] → float32[n, m].

    A single vector, float32[d], counts as one row. The cosine with a vector of zeros is 0.
    """
    left, right = _unit_rows(a), _unit_rows(b)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"the vectors have {left.shape[1]} and {right.shape[1]} dimensions: use those of one model")
    cosines: FloatMatrix = np.clip(left @ right.T, -1.0, 1.0)
    return cosines


def _unit_rows(vectors: Any) -> FloatMatrix:
    rows = np.asarray(vectors)
    if rows.dtype.kind not in "fiu" or rows.ndim not in (1, 2):
        raise TypeError("similarity() compares vectors, one or a matrix of them: embed the texts first")
    matrix = np.atleast_2d(np.asarray(rows, np.float32))
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / np.where(lengths > 0.0, lengths, 1.0), np.float32)

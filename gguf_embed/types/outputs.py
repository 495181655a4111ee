"""Kinds of model output: an `OutputSpec` requests one, and an `Output` holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self


class Pooling(StrEnum):
    """llama.cpp's names for how a text's token rows are pooled.

    Mean, cls and last pool them into one vector. None and rank are other kinds of output, see `OutputSpec.of`.
    """

    NONE = "none"
    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    RANK = "rank"


DENSE = "dense"
"""Kind of output: one vector per text, or per span of a text."""

TOKENS = "tokens"
"""Kind of output: one vector per token."""

SCORES = "scores"
"""Kind of output: the numbers of a classification head, one row per text."""

MULTIVECTOR = "multivector"
"""Kind of output: one vector per token for late interaction (ColBERT), projected and of length 1."""

SPARSE = "sparse"
"""Kind of output: weights of vocabulary entries (BGE-M3's lexical weights, SPLADE)."""

LISTWISE = "listwise"
"""Kind of output: the vectors of a query and several documents that were read as one text, the query's last."""

MUVERA = "muvera"
"""Kind of output: one vector of fixed size per text, made of its multi-vector, for dot products. Not of length 1."""

JOINT = "joint"
"""Kind of output: several of the others, computed together."""


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """The requested output. Texts with equal specs may share a batch."""

    kind: str
    pooling: Pooling | None = None  # of dense output: mean, cls or last
    is_query: bool = False  # for multi-vectors and sparse vectors: queries are read otherwise than documents
    parts: tuple[str, ...] = ()  # of joint output: the kinds
    unattended: int | None = None  # of token rows: no token attends to those with this id at the end of a text
    for_scores: bool = False  # of token rows: scores are made of them, so they are computed as exactly as scores

    @classmethod
    def of(cls, pooling: Pooling) -> OutputSpec:
        """The output that llama.cpp gives with this pooling."""
        return _SPECS[pooling]

    @property
    def pooling_name(self) -> str:
        """The name of llama.cpp's pooling for this output; the kind if llama.cpp has none."""
        own = (self.kind, self.pooling)
        return next((pooling.value for pooling, spec in _SPECS.items() if (spec.kind, spec.pooling) == own), self.kind)


_SPECS = {
    Pooling.NONE: OutputSpec(TOKENS),
    Pooling.MEAN: OutputSpec(DENSE, Pooling.MEAN),
    Pooling.CLS: OutputSpec(DENSE, Pooling.CLS),
    Pooling.LAST: OutputSpec(DENSE, Pooling.LAST),
    Pooling.RANK: OutputSpec(SCORES),
}


class Output(Protocol):
    """The output for several texts. Immutable. A new kind of output is a new class with these methods."""

    @property
    def kind(self) -> str: ...

    def __len__(self) -> int:
        """The number of texts."""
        ...

    def part(self, index: int) -> Self:
        """The output of text `index` alone. Does not keep a large array of the other texts in memory."""
        ...

    @classmethod
    def join(cls, parts: Sequence[Self | None]) -> Self:
        """Join outputs of one text each; None for a text without output. At least one part is not None."""
        ...

    def fault(self) -> str:
        """Why this is no answer for some of its texts: numbers that are not finite, or a vector of zeros; else ""."""
        ...

    def finished(self, embd_normalize: int, dimensions: int | None) -> Self:
        """Cut to `dimensions` (None: all) and normalized (`vectors.normalize`), where this kind of output allows it."""
        ...

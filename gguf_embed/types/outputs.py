"""What texts become: a kind of output, asked for by an `OutputSpec`, answered by a value that knows its own shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self


class Pooling(StrEnum):
    """llama.cpp's names for what becomes of a text's token rows.

    Mean, cls and last pool them into one vector. None and rank are kinds of output: `OutputSpec.of` tells them apart.
    """

    NONE = "none"
    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    RANK = "rank"


DENSE = "dense"
"""Kind of output: one vector per text (or per span of a text)."""

TOKENS = "tokens"
"""Kind of output: one vector per token."""

SCORES = "scores"
"""Kind of output: the numbers of a classification head, one row per text."""


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """The output that is wanted. Texts with equal specs may share a batch."""

    kind: str
    pooling: Pooling | None = None  # of dense output: mean, cls or last

    @classmethod
    def of(cls, pooling: Pooling) -> OutputSpec:
        """The output that llama.cpp calls by this pooling."""
        return _SPECS[pooling]

    @property
    def pooling_name(self) -> str:
        """llama.cpp's word for it, as `--pooling` takes it; the kind where llama.cpp has none."""
        return next((pooling.value for pooling, spec in _SPECS.items() if spec == self), self.kind)


_SPECS = {
    Pooling.NONE: OutputSpec(TOKENS),
    Pooling.MEAN: OutputSpec(DENSE, Pooling.MEAN),
    Pooling.CLS: OutputSpec(DENSE, Pooling.CLS),
    Pooling.LAST: OutputSpec(DENSE, Pooling.LAST),
    Pooling.RANK: OutputSpec(SCORES),
}


class Output(Protocol):
    """What several texts became. Immutable; a new kind of output is a class of its own with these methods."""

    @property
    def kind(self) -> str: ...

    def __len__(self) -> int:
        """The number of texts."""
        ...

    def part(self, index: int) -> Self:
        """What text `index` became, alone. Keeps no large memory of the other texts alive."""
        ...

    @classmethod
    def join(cls, parts: Sequence[Self | None]) -> Self:
        """The outputs of several parts, of one text each, as one; None for a text that has none. One part at least."""
        ...

    def is_finite(self) -> bool:
        """Whether all numbers are finite: an engine's broken batch is found by this."""
        ...

    def finished(self, embd_normalize: int, dimensions: int | None) -> Self:
        """Cut to `dimensions` (None: all) and normalized (`vectors.normalize`), as far as that has a meaning here."""
        ...

"""How many tokens a part of a text has, from the offsets of all its tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

import numpy as np

from gguf_embed.tokenization.offsets import OffsetUnit, unit_starts
from gguf_embed.types import Span

BYTES_PER_TOKEN: Final = 4
"""Assumed where nothing can tokenize: characters, of texts in ASCII."""


class TokenCounts:
    """Counts tokens in O(log n). A token that lies across the border of a part belongs to the parts on both sides."""

    def __init__(self, starts: Sequence[int], ends: Sequence[int], *, is_exact: bool = True) -> None:
        """First character of each token, and the character after its last. Both ascend.

        `is_exact`: false if some positions are guessed.
        """
        self.starts = starts
        self.is_exact = is_exact
        self._ends = ends

    def before(self, position: int) -> int:
        """Tokens that begin before a position."""
        return bisect_left(self.starts, position)

    def ended(self, position: int) -> int:
        """Tokens that have ended at a position."""
        return bisect_right(self._ends, position)

    def between(self, start: int, end: int) -> int:
        return max(0, self.before(end) - self.ended(start))

    def __len__(self) -> int:
        return len(self.starts)


def counts_of_spans(parts: Sequence[tuple[int, int, Sequence[Span | None]]]) -> TokenCounts:
    """Of consecutive parts of a text: where each starts and ends, and its tokens' spans relative to its start."""
    starts: list[int] = []
    ends: list[int] = []
    is_exact = True
    for start, end, spans in parts:
        if None in spans:
            is_exact = False
            spans = _without_gaps(spans, end - start)
        # a gap is None only in a type: `_without_gaps` has filled them
        starts += [span[0] + start for span in spans if span is not None]
        ends += [span[1] + start for span in spans if span is not None]
    # aligned offsets may step back by a character, where two tokens share it
    return TokenCounts(list(accumulate(starts, max)), list(accumulate(ends, max)), is_exact=is_exact)


def estimated_counts(text: str) -> TokenCounts:
    """One token per four bytes of UTF-8, which for English are four characters, and for Chinese more than one."""
    positions = unit_starts(text, OffsetUnit.UTF8)
    n_bytes = positions[-1]
    if n_bytes == len(text):
        return TokenCounts(
            range(0, n_bytes, BYTES_PER_TOKEN),
            range(BYTES_PER_TOKEN, n_bytes + BYTES_PER_TOKEN, BYTES_PER_TOKEN),
            is_exact=False,
        )
    marks = np.arange(0, n_bytes, BYTES_PER_TOKEN)
    byte_starts = np.asarray(positions)
    starts = np.searchsorted(byte_starts, marks, side="right") - 1
    ends = np.searchsorted(byte_starts, np.minimum(marks + BYTES_PER_TOKEN, n_bytes), side="left")
    return TokenCounts(starts.tolist(), ends.tolist(), is_exact=False)


def _without_gaps(spans: Sequence[Span | None], length: int) -> list[Span]:
    """Tokens of unknown position are spread evenly between their neighbours."""
    filled: list[Span] = []
    n_unknown = 0
    for span in [*spans, (length, length)]:
        if span is None:
            n_unknown += 1
            continue
        if n_unknown:
            filled += _spread(n_unknown, filled[-1][1] if filled else 0, span[0])
            n_unknown = 0
        filled.append(span)
    return filled[:-1]


def _spread(n_tokens: int, start: int, end: int) -> list[Span]:
    width = max(0, end - start)
    edges = [start + width * index // n_tokens for index in range(n_tokens + 1)]
    # a token has at least one character: the one before it, if need be
    return [(min(first, max(0, last - 1)), max(last, 1)) for first, last in pairwise(edges)]

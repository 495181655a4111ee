"""Long texts in windows and spans of characters as token rows: which tokens belong to which, and the means. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from gguf_embed.types import FloatMatrix, Span


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a text that the model reads by itself."""

    positions: Sequence[int]  # in the whole text's tokens; special tokens are in every window
    n_own: int  # tokens that are in this window only: its weight


def plan_windows(n_tokens: int, n_opening: int, n_closing: int, limit: int) -> list[Window]:
    """Cut a text into windows of at most `limit` tokens, each within its special tokens, all but the last one full.

    They do not overlap: each of the text's own tokens is read once. `limit` leaves room for one at least.
    """
    room = limit - n_opening - n_closing
    assert room >= 1, (limit, n_opening, n_closing)
    end = n_tokens - n_closing
    opening, closing = range(n_opening), range(end, n_tokens)
    return [
        Window([*opening, *range(begin, min(begin + room, end)), *closing], min(room, end - begin))
        for begin in range(n_opening, end, room)
    ]


def weighted_mean(vectors: FloatMatrix, weights: Sequence[int]) -> FloatMatrix:
    """float32[1, d] of float32[n, d]."""
    mean = np.average(vectors, axis=0, weights=weights, keepdims=True)
    return np.asarray(mean, np.float32)


def span_rows(offsets: Sequence[Span | None], spans: Sequence[Span], n_characters: int) -> list[range | None]:
    """Which token rows make up each span of a text of `n_characters`; None for a span that no token lies in.

    A token belongs to every span that it overlaps. What stands before the text's first token (special tokens, a
    prompt) belongs to the spans that begin where the text begins, what stands after its last to those that end with
    it: so the span of the whole text is the whole text. Jina's late chunking extends its first and last chunk like
    that. A token whose place is not known belongs to the spans with tokens on both sides of it.
    """
    placed = [(index, span) for index, span in enumerate(offsets) if span is not None]
    starts = [start for _, (start, _) in placed]
    ends = list(accumulate((end for _, (_, end) in placed), max))
    rows: list[range | None] = []
    for start, end in spans:
        first, stop = bisect_right(ends, start), bisect_left(starts, end)
        if first >= stop:
            rows.append(None)
            continue
        low = 0 if start == 0 else placed[first][0]
        high = len(offsets) if end == n_characters else placed[stop - 1][0] + 1
        rows.append(range(low, high))
    return rows


def mean_over(rows: FloatMatrix, ranges: Sequence[range]) -> FloatMatrix:
    """The mean of each range of float32[n, d]: float32[len(ranges), d]. Ranges may overlap; none is empty.

    Each row is added up once, however many ranges there are.
    """
    borders = sorted({0, *(r.start for r in ranges), *(r.stop for r in ranges)})
    begins = [border for border in borders if border < len(rows)]
    sums = np.add.reduceat(rows, begins, axis=0, dtype=np.float64)
    before = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(sums, axis=0)])
    at = {border: index for index, border in enumerate(borders)}
    totals = before[[at[r.stop] for r in ranges]] - before[[at[r.start] for r in ranges]]
    return np.asarray(totals / np.array([[len(r)] for r in ranges]), np.float32)

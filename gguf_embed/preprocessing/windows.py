"""Splits long texts into windows, maps spans of characters to token rows, and computes their means. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from gguf_embed.types import FloatMatrix, Span


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a text that the model reads separately."""

    positions: Sequence[int]  # in the whole text's tokens; every window contains the special tokens
    n_own: int  # tokens that only this window contains: its weight


def plan_windows(n_tokens: int, n_opening: int, n_closing: int, limit: int) -> list[Window]:
    """Split a text into windows of at most `limit` tokens, each with the special tokens; all but the last are full.

    They do not overlap: each of the text's own tokens is read once. `limit` must leave room for at least one.
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
    """The weighted mean of float32[n, d] as float32[1, d]."""
    mean = np.average(vectors, axis=0, weights=weights, keepdims=True)
    return np.asarray(mean, np.float32)


def span_rows(offsets: Sequence[Span | None], spans: Sequence[Span], n_characters: int) -> list[range | None]:
    """The token rows of each span of a text of `n_characters`; None for a span that contains no token.

    A token belongs to every span that it overlaps. Tokens before the text's first one (special tokens, a prompt)
    belong to the spans that begin where the text begins, and tokens after its last one to the spans that end where it
    ends, so that a span over the whole text covers all tokens. Jina's late chunking extends its first and last chunk
    in the same way. A token with unknown offsets belongs to the spans with tokens on both sides of it.
    """
    located = [(index, span) for index, span in enumerate(offsets) if span is not None]
    starts = [start for _, (start, _) in located]
    ends = list(accumulate((end for _, (_, end) in located), max))
    rows: list[range | None] = []
    for start, end in spans:
        first, stop = bisect_right(ends, start), bisect_left(starts, end)
        if first >= stop:
            rows.append(None)
            continue
        low = 0 if start == 0 else located[first][0]
        high = len(offsets) if end == n_characters else located[stop - 1][0] + 1
        rows.append(range(low, high))
    return rows


def mean_over(rows: FloatMatrix, ranges: Sequence[range]) -> FloatMatrix:
    """The mean over each range of rows of float32[n, d]: float32[len(ranges), d]. Ranges may overlap; none is empty.

    Each row is summed only once, even if it belongs to many ranges.
    """
    borders = sorted({0, *(r.start for r in ranges), *(r.stop for r in ranges)})
    begins = [border for border in borders if border < len(rows)]
    sums = np.add.reduceat(rows, begins, axis=0, dtype=np.float64)
    before = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(sums, axis=0)])
    at = {border: index for index, border in enumerate(borders)}
    totals = before[[at[r.stop] for r in ranges]] - before[[at[r.start] for r in ranges]]
    return np.asarray(totals / np.array([[len(r)] for r in ranges]), np.float32)

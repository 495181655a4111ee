"""How a batch of texts of different lengths is computed: in which parts, each padded to its longest text. Pure."""

from __future__ import annotations

from collections.abc import Sequence

PART_TOKENS = 24
"""What it costs to compute one more part, in tokens: the time of a graph's calls that does not depend on their size."""


def split_by_length(lengths: Sequence[int], part_tokens: int = PART_TOKENS) -> list[list[int]]:
    """The numbers of the texts in each part. Texts of similar length are together, so that little is padding.

    Minimizes the padded tokens plus `part_tokens` for each part, over all ways to cut the texts sorted by length.
    """
    order = sorted(range(len(lengths)), key=lambda number: lengths[number])
    least_cost = [0.0] + [float("inf")] * len(order)  # of the first n texts
    start_of_last = [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        for start in range(end - 1, -1, -1):
            padded = (end - start) * longest
            if padded + part_tokens >= least_cost[end]:
                break  # a longer part costs even more
            cost = least_cost[start] + padded + part_tokens
            if cost < least_cost[end]:
                least_cost[end], start_of_last[end] = cost, start
    parts: list[list[int]] = []
    end = len(order)
    while end > 0:
        parts.append(order[start_of_last[end] : end])
        end = start_of_last[end]
    return parts[::-1]

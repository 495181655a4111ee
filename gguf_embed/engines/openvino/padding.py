"""How a batch of texts of different lengths is computed: in which parts, each padded to its longest text. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Padding:
    """What a graph's shapes cost in a precision."""

    multiple: int  # texts are padded to a multiple of so many tokens
    part_tokens: int  # computing one more part takes as long as so many tokens more in a part

    def padded(self, length: int) -> int:
        return -(-length // self.multiple) * self.multiple


def split_by_length(lengths: Sequence[int], padding: Padding) -> list[list[int]]:
    """The numbers of the texts in each part. Texts of similar length are together, so that little is padding.

    Minimizes the padded tokens plus `part_tokens` for each part, over all ways to cut the texts sorted by length.
    """
    order = sorted(range(len(lengths)), key=lambda number: lengths[number])
    least_cost = [0.0] + [float("inf")] * len(order)  # of the first n texts
    start_of_last = [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        longest = padding.padded(lengths[order[end - 1]])
        for start in range(end - 1, -1, -1):
            part_cost = (end - start) * longest + padding.part_tokens
            if part_cost >= least_cost[end]:
                break  # a longer part costs even more
            if least_cost[start] + part_cost < least_cost[end]:
                least_cost[end], start_of_last[end] = least_cost[start] + part_cost, start
    parts: list[list[int]] = []
    end = len(order)
    while end > 0:
        parts.append(order[start_of_last[end] : end])
        end = start_of_last[end]
    return parts[::-1]

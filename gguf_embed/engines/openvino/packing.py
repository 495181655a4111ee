"""How the texts of a batch stand in a graph's inputs. Pure.

The layers see the tokens of all texts packed, one after another, so that nothing is computed for padding. Only
attention, where a text must not see the others, has a row per text, each as wide as the longest.

Symbols: B texts, some of them unused; N packed rows, the tokens of all texts and a few unused rows; T slots per text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gguf_embed.types import FloatMatrix, Pooling

Indices = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Cost:
    """What computing a batch costs with a graph, in a precision."""

    row_multiple: int  # N is a multiple of it
    slot_multiple: int  # T is a multiple of it
    sizes_per_doubling: int  # B, N and T have at most so many values between n and 2n
    part_tokens: int  # one more part takes as long as so many tokens
    slots_per_token: int  # attention of a text: T² slots take as long as T² / slots_per_token tokens

    def shape(self, n_texts: int, n_tokens: int, longest: int) -> list[int]:
        """B, N and T for a batch of `n_tokens`, whose longest text has `longest`."""
        shape = []
        for count, multiple in ((n_texts, 1), (n_tokens, self.row_multiple), (longest, self.slot_multiple)):
            step = max(multiple, (1 << (count - 1).bit_length()) // 2 // self.sizes_per_doubling)
            shape.append(-(-count // step) * step)
        return shape

    def attention(self, longest: int) -> float:
        """Of one text among others whose longest has so many tokens, in tokens."""
        width = -(-longest // self.slot_multiple) * self.slot_multiple
        return width * width / self.slots_per_token


@dataclass(frozen=True, slots=True)
class Packing:
    """Where each token stands, packed and in its text's slots."""

    lengths: Indices  # [B], tokens per text; 1 for unused texts, which consist of the first row
    slots: Indices  # [B, T]: the packed row in each slot; slots after the text's end repeat its last row
    places: Indices  # [N]: the slot of each packed row, counted over all texts; 0 for unused rows
    positions: Indices  # [N]: of each token in its text

    @classmethod
    def of(cls, lengths: Sequence[int] | Indices, cost: Cost) -> Packing:
        """Every text has at least one token."""
        used = np.asarray(lengths, np.int32)
        n_tokens = int(used.sum())
        n_texts, n_rows, width = cost.shape(len(used), n_tokens, int(used.max()))
        columns = np.arange(width, dtype=np.int32)
        starts = np.cumsum(used, dtype=np.int32) - used
        padded, slots = np.ones(n_texts, np.int32), np.zeros((n_texts, width), np.int32)
        padded[: len(used)] = used
        slots[: len(used)] = starts[:, np.newaxis] + np.minimum(columns, used[:, np.newaxis] - 1)
        places, positions = np.zeros(n_rows, np.int32), np.zeros(n_rows, np.int32)
        places[:n_tokens] = np.flatnonzero(columns < used[:, np.newaxis])
        positions[:n_tokens] = places[:n_tokens] % width
        return cls(padded, slots, places, positions)

    def rows(self, tokens: FloatMatrix) -> FloatMatrix:
        """float32[N, D] from float32[n_tokens, D]: the unused rows are zeros."""
        if len(tokens) == len(self.places):
            return tokens
        packed: FloatMatrix = np.zeros((len(self.places), tokens.shape[1]), np.float32)
        packed[: len(tokens)] = tokens
        return packed

    def attended(self, batch: Sequence[Sequence[int]], unattended: int) -> Indices:
        """int32[B, 1]: how many tokens of each text others attend to: not to those `unattended` at its end."""
        lengths = self.lengths.copy()
        lengths[: len(batch)] = [n_attended(text, unattended) for text in batch]
        return lengths[:, np.newaxis]

    def pooling(self, kind: Pooling) -> FloatMatrix:
        """float32[B, 1, T]: the weight of each token in its text's vector."""
        weights: FloatMatrix = np.zeros((len(self.lengths), 1, self.slots.shape[1]), np.float32)
        match kind:
            case Pooling.CLS:
                weights[:, 0, 0] = 1
            case Pooling.LAST:
                weights[np.arange(len(self.lengths)), 0, self.lengths - 1] = 1
            case _:
                inside = np.arange(self.slots.shape[1]) < self.lengths[:, np.newaxis]
                weights[:, 0] = inside / self.lengths[:, np.newaxis].astype(np.float32)
        return weights


def n_attended(text: Sequence[int], unattended: int) -> int:
    """The length of a text without `unattended` at its end; at least 1."""
    end = len(text)
    while end > 1 and text[end - 1] == unattended:
        end -= 1
    return end


def split_by_length(lengths: Sequence[int], cost: Cost) -> list[list[int]]:
    """The numbers of the texts in each part. Texts of similar length are together, so that few slots are empty.

    Minimizes the cost of attention plus that of the parts, over all ways to cut the texts sorted by length.
    """
    order = sorted(range(len(lengths)), key=lambda number: lengths[number])
    least_cost = [0.0] + [float("inf")] * len(order)  # of the first n texts
    start_of_last = [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        attention = cost.attention(lengths[order[end - 1]])
        for start in range(end - 1, -1, -1):
            part_cost = (end - start) * attention + cost.part_tokens
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

"""Which ids are stored, in eight bytes for each."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]


def hashes_of(ids: pa.Array | Iterable[str]) -> Hashes:
    """uint64[n]. Two of 100 million ids have the same one with a probability of 0.03 %."""
    listed = ids.to_pylist() if isinstance(ids, pa.Array) else ids
    return np.frombuffer(b"".join(blake2b(id_.encode(), digest_size=8).digest() for id_ in listed), "<u8")


class IdSet:
    """Sorted arrays, each at least twice as long as the next, so that adding costs little at any size."""

    def __init__(self) -> None:
        self._levels: list[Hashes] = []

    def add(self, hashes: Hashes) -> None:
        self._levels.append(np.sort(hashes))
        while len(self._levels) > 1 and len(self._levels[-2]) < 2 * len(self._levels[-1]):
            last = self._levels.pop()
            # a stable sort merges what is sorted already
            self._levels[-1] = np.sort(np.concatenate((self._levels[-1], last)), kind="stable")

    def contains(self, hashes: Hashes) -> NDArray[np.bool_]:
        found = np.zeros(len(hashes), np.bool_)
        for level in self._levels:
            found |= is_in(hashes, level)
        return found

    def clear(self) -> None:
        self._levels.clear()


def is_in(hashes: Hashes, ordered: Hashes) -> NDArray[np.bool_]:
    """For each hash whether it is in an array that is sorted."""
    if not len(ordered):
        return np.zeros(len(hashes), np.bool_)
    found: NDArray[np.bool_] = ordered[np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)] == hashes
    return found


class Removals:
    """Which rows of a sequence of parts are out of date: those whose id a later part removed or replaced."""

    def __init__(self, removed: Iterable[tuple[int, Hashes]]) -> None:
        """`removed`: the index of a part, and the ids that it removes from the parts before it."""
        listed = [(np.full(len(hashes), index), hashes) for index, hashes in removed]
        indices = np.concatenate([index for index, _ in listed]) if listed else np.zeros(0, np.int64)
        hashes = np.concatenate([found for _, found in listed]) if listed else np.zeros(0, np.uint64)
        order = np.lexsort((indices, hashes))
        hashes, indices = hashes[order], indices[order]
        is_last = np.append(hashes[1:] != hashes[:-1], True)[: len(hashes)]
        self._hashes, self._indices = hashes[is_last], indices[is_last]

    def live(self, index: int, ids: pa.Array) -> NDArray[np.bool_] | None:
        """Which rows of part `index` still count; None: all."""
        if not len(self._hashes) or index >= self._indices.max():
            return None
        wanted = hashes_of(ids)
        place = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        live: NDArray[np.bool_] = (self._hashes[place] != wanted) | (self._indices[place] <= index)
        return live

    def __bool__(self) -> bool:
        return len(self._hashes) > 0

"""A table that keeps what was used last, bounded in bytes. Pure: no clock, no lock, no thread."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

ValueT = TypeVar("ValueT")


class LruTable(Generic[ValueT]):
    """Values by key. When they take more than `max_bytes`, those not used for the longest time are removed."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, tuple[ValueT, int]] = OrderedDict()
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> ValueT | None:
        """The value, which counts as used now; None if there is none."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: bytes, value: ValueT, n_bytes: int) -> int:
        """Keep a value of this size, or replace the one with this key. Returns how many others gave way to it.

        A value larger than the whole table is not kept.
        """
        replaced = self._entries.pop(key, None)
        if replaced is not None:
            self.n_bytes -= replaced[1]
        if n_bytes > self._max_bytes:
            return 0
        self._entries[key] = value, n_bytes
        self.n_bytes += n_bytes
        n_evicted = 0
        while self.n_bytes > self._max_bytes:
            _, (_, size) = self._entries.popitem(last=False)
            self.n_bytes -= size
            n_evicted += 1
        return n_evicted

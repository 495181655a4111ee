"""Splits what comes one by one into lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def batched(items: Iterable[Item], n: int) -> Iterator[list[Item]]:
    """Lists of `n` items, the last one shorter. As in itertools, from Python 3.12 on."""
    iterator = iter(items)
    while batch := list(islice(iterator, n)):
        yield batch

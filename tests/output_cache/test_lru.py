"""The table against a naive model of it, and what the model cannot show."""

from __future__ import annotations

from random import Random

import pytest

from gguf_embed.output_cache.lru import LruTable

A, B, C, D = b"a", b"b", b"c", b"d"


@pytest.mark.parametrize(
    ("actions", "kept"),
    [
        ("+a +b +c", "abc"),
        ("+a +b +c +d", "bcd"),  # the oldest gives way
        ("+a +b +c ?a +d", "acd"),  # reading is use
        ("+a +b +c ?d +d", "bcd"),  # but not of what is not there
        ("+a +b +c +a +d", "acd"),  # so is writing
        ("+a +b +C", "bC"),  # one of two units
        ("+a +b +c +A", "cA"),  # a larger value under the same key
        ("+A +b +a +c", "abc"),  # a smaller one
        ("+a +b *c", "ab"),  # larger than the table: not kept
        ("+a +b *a", "b"),  # and what it would have replaced is gone
    ],
)
def test_what_is_kept(actions, kept):
    """Sizes: a letter takes 1 of 3 units, a capital one 2 under the same key; * takes 4."""
    table: LruTable[str] = LruTable(3)
    for action, letter in actions.split():
        key = letter.lower().encode()
        if action == "?":
            table.get(key)
        else:
            table.put(key, letter, 4 if action == "*" else 2 if letter.isupper() else 1)
    assert {letter for letter in "abcdABCD" if table.get(letter.lower().encode()) == letter} == set(kept)
    assert table.n_bytes == sum(2 if letter.isupper() else 1 for letter in kept)
    assert len(table) == len(kept)


class Naive:
    """The same, as a list in the order of use."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.entries = max_bytes, []

    def get(self, key):
        found = next((entry for entry in self.entries if entry[0] == key), None)
        if found is None:
            return None
        self.entries.remove(found)
        self.entries.append(found)
        return found[1]

    def put(self, key, value, n_bytes):
        self.entries = [entry for entry in self.entries if entry[0] != key]
        if n_bytes > self.max_bytes:
            return 0
        self.entries.append((key, value, n_bytes))
        n_before = len(self.entries)
        while sum(size for _, _, size in self.entries) > self.max_bytes:
            del self.entries[0]
        return n_before - len(self.entries)


@pytest.mark.parametrize("seed", range(30))
def test_any_sequence_of_actions_gives_what_the_model_gives(seed):
    random = Random(seed)
    max_bytes = random.choice([0, 1, 7, 40])
    table, naive = LruTable(max_bytes), Naive(max_bytes)
    for value in range(500):
        key = random.randbytes(1) if random.random() < 0.1 else bytes([random.randrange(12)])
        if random.random() < 0.5:
            assert table.get(key) == naive.get(key)
        else:
            n_bytes = random.randrange(1, 12)
            assert table.put(key, value, n_bytes) == naive.put(key, value, n_bytes)
        assert len(table) == len(naive.entries)
        assert table.n_bytes == sum(size for _, _, size in naive.entries) <= max_bytes

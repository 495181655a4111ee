"""Texts of similar length are computed together, at the least cost that any cut of the sorted texts has."""

from __future__ import annotations

import random
import time
from itertools import combinations, pairwise

import pytest

from gguf_embed.engines.openvino.padding import Padding, split_by_length

PADDING = Padding(multiple=1, part_tokens=24)

CASES = {
    "one": [7],
    "equal": [21] * 12,
    "two kinds": [5] * 10 + [120] * 2,
    "one long": [4, 512, 4, 4, 4, 4, 4, 4],
    "mixed": [10, 21, 21, 40, 120, 3, 64, 21, 300],
    "ascending": list(range(1, 40)),
    "descending": list(range(200, 1, -7)),
    "all ones": [1] * 64,
}


def cost(lengths: list[int], parts: list[list[int]], part_tokens: int = PADDING.part_tokens) -> int:
    return sum(part_tokens + len(part) * max(lengths[number] for number in part) for part in parts)


def least_cost(lengths: list[int], part_tokens: int) -> int:
    """Over all ways to cut the sorted texts."""
    ordered, n = sorted(lengths), len(lengths)
    cuts = (chosen for count in range(n) for chosen in combinations(range(1, n), count))
    return min(
        sum(part_tokens + (end - start) * ordered[end - 1] for start, end in pairwise((0, *chosen, n)))
        for chosen in cuts
    )


@pytest.mark.parametrize("lengths", CASES.values(), ids=CASES)
def test_every_text_is_computed_once(lengths):
    parts = split_by_length(lengths, PADDING)
    assert sorted(number for part in parts for number in part) == list(range(len(lengths)))
    assert all(parts)


@pytest.mark.parametrize("lengths", CASES.values(), ids=CASES)
def test_it_costs_no_more_than_one_part_or_each_text_alone(lengths):
    found = cost(lengths, split_by_length(lengths, PADDING))
    assert found <= cost(lengths, [list(range(len(lengths)))])
    assert found <= cost(lengths, [[number] for number in range(len(lengths))])


@pytest.mark.parametrize("part_tokens", [1, 24, 200])
def test_no_cut_costs_less(part_tokens):
    chance = random.Random(part_tokens)
    for _ in range(60):
        lengths = [chance.choice((1, 2, 5, 20, 21, 60, 200)) for _ in range(chance.randint(1, 8))]
        found = cost(lengths, split_by_length(lengths, Padding(1, part_tokens)), part_tokens)
        assert found == least_cost(lengths, part_tokens), lengths


def test_texts_of_one_length_are_in_one_part():
    chance = random.Random(0)
    for _ in range(60):
        lengths = [chance.randint(1, 40) for _ in range(40)]
        parts = split_by_length(lengths, PADDING)
        part_of = {number: index for index, part in enumerate(parts) for number in part}
        assert len({(length, part_of[number]) for number, length in enumerate(lengths)}) == len(set(lengths))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([3, 2, 1], [[2, 1, 0]]),  # no cut saves as much as a part costs
        ([100, 1, 100, 1], [[1, 3], [0, 2]]),
        ([1, 24], [[0, 1]]),
        ([1, 26], [[0], [1]]),
    ],
)
def test_a_cut_must_save_more_than_a_part_costs(lengths, expected):
    assert split_by_length(lengths, PADDING) == expected


@pytest.mark.parametrize("lengths", [[21] * 256, [1 + number % 200 for number in range(256)]], ids=["equal", "mixed"])
def test_the_largest_batch_is_split_in_milliseconds(lengths):
    split_by_length(lengths, PADDING)
    took_s = []
    for _ in range(5):
        started_s = time.process_time()
        split_by_length(lengths, PADDING)
        took_s.append(time.process_time() - started_s)
    assert min(took_s) < 0.03


@pytest.mark.parametrize(
    ("lengths", "parts"),
    [([3, 16, 9], [[0, 2, 1]]), ([16, 17] * 8, [[*range(0, 16, 2)], [*range(1, 16, 2)]])],
    ids=["all padded to 16", "half of them to 32"],
)
def test_texts_are_padded_to_a_multiple(lengths, parts):
    padding = Padding(multiple=16, part_tokens=24)
    assert [padding.padded(n) for n in (1, 16, 17, 32)] == [16, 16, 32, 32]
    assert split_by_length(lengths, padding) == parts

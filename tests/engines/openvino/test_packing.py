"""Every token has its place, and texts of similar length are computed together, at the least cost of any cut."""

from __future__ import annotations

import random
import time
from itertools import combinations, pairwise

import numpy as np
import pytest

from gguf_embed.engines.openvino.packing import Cost, Packing, split_by_length
from gguf_embed.types import Pooling

COST = Cost(row_multiple=1, slot_multiple=1, sizes_per_doubling=100, part_tokens=24, slots_per_token=100)

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


def cost_of(lengths: list[int], parts: list[list[int]], cost: Cost = COST) -> float:
    return sum(cost.part_tokens + len(part) * cost.attention(max(lengths[number] for number in part)) for part in parts)


def least_cost(lengths: list[int], cost: Cost) -> float:
    """Over all ways to cut the sorted texts."""
    ordered, n = sorted(lengths), len(lengths)
    cuts = (chosen for count in range(n) for chosen in combinations(range(1, n), count))
    return min(
        sum(
            cost.part_tokens + (end - start) * cost.attention(ordered[end - 1])
            for start, end in pairwise((0, *chosen, n))
        )
        for chosen in cuts
    )


@pytest.mark.parametrize("multiple", [1, 8, 16])
@pytest.mark.parametrize("lengths", CASES.values(), ids=CASES)
def test_every_token_has_its_own_slot_and_every_slot_a_token_of_its_text(lengths, multiple):
    packing = Packing.of(lengths, Cost(multiple, multiple, 8, 24, 100))
    tokens = np.arange(1, sum(lengths) + 1, dtype=np.float32)[:, np.newaxis]  # what stands in each packed row
    rows = packing.rows(tokens)
    assert len(rows) % multiple == 0
    assert not rows[len(tokens) :].any()
    slots = rows[packing.slots, 0]
    assert slots.shape[1] % multiple == 0
    starts = np.cumsum([0, *lengths])
    for number, length in enumerate(lengths):
        own = tokens[starts[number] : starts[number + 1], 0]
        np.testing.assert_array_equal(slots[number, :length], own)
        assert set(slots[number]) == set(own)  # nothing of another text reaches it, not even times zero
        np.testing.assert_array_equal(packing.positions[starts[number] : starts[number + 1]], np.arange(length))
    np.testing.assert_array_equal(slots.reshape(-1)[packing.places[: len(tokens)]], tokens[:, 0])
    assert not packing.places[len(tokens) :].any()


def test_the_weights_of_pooled_tokens():
    expected = {
        Pooling.CLS: [[1, 0, 0, 0], [1, 0, 0, 0]],
        Pooling.LAST: [[1, 0, 0, 0], [0, 0, 1, 0]],
        Pooling.MEAN: [[1, 0, 0, 0], [1 / 3, 1 / 3, 1 / 3, 0]],
    }
    for pooling, weights in expected.items():
        found = Packing.of([1, 3], Cost(4, 4, 8, 24, 100)).pooling(pooling)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[:, 0], weights, atol=1e-7)


@pytest.mark.parametrize("lengths", CASES.values(), ids=CASES)
def test_every_text_is_computed_once(lengths):
    parts = split_by_length(lengths, COST)
    assert sorted(number for part in parts for number in part) == list(range(len(lengths)))
    assert all(parts)


@pytest.mark.parametrize("lengths", CASES.values(), ids=CASES)
def test_it_costs_no_more_than_one_part_or_each_text_alone(lengths):
    found = cost_of(lengths, split_by_length(lengths, COST))
    assert found <= cost_of(lengths, [list(range(len(lengths)))])
    assert found <= cost_of(lengths, [[number] for number in range(len(lengths))])


@pytest.mark.parametrize("part_tokens", [1, 24, 200])
def test_no_cut_costs_less(part_tokens):
    chance = random.Random(part_tokens)
    for _ in range(60):
        lengths = [chance.choice((1, 2, 5, 20, 21, 60, 200)) for _ in range(chance.randint(1, 8))]
        cost = Cost(1, 1, 8, part_tokens, 100)
        assert cost_of(lengths, split_by_length(lengths, cost), cost) == pytest.approx(least_cost(lengths, cost)), (
            lengths
        )


def test_texts_of_one_length_are_in_one_part():
    chance = random.Random(0)
    for _ in range(60):
        lengths = [chance.randint(1, 40) for _ in range(40)]
        parts = split_by_length(lengths, COST)
        part_of = {number: index for index, part in enumerate(parts) for number in part}
        assert len({(length, part_of[number]) for number, length in enumerate(lengths)}) == len(set(lengths))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([3, 2, 1], [[2, 1, 0]]),  # no cut saves as much as a part costs
        ([100, 1, 100, 1], [[1, 3], [0, 2]]),
        ([1, 48], [[0, 1]]),  # 48² slots: 23 tokens
        ([1, 50], [[0], [1]]),
    ],
)
def test_a_cut_must_save_more_than_a_part_costs(lengths, expected):
    assert split_by_length(lengths, COST) == expected


@pytest.mark.parametrize("lengths", [[21] * 256, [1 + number % 200 for number in range(256)]], ids=["equal", "mixed"])
def test_the_largest_batch_is_split_in_milliseconds(lengths):
    split_by_length(lengths, COST)
    took_s = []
    for _ in range(5):
        started_s = time.process_time()
        split_by_length(lengths, COST)
        took_s.append(time.process_time() - started_s)
    assert min(took_s) < 0.03


@pytest.mark.parametrize(
    ("lengths", "parts"),
    [([3, 16, 9], [[0, 2, 1]]), ([16, 17] * 8, [[*range(0, 16, 2)], [*range(1, 16, 2)]])],
    ids=["all in 16", "half of them in 32"],
)
def test_slots_are_a_multiple(lengths, parts):
    cost = Cost(row_multiple=8, slot_multiple=16, sizes_per_doubling=8, part_tokens=24, slots_per_token=100)
    assert [cost.shape(1, 1, n)[2] for n in (1, 16, 17, 32)] == [16, 16, 32, 32]
    assert split_by_length(lengths, cost) == parts


@pytest.mark.parametrize(
    ("n_tokens", "n_rows"),
    [
        (1, 8),
        (8, 8),
        (17, 24),
        (99, 104),
        (127, 128),
        (129, 144),
        (241, 256),
        (257, 288),
        (500, 512),
        (513, 576),
        (1008, 1024),
    ],
)
def test_numbers_of_rows(n_tokens, n_rows):
    assert Cost(8, 16, 8, 24, 100).shape(1, n_tokens, 1) == [1, n_rows, 16]


@pytest.mark.parametrize(("multiple", "sizes"), [(8, 16), (8, 8), (16, 8), (1, 1)])
def test_a_graph_sees_few_numbers_of_rows_with_few_unused_ones(multiple, sizes):
    cost = Cost(multiple, multiple, sizes, 24, 100)
    found = [cost.shape(1, n_tokens, 1)[1] for n_tokens in range(1, 1025)]
    assert found == sorted(found)
    assert all(n <= rows < n + max(multiple, n / sizes) for n, rows in enumerate(found, 1))
    for start in (256, 512):
        assert len(set(found[start : 2 * start])) <= sizes


@pytest.mark.parametrize(("n_texts", "n_padded"), [(1, 1), (16, 16), (17, 18), (33, 36), (64, 64), (100, 104)])
def test_unused_texts_consist_of_the_first_row(n_texts, n_padded):
    packing = Packing.of([3] * n_texts, Cost(8, 16, 8, 24, 100))
    assert packing.lengths.tolist() == [3] * n_texts + [1] * (n_padded - n_texts)
    assert packing.slots.shape == (n_padded, 16)
    assert not packing.slots[n_texts:].any()
    assert packing.slots.max() == 3 * n_texts - 1
    assert len(packing.pooling(Pooling.MEAN)) == n_padded
    assert packing.attended([[7, 7, 9]] * n_texts, 9)[:, 0].tolist() == [2] * n_texts + [1] * (n_padded - n_texts)

from __future__ import annotations

from dataclasses import replace

import pytest

from gguf_embed.engines.base import BatchLimits
from gguf_embed.engines.fake import fake_plan
from gguf_embed.scheduler.batching import choose_threads, finish_tags, take_batch, token_budget, weight_of
from gguf_embed.types import Priority
from tests.scheduler.builders import make_tasks

LIMITS = BatchLimits()


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "n_taken"),
    [
        ([], 6, 0),
        ([6], 6, 1),
        ([3, 3, 3], 6, 2),
        ([3, 4, 1], 6, 1),  # the third would fit, but nothing is overtaken
        ([9, 1], 6, 1),  # over the budget: alone
        ([1, 9], 6, 1),
        ([2, 2, 2], 100, 3),
    ],
)
def test_take_batch_fills_the_token_budget_in_order(lengths, max_tokens, n_taken):
    tasks = make_tasks(lengths)
    plan = take_batch(tasks, LIMITS, max_tokens)
    assert plan.taken == tasks[:n_taken]
    assert plan.n_tokens == sum(lengths[:n_taken])
    assert plan.dropped == []


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "n_taken"),
    [
        ([3, 3, 3], 6, 2),
        ([2, 4, 1], 8, 2),  # 2 × 4, then 3 × 4
        ([1, 4], 7, 1),  # 2 × 4, though together they have 5
        ([9, 1], 6, 1),
    ],
)
def test_a_padded_engine_pays_for_the_longest_text_of_a_batch_in_each(lengths, max_tokens, n_taken):
    assert len(take_batch(make_tasks(lengths), replace(LIMITS, is_padded=True), max_tokens).taken) == n_taken


def test_take_batch_stops_at_the_most_sequences():
    assert len(take_batch(make_tasks([1] * 5), BatchLimits(max_sequences=3), 100).taken) == 3


@pytest.mark.parametrize(
    ("lengths", "cancelled", "taken", "dropped"),
    [
        ([3, 3, 3], [1], [0, 2], [1]),
        ([3, 3, 3], [0, 1, 2], [], [0, 1, 2]),
        ([9, 3, 3], [0], [1, 2], [0]),  # a cancelled text takes no room
        ([3, 3, 3, 3], [3], [0, 1], []),  # behind the end of the batch nothing is looked at
    ],
)
def test_take_batch_drops_cancelled_texts(lengths, cancelled, taken, dropped):
    tasks = make_tasks(lengths, cancelled)
    plan = take_batch(tasks, LIMITS, 6)
    assert plan.taken == [tasks[i] for i in taken]
    assert plan.dropped == [tasks[i] for i in dropped]
    assert plan.n_tokens == sum(lengths[i] for i in taken)


@pytest.mark.parametrize(
    ("n_waiting_tokens", "n_idle", "budget"),
    [
        (1000, 2, 256),  # plenty: full batches
        (300, 2, 150),  # an equal share for each idle worker
        (301, 2, 151),
        (60, 2, 48),  # never smaller than worth while
        (300, 1, 256),
        (300, 0, 256),
        (0, 2, 48),
    ],
)
def test_token_budget_shares_the_waiting_tokens_among_idle_workers(n_waiting_tokens, n_idle, budget):
    assert token_budget(BatchLimits(256, 64, 48), n_waiting_tokens, n_idle) == budget


@pytest.mark.parametrize("max_tokens", [16, 32])
def test_token_budget_never_exceeds_what_a_batch_holds(max_tokens):
    assert token_budget(BatchLimits(max_tokens, 64, 48), 1000, 2) == max_tokens


@pytest.mark.parametrize(
    ("total", "n_workers", "n_running", "n_waiting", "n_threads"),
    [
        (2, 2, 0, 0, 2),  # alone on an idle machine: all
        (2, 2, 1, 0, 1),
        (2, 2, 0, 3, 1),  # others will soon want theirs
        (8, 3, 2, 0, 2),
        (2, 4, 1, 0, 1),  # more workers than threads: at least one each
        (4, 1, 0, 9, 4),
    ],
)
def test_choose_threads_gives_all_to_a_lone_worker_and_equal_shares_otherwise(
    total, n_workers, n_running, n_waiting, n_threads
):
    plan = replace(fake_plan(n_workers=n_workers), n_threads=total, alone_threads=total)
    assert choose_threads(plan, n_running, n_waiting) == n_threads


@pytest.mark.parametrize(("n_running", "n_threads"), [(0, 5), (1, 4)])
def test_choose_threads_gives_a_lone_worker_the_measured_number(n_running, n_threads):
    plan = replace(fake_plan(n_workers=2), n_threads=8, alone_threads=5)
    assert choose_threads(plan, n_running, n_waiting=0) == n_threads


@pytest.mark.parametrize(
    ("lengths", "weight", "tags"),
    [([], 1.0, []), ([5], 1.0, [105.0]), ([5, 10, 1], 1.0, [105.0, 115.0, 116.0]), ([8, 8], 4.0, [102.0, 104.0])],
)
def test_the_tags_of_a_request_begin_at_the_virtual_time_and_add_up_its_tokens(lengths, weight, tags):
    assert finish_tags(100.0, lengths, weight) == tags


@pytest.mark.parametrize(
    ("n_tokens", "priority", "weight"),
    [
        (252, Priority.HIGH, 4.0),
        (10, Priority.HIGH, 64.0),
        (252, Priority.LOW, 1 / 4),
        (126, Priority.LOW, 1 / 2),
        (10, Priority.LOW, 1.0),  # as a large normal one
        (252, Priority.BATCH, 1 / 16),
        (10, Priority.BATCH, 1 / 16),  # nobody waits for it
        (1, Priority.BATCH, 1 / 16),
    ],
)
def test_only_what_somebody_waits_for_weighs_more_if_it_is_small(n_tokens, priority, weight):
    assert weight_of(n_tokens, 252, priority) == weight


@pytest.mark.parametrize(
    ("n_tokens", "weight"), [(252, 1.0), (100_000, 1.0), (126, 2.0), (12, 16.0), (1, 16.0), (0, 16.0)]
)
def test_a_request_weighs_more_the_less_of_a_batch_it_needs(n_tokens, weight):
    assert weight_of(n_tokens, 252, Priority.NORMAL) == weight

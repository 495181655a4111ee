"""Thousands of seeded arrivals from many clients into a small queue: shares, order, waiting, refusals, and no loss."""

from __future__ import annotations

import random

import pytest

from gguf_embed.types import Caller, Priority
from tests.scheduler.builders import MAX_TOKENS
from tests.scheduler.crowd import TOKENS_PER_S, Arrival, Crowd


def texts(chance: random.Random, n_texts: int) -> list[int]:
    return [chance.randint(1, MAX_TOKENS) for _ in range(n_texts)]


def many_clients(chance: random.Random, n_requests: int, seconds: float) -> list[Arrival]:
    """Mixed sizes and classes, a fifth of them impatient."""
    classes = [*[Priority.NORMAL] * 6, Priority.HIGH, Priority.LOW, Priority.BATCH]
    return [
        Arrival(
            chance.uniform(0, seconds),
            texts(chance, chance.choice((1, 1, 1, 2, 8, 40))),
            Caller(f"client {chance.randrange(12)}", chance.choice(classes)),
            chance.choice((None, None, None, None, chance.uniform(0.1, 20))),
        )
        for _ in range(n_requests)
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_workers", [1, 3])
def test_in_a_crowd_nobody_is_lost_and_everybody_is_served_in_order(seed, n_workers):
    chance = random.Random(seed)
    arrivals = many_clients(chance, 1500, 500 / n_workers)  # half as much again as can be computed
    crowd = Crowd(n_workers)
    crowd.run(arrivals)
    for arrival in arrivals:
        assert arrival.taken == list(range(len(arrival.taken)))  # in order, each once
        assert arrival.patience_s is not None or len(arrival.taken) == len(arrival.lengths)
    n_tokens = sum(sum(arrival.lengths) for arrival in arrivals if arrival.patience_s is None)
    assert sum(crowd.served.values()) >= n_tokens
    crowd.queue.close()
    assert crowd.queue.take(0) is None  # whatever was left belonged to clients that had left
    state = crowd.queue.state()
    assert (state.n_texts, state.n_tokens, state.n_outside) == (0, 0, 0)
    assert crowd.most_outside_tokens <= crowd.max_wait_s * n_workers * TOKENS_PER_S + 40 * MAX_TOKENS
    assert crowd.most_outside_tokens > 0
    assert len(arrivals) < sum(arrival.n_tries for arrival in arrivals) <= 3 * len(arrivals)


def test_what_else_a_caller_has_makes_it_no_other_client():
    one, other = Caller("a", cache_scope="x"), Caller("a", highest=Priority.LOW, cache_scope=None)
    assert (one, hash(one)) == (other, hash(other))


def backlog(caller: Caller, n_requests: int, n_texts: int, n_tokens: int = MAX_TOKENS) -> list[Arrival]:
    return [Arrival(0.0, [n_tokens] * n_texts, caller) for _ in range(n_requests)]


def shares(*backlogs: list[Arrival], until_s: float = 20.0) -> list[float]:
    """What part of the tokens each backlog's caller got."""
    crowd = Crowd(1, max_queued_tokens=10**9)
    crowd.run([arrival for one in backlogs for arrival in one], until_s)
    return [crowd.served[one[0].caller] / sum(crowd.served.values()) for one in backlogs]


A, B, C = map(Caller, "abc")


@pytest.mark.parametrize(
    ("backlogs", "expected"),
    [
        ([backlog(A, 1, 1000), backlog(B, 100, 10)], [0.5, 0.5]),
        ([backlog(A, 1, 1000), backlog(B, 100, 10), backlog(C, 7, 100)], [1 / 3, 1 / 3, 1 / 3]),
        ([backlog(A, 1, 1000), backlog(Caller("b", Priority.LOW), 1, 1000)], [0.8, 0.2]),
        ([backlog(A, 1, 1000), backlog(Caller("a", Priority.LOW), 1, 1000)], [0.8, 0.2]),
        ([backlog(A, 1, 1000), backlog(Caller("b", Priority.HIGH), 1, 1000)], [0.2, 0.8]),
        ([backlog(A, 1, 1000), backlog(Caller("b", Priority.BATCH), 1, 1000)], [16 / 17, 1 / 17]),
        ([backlog(Caller("a", Priority.BATCH), 9, 1000)], [1.0]),
        # short lines weigh no more than long ones in a batch, and as much as large normal requests in a low class
        ([backlog(A, 1, 1000), backlog(Caller("b", Priority.BATCH), 1000, 1, n_tokens=1)], [16 / 17, 1 / 17]),
        ([backlog(A, 1, 1000), backlog(Caller("b", Priority.LOW), 3000, 1, n_tokens=1)], [0.5, 0.5]),
    ],
)
def test_clients_and_classes_share_by_their_weights(backlogs, expected):
    assert shares(*backlogs) == pytest.approx(expected, abs=0.03)


def test_a_flood_of_short_requests_from_one_client_is_bounded():
    """Short requests weigh more, but a thousand of them weigh what one does: 5 for 2 of 10 tokens."""
    flood, bulk = shares(backlog(A, 1000, 1, n_tokens=2), backlog(B, 1, 1000), until_s=15.0)
    assert flood == pytest.approx(5 / 6, abs=0.03)
    assert bulk == pytest.approx(1 / 6, abs=0.03)


@pytest.mark.parametrize("n_bulk", [1, 8, 32])
@pytest.mark.parametrize("is_own_client", [True, False])
def test_a_query_of_another_client_waits_for_few_batches(n_bulk, is_own_client):
    chance = random.Random(n_bulk)
    callers = [Caller(f"bulk {number}") for number in range(n_bulk)] if is_own_client else [A] * n_bulk
    bulk = [Arrival(chance.uniform(0, 1), texts(chance, 64), caller) for caller in callers]
    queries = [Arrival(chance.uniform(1, 30), [2], Caller("people")) for _ in range(100)]
    crowd = Crowd(2, max_queued_tokens=10**9)
    crowd.run([*bulk, *queries])
    waits_s = sorted(query.done_s - query.at_s for query in queries)
    batch_s = MAX_TOKENS / TOKENS_PER_S
    assert waits_s[94] <= 2.5 * batch_s
    assert waits_s[-1] <= 4 * batch_s


def test_a_batch_job_runs_at_full_speed_while_nobody_else_comes():
    crowd = Crowd(2)
    job = backlog(Caller("job", Priority.BATCH), 20, 10)
    crowd.run(job)
    assert crowd.now_s == pytest.approx(20 * 10 * MAX_TOKENS / (2 * TOKENS_PER_S), rel=0.05)


def test_a_queue_that_waits_longer_refuses_less():
    """200 requests of 41 tokens at once, for 200 tokens of room: the flood of the attack, at a tenth."""
    tries = []
    for max_wait_s in (0.0, 5.0, 100.0):
        flood = [Arrival(0.0, [10, 10, 10, 10, 1], A) for _ in range(200)]
        Crowd(1, max_queued_tokens=200, max_wait_s=max_wait_s).run(flood)
        assert all(arrival.done_s is not None for arrival in flood)
        tries.append(sum(arrival.n_tries for arrival in flood) / 200)
    assert max(tries) <= 3
    assert tries[2] == 1

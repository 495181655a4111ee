"""Endless load: every request that waits, or comes again when it is told, gets in within a bound."""

from __future__ import annotations

import random

import pytest

from gguf_embed.scheduler.admission import overtaken_s
from gguf_embed.scheduler.batching import PRIORITY_WEIGHTS
from gguf_embed.types import Caller, Priority
from tests.scheduler.builders import MAX_TOKENS
from tests.scheduler.crowd import TOKENS_PER_S, Arrival, Crowd

A, B, C = map(Caller, "abc")
LIMIT = 100
UNTIL_S = 300.0


def tokens(n_tokens: int) -> list[int]:
    """As texts."""
    return [MAX_TOKENS] * (n_tokens // MAX_TOKENS) + [n_tokens % MAX_TOKENS] * (n_tokens % MAX_TOKENS > 0)


def besiege(crowd: Crowd, chance: random.Random, large: Arrival) -> None:
    """Until a large request is done, A and B have eight others of 5 to 30 tokens at a time."""

    def one(caller: Caller) -> Arrival:
        return Arrival(crowd.now_s, tokens(chance.randint(5, 30)), caller)

    def after(done: Arrival) -> Arrival | None:
        if done is large:  # no worker has waited for it
            assert sum(crowd.served.values()) >= 0.99 * (crowd.now_s * TOKENS_PER_S - MAX_TOKENS)
        return one(done.caller) if large.done_s is None else None

    crowd.after = after
    crowd.run([*(one(caller) for caller in (A, B) for _ in range(8)), large], UNTIL_S)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_wait_s", [0.0, 0.5, 2.0, 10.0])
@pytest.mark.parametrize("caller", [A, C, Caller("c", Priority.LOW), Caller("a", Priority.BATCH)], ids=str)
@pytest.mark.parametrize("n_tokens", [60, 110, 300])
def test_a_large_request_enters_although_others_keep_the_queue_full(n_tokens, caller, max_wait_s, seed):
    large = Arrival(5.0, tokens(n_tokens), caller)
    crowd = Crowd(1, max_queued_tokens=LIMIT, max_wait_s=max_wait_s)
    besiege(crowd, random.Random(seed), large)
    assert large.done_s is not None
    assert large.done_s - large.at_s <= 25 + overtaken_s(max_wait_s, PRIORITY_WEIGHTS[caller.priority])
    if caller == C:
        assert large.n_tries <= 3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_wait_s", [0.0, 2.0])
def test_of_many_obedient_clients_each_gets_in_again_and_again(max_wait_s, seed):
    """30 clients with one request at a time, of some 30 tokens: all of them take 9 seconds."""
    chance, waits_s, tries = random.Random(seed), [], []

    def one(client: str) -> Arrival:
        return Arrival(crowd.now_s, tokens(chance.choice((2, 5, 10, 10, 20, 60, 110))), Caller(client))

    def after(done: Arrival) -> Arrival:
        waits_s.append(crowd.now_s - done.at_s)
        tries.append(done.n_tries)
        return one(done.caller.client)

    crowd = Crowd(1, max_queued_tokens=LIMIT, max_wait_s=max_wait_s, after=after)
    crowd.run([one(f"client {number}") for number in range(30)], UNTIL_S)
    waits_s += [crowd.now_s - arrival.at_s for arrival in crowd.arrival_of.values() if arrival.done_s is None]
    assert max(waits_s) <= 60
    assert sum(tries) / len(tries) <= 3
    assert sum(crowd.served.values()) >= 0.99 * crowd.now_s * TOKENS_PER_S


@pytest.mark.parametrize(("n_others", "n_tokens"), [(4, 40), (10, 10), (1, 200)])
def test_room_that_is_kept_for_one_client_keeps_nobody_else_out(n_others, n_tokens):
    """A sends 60 large requests at once, again and again, and obeys; others have one at a time."""
    waits_s: dict[Caller, list[float]] = {}

    def note(arrival: Arrival) -> None:
        if arrival.caller != A:
            waits_s.setdefault(arrival.caller, []).append(crowd.now_s - arrival.at_s)

    def after(done: Arrival) -> Arrival:
        note(done)
        return Arrival(crowd.now_s, done.lengths, done.caller)

    crowd = Crowd(1, max_queued_tokens=1000, max_wait_s=5.0, after=after)
    others = [Arrival(10.0, tokens(n_tokens), Caller(f"client {number}")) for number in range(n_others)]
    crowd.run([*(Arrival(0.0, tokens(200), A) for _ in range(60)), *others], UNTIL_S)
    for arrival in crowd.arrival_of.values():
        if arrival.done_s is None:
            note(arrival)
    assert len(waits_s) == n_others
    assert max(first for first, *_ in waits_s.values()) <= 70  # A's requests were told to come before it
    assert max(max(later) for _, *later in waits_s.values()) <= 2 * (n_others + 1) * n_tokens / TOKENS_PER_S + 5

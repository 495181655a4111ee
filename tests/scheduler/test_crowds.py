"""Thousands of seeded arrivals from many clients into a small queue: shares, order, waiting, refusals, and no loss."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from gguf_embed.errors import Overloaded
from gguf_embed.scheduler.queue import TaskQueue
from gguf_embed.scheduler.task import PendingRequest
from gguf_embed.types import Caller, Priority
from tests.scheduler.builders import MAX_TOKENS, MEAN, make_queue, make_request

TOKENS_PER_S = 100.0  # of each worker


@dataclass(eq=False)
class Arrival:
    """A request that comes at `at_s`, and again when it is told if there is no room."""

    at_s: float
    lengths: Sequence[int]
    caller: Caller
    patience_s: float | None = None  # then its client leaves; None: never
    n_tries: int = 0
    done_s: float | None = None
    taken: list[int] = field(default_factory=list)  # its texts, in the order in which they ran
    request: PendingRequest | None = None


@dataclass
class Crowd:
    """Workers that compute `TOKENS_PER_S`, and clients that obey. Each event is checked for idle workers."""

    n_workers: int
    max_queued_tokens: int = 1000
    max_wait_s: float = 2.0
    now_s: float = 0.0
    n_events: int = 0
    queue: TaskQueue = field(init=False)
    events: list[tuple[float, int, Callable[[Any], None], Any]] = field(default_factory=list)
    running: dict[int, list[tuple[Arrival, int]]] = field(default_factory=dict)  # worker → texts
    arrival_of: dict[int, Arrival] = field(default_factory=dict)  # id of a request → where it came from
    served: Counter[Caller] = field(default_factory=Counter)  # tokens computed
    present: set[Arrival] = field(default_factory=set)  # admitted, inside or outside, and not done
    most_outside_tokens: int = 0

    def __post_init__(self) -> None:
        self.queue = make_queue(
            n_workers=self.n_workers,
            max_queued_tokens=self.max_queued_tokens,
            max_wait_s=self.max_wait_s,
            min_share_tokens=1,
            tokens_per_s=self.n_workers * TOKENS_PER_S,
            clock=lambda: self.now_s,
        )

    def run(self, arrivals: Sequence[Arrival], until_s: float = 1e9) -> None:
        for arrival in arrivals:
            self._plan(arrival.at_s, self._come, arrival)
        while self.events and self.events[0][0] <= until_s:
            self.now_s, _, act, about = heapq.heappop(self.events)
            act(about)
            self._start_idle_workers()
            outside = [sum(arrival.lengths) for arrival in self.present if arrival.request.is_outside]
            self.most_outside_tokens = max(self.most_outside_tokens, sum(outside))

    def _plan(self, at_s: float, act: Callable[[Any], None], about: object) -> None:
        self.n_events += 1
        heapq.heappush(self.events, (at_s, self.n_events, act, about))

    def _come(self, arrival: Arrival) -> None:
        arrival.n_tries += 1
        request = make_request(len(arrival.lengths), self.now_s, arrival.caller)
        arrival.request, self.arrival_of[id(request)] = request, arrival
        try:
            self.queue.admit(request, MEAN, [[7] * length for length in arrival.lengths])
        except Overloaded as refusal:
            self._plan(self.now_s + refusal.retry_after_s, self._come, arrival)
            return
        self.present.add(arrival)
        if request.is_outside:
            self._plan(self.now_s + self.max_wait_s, self._give_up, arrival)
        if arrival.patience_s is not None:
            self._plan(self.now_s + arrival.patience_s, self._leave, arrival)

    def _give_up(self, arrival: Arrival) -> None:
        try:
            self.queue.refuse_outside(arrival.request)
        except Overloaded as refusal:
            self.present.remove(arrival)
            self._plan(self.now_s + refusal.retry_after_s, self._come, arrival)

    def _leave(self, arrival: Arrival) -> None:
        if arrival in self.present:
            self.queue.cancel(arrival.request)
            self.present.remove(arrival)

    def _end(self, worker: int) -> None:
        for arrival, n_tokens in self.running.pop(worker):
            self.served[arrival.caller] += n_tokens
            arrival.request.n_left -= 1
            if not arrival.request.n_left and arrival in self.present:
                self.present.remove(arrival)
                arrival.done_s = self.now_s

    def _start_idle_workers(self) -> None:
        for worker in set(range(self.n_workers)) - self.running.keys():
            if not any(arrival.request.n_waiting for arrival in self.present):
                break
            batch = self.queue.take(worker)
            texts = [(self.arrival_of[id(task.request)], task) for task in batch.tasks]
            for arrival, task in texts:
                assert not task.request.cancelled
                arrival.taken.append(task.index)
            self.running[worker] = [(arrival, len(task.tokens)) for arrival, task in texts]
            self._plan(self.now_s + batch.n_tokens / TOKENS_PER_S, self._end, worker)
        if len(self.running) < self.n_workers:  # then nobody has anything to do, outside neither
            assert not any(arrival.request.n_waiting or arrival.request.is_outside for arrival in self.present)


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

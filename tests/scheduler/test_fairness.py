"""Thousands of seeded arrivals through the real queue: nothing starves, nothing idles, and queries wait for little."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

import pytest

from gguf_embed.scheduler.queue import TaskQueue
from gguf_embed.scheduler.task import PendingRequest
from tests.scheduler.builders import MAX_TOKENS, admit, make_queue

TOKENS_PER_S = 100.0  # of each worker
QUERY_TOKENS = 2


@dataclass
class Simulation:
    """Workers that take `tokens / TOKENS_PER_S` seconds for a batch, and requests that arrive at given times."""

    n_workers: int
    queue: TaskQueue = field(init=False)
    done_s: dict[int, float] = field(default_factory=dict)  # request → when its last text was done
    order: dict[int, list[int]] = field(default_factory=dict)  # request → its texts as they were taken
    arrived_s: dict[int, float] = field(default_factory=dict)
    idle_s: float = 0.0  # worker seconds without work although something waited
    longest_s: float = 0.0  # the longest batch
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.queue = make_queue(
            n_workers=self.n_workers,
            max_queued_tokens=10**9,
            min_share_tokens=1,
            tokens_per_s=self.n_workers * TOKENS_PER_S,
            clock=lambda: self.now_s,
        )

    def run(self, arrivals: list[tuple[float, list[int]]]) -> dict[int, PendingRequest]:
        """Request number `i` is `arrivals[i]`: its time and the lengths of its texts."""
        requests: dict[int, PendingRequest] = {}
        number_of: dict[int, int] = {}
        left: dict[int, int] = {}
        events = [(at_s, number, "arrives", -1) for number, (at_s, _) in enumerate(arrivals)]
        heapq.heapify(events)
        free = set(range(self.n_workers))
        running: dict[int, list[int]] = {}
        while events:
            now_s, number, what, worker = heapq.heappop(events)
            self.now_s = now_s
            if what == "arrives":
                requests[number] = admit(self.queue, arrivals[number][1])
                number_of[id(requests[number])], left[number] = number, len(arrivals[number][1])
                self.arrived_s[number], self.order[number] = now_s, []
            else:
                free.add(worker)
                for one in running.pop(worker):
                    left[one] -= 1
                    if not left[one]:
                        self.done_s[one] = now_s
            while free and self.queue.state().n_texts:
                worker = free.pop()
                batch = self.queue.take(worker)
                assert batch is not None
                running[worker] = [number_of[id(task.request)] for task in batch.tasks]
                for task in batch.tasks:
                    self.order[number_of[id(task.request)]].append(task.index)
                took_s = batch.n_tokens / TOKENS_PER_S
                self.longest_s = max(self.longest_s, took_s)
                heapq.heappush(events, (now_s + took_s, len(arrivals) + worker, "ends", worker))
        return requests

    def wait_s(self, number: int) -> float:
        return self.done_s[number] - self.arrived_s[number]


def bulk_and_queries(chance: random.Random, n_bulk: int, n_queries: int) -> list[tuple[float, list[int]]]:
    bulk = [(chance.uniform(0, 1), [chance.randint(5, MAX_TOKENS) for _ in range(64)]) for _ in range(n_bulk)]
    queries = [(chance.uniform(1, 30), [QUERY_TOKENS]) for _ in range(n_queries)]
    return bulk + queries


@pytest.mark.parametrize("n_workers", [1, 2, 4])
@pytest.mark.parametrize("n_bulk", [1, 4, 8, 32])
def test_a_query_waits_for_few_batches_however_much_is_queued(n_workers, n_bulk):
    chance = random.Random(f"{n_workers} {n_bulk}")
    simulation = Simulation(n_workers)
    arrivals = bulk_and_queries(chance, n_bulk, 100)
    simulation.run(arrivals)
    waits_s = sorted(simulation.wait_s(number) for number in range(n_bulk, len(arrivals)))
    assert waits_s[94] <= 2.5 * simulation.longest_s  # the batch that runs, and its own
    assert waits_s[-1] <= 4 * simulation.longest_s


@pytest.mark.parametrize("seed", range(5))
def test_every_text_is_computed_once_and_a_request_in_order(seed):
    chance = random.Random(seed)
    arrivals = [
        (chance.uniform(0, 60), [chance.randint(1, MAX_TOKENS) for _ in range(chance.choice((1, 1, 2, 8, 64)))])
        for _ in range(600)
    ]
    simulation = Simulation(2)
    simulation.run(arrivals)
    assert simulation.order == {number: list(range(len(lengths))) for number, (_, lengths) in enumerate(arrivals)}
    assert len(simulation.done_s) == 600


def test_a_bulk_request_gets_its_share_under_a_flood_of_queries():
    """They take 90 % of the time, so its 200 tokens need at least 20 seconds."""
    chance = random.Random(0)
    rate = TOKENS_PER_S / QUERY_TOKENS  # queries per second that one worker can do
    queries = [(chance.uniform(0, 60), [QUERY_TOKENS]) for _ in range(int(60 * rate * 0.9))]
    simulation = Simulation(1)
    simulation.run([(0.5, [10] * 20), *queries])
    assert simulation.wait_s(0) < 30


def test_no_worker_idles_while_something_waits():
    """All work is done as soon as the workers can: the last text ends when the tokens say so."""
    chance = random.Random(3)
    arrivals = [(0.0, [chance.randint(1, MAX_TOKENS) for _ in range(50)]) for _ in range(40)]
    simulation = Simulation(2)
    simulation.run(arrivals)
    n_tokens = sum(sum(lengths) for _, lengths in arrivals)
    assert max(simulation.done_s.values()) <= n_tokens / (2 * TOKENS_PER_S) + simulation.longest_s

"""Clients that obey, and workers that compute, in simulated time, around the real queue."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gguf_embed.errors import Overloaded
from gguf_embed.scheduler.queue import TaskQueue
from gguf_embed.scheduler.task import PendingRequest
from gguf_embed.types import Caller
from tests.scheduler.builders import MEAN, make_queue, make_request

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
    after: Callable[[Arrival], Arrival | None] = lambda done: None  # who comes when a request is done

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
                if (following := self.after(arrival)) is not None:
                    self._plan(self.now_s, self._come, following)

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

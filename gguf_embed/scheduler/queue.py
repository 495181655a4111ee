"""The queue of one model's texts, and the lock that protects it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gguf_embed.config import QueueConfig
from gguf_embed.engines.base import ExecutionPlan
from gguf_embed.errors import Overloaded, Unavailable, WayOut
from gguf_embed.scheduler.admission import (
    INTERACTIVE_S,
    SHARED_S,
    bulk_tokens,
    excess_tokens,
    has_reserve,
    has_room,
    interactive_tokens,
    is_within_share,
    queue_limit,
    updated_speed,
)
from gguf_embed.scheduler.batching import INTERACTIVE_WEIGHT, FairQueue, choose_threads, token_budget
from gguf_embed.scheduler.draining import requests_too_many
from gguf_embed.scheduler.promises import RetryPromises
from gguf_embed.scheduler.task import Batch, EmbedTask, PendingRequest, Work
from gguf_embed.scheduler.waiting_room import MAX_REQUESTS, WaitingRoom
from gguf_embed.types import OutputSpec


@dataclass(frozen=True, slots=True)
class QueueState:
    """A snapshot for health checks, properties and metrics."""

    n_texts: int
    n_tokens: int
    n_running_workers: int
    n_running_texts: int
    closed: bool
    failure: str | None
    n_outside: int  # requests that wait until the queue has room for them
    limit_tokens: int
    tokens_per_s: float  # of all workers
    interactive_tokens: int  # in a batch while short requests come


class TaskQueue:
    """Thread-safe. Workers block in `take`; the event loop calls `admit`, which never blocks for long."""

    def __init__(
        self,
        plan: ExecutionPlan,
        config: QueueConfig,
        clock: Callable[[], float] = time.monotonic,
        unit: str = "tokens",  # in errors
    ) -> None:
        self._plan = plan
        self._unit = unit
        self._config = config
        self._clock = clock
        self._changed = threading.Condition(threading.Lock())
        self._texts = FairQueue(plan)
        self._outside = WaitingRoom()
        self._promises = RetryPromises()
        self._running: dict[int, int] = {}  # worker number → texts in its batch
        self._tokens_per_s = plan.tokens_per_s  # by which limits in seconds become tokens
        self._full_since_s: float | None = None  # when a batch was taken that left another full one waiting
        self._n_taken_tokens = 0  # then
        self._last_client: str | None = None
        self._shared_until_s = 0.0  # until then, one client gets a half of the queue at most
        self._interactive_until_s = 0.0  # until then, batches stay short
        self._closed = False
        self._failure: str | None = None

    def admit(self, request: PendingRequest, output: OutputSpec, texts: Sequence[Sequence[int]]) -> None:
        """Queue all texts of a request, or none: then it waits outside until there is room.

        Raises `Overloaded` if it may not wait either, `Unavailable` if the queue is closed or failed. An empty queue
        admits a request of any size; a request that fits in one batch may use the reserve.
        """
        lengths = list(map(len, texts))
        work = Work(request, output, texts, lengths, sum(lengths))
        with self._changed:
            if self._closed or self._failure:
                self._refuse_when_closed()
            if request.caller.client != self._last_client:
                self._note_client(request.caller.client)
            if not self._texts.n_texts:
                self._texts.add(work)
            elif self._outside.n_requests or not self._enters(work):
                self._admit_to_full(work)
            if request.weight > INTERACTIVE_WEIGHT:
                self._interactive_until_s = self._clock() + INTERACTIVE_S
            self._changed.notify_all()

    def _note_client(self, client: str) -> None:
        if self._last_client is not None:
            self._shared_until_s = self._clock() + SHARED_S
        self._last_client = client

    def _admit_to_full(self, work: Work) -> None:
        """A request for which there is no room, or that comes while others wait for it."""
        self._texts.drop_cancelled()
        self._outside.add(work)
        self._let_in()
        if not work.request.is_outside:
            return
        self._outside.remove(work.request)
        if self._enters_on_reserve(work):
            return
        if not self._may_wait(work):
            raise self._overloaded(work.n_tokens, self._texts.n_tokens + self._outside.n_tokens)
        self._outside.add(work)

    def _let_in(self) -> None:
        """Admit requests that wait outside, in turn, until one of them does not fit."""
        while self._outside.n_requests:
            for work in self._outside.in_turn(self._texts.held):
                if self._enters(work):
                    self._outside.remove(work.request)
                    break
            else:
                return

    def _enters(self, work: Work) -> bool:
        limit = self._limit()
        own, is_shared = self._texts.held(work.request.caller.client), self._clock() < self._shared_until_s
        if not has_room(work.n_tokens, self._texts.n_tokens, limit):
            return False
        if not is_within_share(work.n_tokens, own, limit, is_shared=is_shared):
            return False
        self._texts.add(work)
        return True

    def _enters_on_reserve(self, work: Work) -> bool:
        limits = self._plan.limits
        if not has_reserve(work.n_tokens, self._texts.n_reserved, self._limit(), limits.max_tokens):
            return False
        work.request.on_reserve = True
        self._texts.add(work)
        return True

    def _may_wait(self, work: Work) -> bool:
        """Whether there will be room within the time that a request waits, and not only for this client's."""
        limit = round(self._tokens_per_s * self._config.max_wait_s)
        excess = excess_tokens(work.n_tokens, self._texts.n_tokens + self._outside.n_tokens, self._limit())
        own, is_shared = self._outside.held(work.request.caller.client), self._clock() < self._shared_until_s
        is_fair = is_within_share(work.n_tokens, own, limit, is_shared=is_shared)
        return excess <= limit and is_fair and self._outside.n_requests < MAX_REQUESTS

    def _limit(self) -> int:
        config, batch_tokens = self._config, self._plan.limits.max_tokens
        return queue_limit(config.max_tokens, config.max_s, self._tokens_per_s, batch_tokens)

    def cancel(self, request: PendingRequest) -> None:
        """Its client has left: what waits of it never runs, and its place is free."""
        with self._changed:
            self._texts.cancel(request)
            if request.is_outside:
                self._outside.remove(request)
                self._let_in()
                self._changed.notify_all()

    def refuse_outside(self, request: PendingRequest) -> None:
        """Raises `Overloaded` if a request still waits outside, and removes it."""
        with self._changed:
            if request.is_outside:
                work = self._outside.remove(request)
                raise self._overloaded(work.n_tokens, self._texts.n_tokens)  # the others outside came after it

    def _refuse_when_closed(self) -> None:
        if self._failure:
            raise Unavailable(f"the model's worker has failed ({self._failure}): restart the server")
        if self._closed:
            raise Unavailable("the server is shutting down: retry after it has restarted")

    def _overloaded(self, n_tokens: int, n_ahead: int) -> Overloaded:
        """`n_ahead`: tokens that are computed before those of the refused request."""
        limit = self._limit()
        excess = excess_tokens(n_tokens, n_ahead, limit)
        held = f"the queue holds {self._texts.n_tokens} {self._unit}"
        return Overloaded(
            f"{held}, this request has {n_tokens}, and the limit is {limit}",
            retry_after_s=self._promises.promise(self._clock(), n_tokens, excess, self._tokens_per_s),
            ways_out=[WayOut.RETRY, WayOut.LARGER_QUEUE],
        )

    def take(self, worker: int, patience_s: float | None = None) -> Batch | None:
        """Wait for work and take one batch. None if the queue is closed and empty, or has failed.

        Only worker 0 takes long texts, because there is only one of the large contexts they need. Raises `TimeoutError`
        if there is nothing for this worker, and the queue has not changed for `patience_s`; None: waits without end.
        """
        with self._changed:
            self._running.pop(worker, None)
            is_quiet = False
            while True:
                if self._failure:
                    return None
                text = self._texts.next_text(may_be_long=worker == 0)
                if text is not None:
                    batch = self._take_from(text, worker)
                    if batch is not None:
                        return batch
                elif self._closed and not self._texts.n_texts:
                    self._changed.notify_all()
                    return None
                elif is_quiet:
                    raise TimeoutError
                else:
                    self._full_since_s = None
                    is_quiet = not self._changed.wait(patience_s)

    def _take_from(self, first: EmbedTask, worker: int) -> Batch | None:
        key, limits, n_idle = first.key, self._plan.limits, self._plan.n_workers - len(self._running)
        budget = token_budget(limits, self._texts.n_tokens, n_idle)
        if key.long:
            limits, budget = replace(limits, max_sequences=1), limits.max_tokens
        elif budget > limits.min_share_tokens and self._clock() < self._interactive_until_s:
            decide = interactive_tokens if first.request.weight > INTERACTIVE_WEIGHT else bulk_tokens
            budget = min(budget, decide(limits, self._tokens_per_s / self._plan.n_workers))
        plan = self._texts.take(key, limits, budget)
        if self._outside.n_requests:
            self._let_in()
            self._changed.notify_all()
        if not plan.taken:
            return None
        if self._full_since_s is not None or self._texts.n_tokens >= limits.max_tokens:
            self._note_speed(plan.n_tokens, is_full=self._texts.n_tokens >= limits.max_tokens)
        n_threads = choose_threads(self._plan, len(self._running), self._texts.n_texts)
        self._running[worker] = len(plan.taken)
        return Batch(key, plan.taken, plan.n_tokens, n_threads, max(limits.max_tokens, plan.n_tokens))

    def _note_speed(self, n_tokens: int, *, is_full: bool) -> None:
        """Measure how fast the workers together empty the queue, while there is a batch for each of them."""
        now_s, since_s = self._clock(), self._full_since_s
        if since_s is None or now_s > since_s:
            if since_s is not None:
                self._tokens_per_s = updated_speed(self._tokens_per_s, self._n_taken_tokens, now_s - since_s)
            self._n_taken_tokens = 0
        self._n_taken_tokens += n_tokens
        self._full_since_s = now_s if is_full else None

    def close(self) -> None:
        """Admit nothing more but what waits outside. Workers finish what is queued and then get None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def shed(self, within_s: float) -> Sequence[PendingRequest]:
        """Drop what cannot be computed within this time, and return those requests to be answered."""
        with self._changed:
            n_tokens: dict[PendingRequest, int] = {}
            for task in self._texts.waiting():
                if not task.request.cancelled:
                    n_tokens[task.request] = n_tokens.get(task.request, 0) + len(task.tokens)
            n_tokens |= self._outside.tokens()  # of equal requests, those in the queue are first
            too_many = requests_too_many(n_tokens, self._tokens_per_s, within_s)
            for request in too_many:
                self._texts.cancel(request)
                if request.is_outside:
                    self._outside.remove(request)
            if too_many:
                self._texts.drop_cancelled()
                self._let_in()
                self._changed.notify_all()
            return too_many

    def fail(self, reason: str) -> Sequence[EmbedTask]:
        """A worker died: admit nothing more, wake the other workers, and return the queued tasks to be answered."""
        with self._changed:
            self._failure = self._failure or reason
            for work in self._outside.clear():
                self._texts.add(work)
            self._running.clear()
            self._changed.notify_all()
            return self._texts.clear()

    def state(self) -> QueueState:
        with self._changed:
            return QueueState(
                n_texts=self._texts.n_texts,
                n_tokens=self._texts.n_tokens,
                n_running_workers=len(self._running),
                n_running_texts=sum(self._running.values()),
                closed=self._closed,
                failure=self._failure,
                n_outside=self._outside.n_requests,
                limit_tokens=self._limit(),
                tokens_per_s=self._tokens_per_s,
                interactive_tokens=bulk_tokens(self._plan.limits, self._tokens_per_s / self._plan.n_workers),
            )

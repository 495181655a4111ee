"""The queue of one model's texts, and the lock that protects it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gguf_embed.config import QueueConfig
from gguf_embed.engines.base import ExecutionPlan
from gguf_embed.errors import Unavailable
from gguf_embed.scheduler.admission import INTERACTIVE_S, bulk_tokens, interactive_tokens
from gguf_embed.scheduler.batching import INTERACTIVE_WEIGHT, FairQueue, choose_threads, token_budget
from gguf_embed.scheduler.draining import requests_too_many
from gguf_embed.scheduler.entrance import Entrance
from gguf_embed.scheduler.queue_speed import QueueSpeed
from gguf_embed.scheduler.task import Batch, EmbedTask, PendingRequest, Work
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
        self._clock = clock
        self._changed = threading.Condition(threading.Lock())
        self._texts = FairQueue(plan)
        self._speed = QueueSpeed(plan.tokens_per_s, clock)
        self._entrance = Entrance(plan, config, self._texts, self._speed, clock, unit)
        self._running: dict[int, int] = {}  # worker number → texts in its batch
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
            if request.caller.client != self._entrance.last_client:
                self._entrance.note_client(request.caller.client)
            if self._texts.n_texts or self._entrance.promises.n_requests:
                self._entrance.admit(work)
            else:
                self._texts.add(work)
            if request.weight > INTERACTIVE_WEIGHT:
                self._interactive_until_s = self._clock() + INTERACTIVE_S
            self._changed.notify_all()

    def cancel(self, request: PendingRequest) -> None:
        """Its client has left: what waits of it never runs, and its place is free."""
        with self._changed:
            self._texts.cancel(request)
            if request.is_outside:
                self._entrance.outside.remove(request)
                self._entrance.let_in()
                self._changed.notify_all()

    def refuse_outside(self, request: PendingRequest) -> None:
        """Raises `Overloaded` if a request still waits outside, and removes it."""
        with self._changed:
            if request.is_outside:
                refusal = self._entrance.refuse(request)
                self._entrance.let_in()
                self._changed.notify_all()
                raise refusal

    def _refuse_when_closed(self) -> None:
        if self._failure:
            raise Unavailable(f"the model's worker has failed ({self._failure}): restart the server")
        if self._closed:
            raise Unavailable("the server is shutting down: retry after it has restarted")

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
                    self._speed.full_since_s = None
                    is_quiet = not self._changed.wait(patience_s)

    def _take_from(self, first: EmbedTask, worker: int) -> Batch | None:
        key, limits, n_idle = first.key, self._plan.limits, self._plan.n_workers - len(self._running)
        budget = token_budget(limits, self._texts.n_tokens, n_idle)
        if key.long:
            limits, budget = replace(limits, max_sequences=1), limits.max_tokens
        elif budget > limits.min_share_tokens and self._clock() < self._interactive_until_s:
            decide = interactive_tokens if first.request.weight > INTERACTIVE_WEIGHT else bulk_tokens
            budget = min(budget, decide(limits, self._speed.tokens_per_s / self._plan.n_workers))
        plan = self._texts.take(key, limits, budget)
        if self._entrance.outside.n_requests:
            self._entrance.let_in()
            self._changed.notify_all()
        if not plan.taken:
            return None
        if self._speed.full_since_s is not None or self._texts.n_tokens >= limits.max_tokens:
            self._speed.note(plan.n_tokens, is_full=self._texts.n_tokens >= limits.max_tokens)
        n_threads = choose_threads(self._plan, len(self._running), self._texts.n_texts)
        self._running[worker] = len(plan.taken)
        return Batch(key, plan.taken, plan.n_tokens, n_threads, max(limits.max_tokens, plan.n_tokens))

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
            n_tokens |= self._entrance.outside.tokens()  # of equal requests, those in the queue are first
            too_many = requests_too_many(n_tokens, self._speed.tokens_per_s, within_s)
            for request in too_many:
                self._texts.cancel(request)
                if request.is_outside:
                    self._entrance.outside.remove(request)
            if too_many:
                self._texts.drop_cancelled()
                self._entrance.let_in()
                self._changed.notify_all()
            return too_many

    def fail(self, reason: str) -> Sequence[EmbedTask]:
        """A worker died: admit nothing more, wake the other workers, and return the queued tasks to be answered."""
        with self._changed:
            self._failure = self._failure or reason
            for work in self._entrance.outside.clear():
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
                n_outside=self._entrance.outside.n_requests,
                limit_tokens=self._entrance.limit(),
                tokens_per_s=self._speed.tokens_per_s,
                interactive_tokens=bulk_tokens(self._plan.limits, self._speed.tokens_per_s / self._plan.n_workers),
            )

"""The queue of one model's texts, and the lock that protects it."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gguf_embed.engines.base import ExecutionPlan
from gguf_embed.errors import Overloaded, Unavailable, WayOut
from gguf_embed.scheduler.batching import choose_threads, finish_tags, take_batch, token_budget, weight_of
from gguf_embed.scheduler.promises import RetryPromises
from gguf_embed.scheduler.task import Batch, BatchKey, EmbedTask, PendingRequest
from gguf_embed.types import OutputSpec

RESERVE = 10
"""A tenth more than the queue's limit is reserved for requests that fit in one batch, so that bulk requests cannot
lock out a short query."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """A snapshot for health checks, properties and metrics."""

    n_texts: int
    n_tokens: int
    n_running_workers: int
    n_running_texts: int
    closed: bool
    failure: str | None


class TaskQueue:
    """Thread-safe. Workers block in `take`; the event loop calls `admit`, which never blocks for long."""

    def __init__(
        self, plan: ExecutionPlan, max_queued_tokens: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan = plan
        self._max_tokens = max_queued_tokens
        self._clock = clock
        self._changed = threading.Condition(threading.Lock())
        self._queues: dict[BatchKey, list[EmbedTask]] = {}
        self._virtual_time = 0.0  # in tokens, see `finish_tags`
        self._n_requests = 0  # with texts that wait
        self._weights = 0.0  # the sum of theirs
        self._n_tokens = 0
        self._n_reserved = 0  # the part of them admitted on the reserve
        self._n_texts = 0
        self._n_admitted = 0
        self._running: dict[int, int] = {}  # worker number → texts in its batch
        self._tokens_per_s = plan.tokens_per_s
        self._promises = RetryPromises()
        self._closed = False
        self._failure: str | None = None

    def admit(self, request: PendingRequest, output: OutputSpec, texts: Sequence[Sequence[int]]) -> None:
        """Queue all texts of a request, or none.

        Raises `Overloaded` if they do not fit, `Unavailable` if the queue is closed or failed. An empty queue admits a
        request of any size; a request that fits in one batch may use the reserve.
        """
        lengths = list(map(len, texts))
        n_tokens = sum(lengths)
        keys = BatchKey(output, long=False), BatchKey(output, long=True)
        max_tokens, limits = self._plan.contexts.max_tokens, self._plan.limits
        with self._changed:
            if self._closed or self._failure:
                self._refuse_when_closed()
            if not self._has_room(n_tokens):
                self._drop_cancelled()
            request.on_reserve = not self._has_room(n_tokens)
            if request.on_reserve and not self._has_reserve(n_tokens):
                raise self._overloaded(n_tokens)
            order = sorted(range(len(texts)), key=lengths.__getitem__) if limits.by_length else range(len(texts))
            request.weight = weight_of(n_tokens, limits.max_tokens)
            tags = finish_tags(self._virtual_time, [lengths[index] for index in order], request.weight)
            tasks = [
                EmbedTask(
                    tags[position],
                    self._n_admitted + position,
                    keys[lengths[index] > max_tokens],
                    texts[index],
                    request,
                    index,
                )
                for position, index in enumerate(order)
            ]
            for task in tasks:  # nothing may raise from here on: all are queued or none
                heapq.heappush(self._queues.setdefault(task.key, []), task)
            self._n_admitted += len(tasks)
            self._n_requests += bool(tasks)
            self._weights += request.weight if tasks else 0.0
            request.n_waiting = len(tasks)
            self._n_tokens += n_tokens
            self._n_reserved += n_tokens if request.on_reserve else 0
            self._n_texts += len(texts)
            self._changed.notify_all()

    def _has_room(self, n_tokens: int) -> bool:
        return not self._n_tokens or self._n_tokens + n_tokens <= self._max_tokens

    def _has_reserve(self, n_tokens: int) -> bool:
        is_small = n_tokens <= self._plan.limits.max_tokens
        return is_small and self._n_reserved + n_tokens <= self._max_tokens // RESERVE

    def _drop_cancelled(self) -> None:
        """Remove texts whose client has disconnected: in a full queue they would keep other clients out."""
        for tasks in self._queues.values():
            self._leave(task for task in tasks if task.request.cancelled)
            tasks[:] = [task for task in tasks if not task.request.cancelled]
            heapq.heapify(tasks)
        self._n_texts = sum(map(len, self._queues.values()))
        waiting = [task for tasks in self._queues.values() for task in tasks]
        self._n_tokens = sum(len(task.tokens) for task in waiting)
        self._n_reserved = _on_reserve(waiting)

    def _refuse_when_closed(self) -> None:
        if self._failure:
            raise Unavailable(f"the model's worker has failed ({self._failure}): restart the server")
        if self._closed:
            raise Unavailable("the server is shutting down: retry after it has restarted")

    def _overloaded(self, n_tokens: int) -> Overloaded:
        excess = max(0, self._n_tokens + n_tokens - self._max_tokens)
        return Overloaded(
            f"the queue holds {self._n_tokens} tokens, this request has {n_tokens}, and the limit is "
            f"{self._max_tokens}",
            retry_after_s=self._promises.promise(self._clock(), n_tokens, excess, self._tokens_per_s),
            ways_out=[WayOut.RETRY, WayOut.LARGER_QUEUE],
        )

    def take(self, worker: int) -> Batch | None:
        """Wait for work and take one batch. None if the queue is closed and empty, or has failed.

        Only worker 0 takes long texts, because there is only one of the large contexts they need.
        """
        with self._changed:
            self._running.pop(worker, None)
            while True:
                if self._failure:
                    return None
                key = self._next_key(worker)
                if key is not None:
                    batch = self._take_from(key, worker)
                    if batch is not None:
                        return batch
                elif self._closed and not self._n_texts:
                    self._changed.notify_all()
                    return None
                else:
                    self._changed.wait()

    def _next_key(self, worker: int) -> BatchKey | None:
        """The batch key of the text whose turn it is, among those this worker may take."""
        heads = [tasks[0] for key, tasks in self._queues.items() if tasks and (worker == 0 or not key.long)]
        return min(heads).key if heads else None

    def _take_from(self, key: BatchKey, worker: int) -> Batch | None:
        limits, heap = self._plan.limits, self._queues[key]
        n_idle = self._plan.n_workers - len(self._running)
        budget = limits.max_tokens if key.long else token_budget(limits, self._n_tokens, n_idle)
        candidates: list[EmbedTask] = []
        n_candidate_tokens = 0
        max_texts = 1 if key.long else limits.max_sequences
        while heap and len(candidates) < max_texts and n_candidate_tokens < budget:
            candidates.append(heapq.heappop(heap))
            n_candidate_tokens += len(candidates[-1].tokens)
        plan = take_batch(candidates, limits, budget)
        for task in candidates[len(plan.taken) + len(plan.dropped) :]:
            heapq.heappush(heap, task)
        self._virtual_time += plan.n_tokens / max(1.0, self._weights)
        self._leave((*plan.taken, *plan.dropped))
        self._n_tokens -= plan.n_tokens
        if plan.dropped:
            self._n_tokens -= sum(len(task.tokens) for task in plan.dropped)
        if self._n_reserved:
            self._n_reserved -= _on_reserve((*plan.taken, *plan.dropped))
        self._n_texts -= len(plan.taken) + len(plan.dropped)
        if not plan.taken:
            return None
        n_threads = choose_threads(self._plan, len(self._running), self._n_texts)
        self._running[worker] = len(plan.taken)
        return Batch(key, plan.taken, plan.n_tokens, n_threads, max(limits.max_tokens, plan.n_tokens))

    def _leave(self, tasks: Iterable[EmbedTask]) -> None:
        """Count texts out. When nothing waits any more, virtual time passes all tags."""
        for task in tasks:
            request = task.request
            request.n_waiting -= 1
            if not request.n_waiting:
                self._n_requests -= 1
                self._weights -= request.weight
            if not self._n_requests:
                self._weights = 0.0
                self._virtual_time = max(self._virtual_time, task.finish_tag)

    def note_speed(self, n_tokens: int, compute_s: float) -> None:
        """Update the measured speed of all workers (an exponential mean), for Retry-After."""
        if compute_s > 0:
            measured = self._plan.n_workers * n_tokens / compute_s
            with self._changed:
                self._tokens_per_s += 0.1 * (measured - self._tokens_per_s)

    def close(self) -> None:
        """Admit nothing more. Workers finish what is queued and then get None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def fail(self, reason: str) -> list[EmbedTask]:
        """A worker died: admit nothing more, wake the other workers, and return the queued tasks to be answered."""
        with self._changed:
            self._failure = self._failure or reason
            waiting = [task for tasks in self._queues.values() for task in tasks]
            self._queues.clear()
            self._running.clear()
            self._n_tokens = self._n_reserved = self._n_texts = self._n_requests = 0
            self._weights = 0.0
            self._changed.notify_all()
            return waiting

    def state(self) -> QueueState:
        with self._changed:
            return QueueState(
                n_texts=self._n_texts,
                n_tokens=self._n_tokens,
                n_running_workers=len(self._running),
                n_running_texts=sum(self._running.values()),
                closed=self._closed,
                failure=self._failure,
            )


def _on_reserve(tasks: Iterable[EmbedTask]) -> int:
    return sum(len(task.tokens) for task in tasks if task.request.on_reserve)

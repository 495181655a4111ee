"""The workers of one model and the bridge between the event loop and their threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gguf_embed.engines.base import Engine
from gguf_embed.errors import EmbedError, Unavailable
from gguf_embed.scheduler.queue import QueueConfig, QueueState, TaskQueue
from gguf_embed.scheduler.task import Batch, BatchKey, BatchOutcome, PendingRequest
from gguf_embed.scheduler.worker import ContextPlan, ContextSet, Worker
from gguf_embed.types import FloatMatrix, Pooling

_NO_ROWS: FloatMatrix = np.empty((0, 0), np.float32)


class BatchObserver(Protocol):
    """Who counts batches (metrics); called on worker threads."""

    def observe_batch(self, n_texts: int, n_tokens: int, budget_tokens: int, compute_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Submission:
    """The rows of one finished request and where its time went.

    `rows[i]` is float32[1, n_embd] when pooled, float32[n_tokens_i, n_embd] when pooling is none, and float32[0, 0]
    where text i failed in a request that goes on without it.
    """

    rows: Sequence[FloatMatrix]
    queue_s: float
    compute_s: float
    failures: Mapping[int, EmbedError] = field(default_factory=dict)


class Scheduler:
    """Runs texts of many requests in shared batches. `submit` belongs to event loops, the rest to any thread."""

    def __init__(
        self,
        engine: Engine,
        queue_config: QueueConfig,
        contexts: ContextPlan,
        observer: BatchObserver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = queue_config
        self._contexts = contexts
        self._observer = observer
        self._clock = clock
        self._queue = TaskQueue(queue_config, clock)
        self._workers = [
            Worker(number, self._queue, ContextSet(engine, contexts), self._deliver, self._on_death)
            for number in range(queue_config.n_workers)
        ]

    def start(self) -> None:
        for worker in self._workers:
            worker.start()

    async def submit(
        self, texts: Sequence[Sequence[int]], pooling: Pooling, *, keep_failures: bool = False
    ) -> Submission:
        """Run the token sequences, each at most `contexts.long_tokens` long.

        Raises `Overloaded` or `Unavailable` at once, or the first failed text's error at the end; with `keep_failures`
        that one is in the answer instead, unless nothing works any more (`Unavailable`). When the awaiting task is
        cancelled, texts that no worker took yet are dropped.
        """
        if not texts:
            return Submission([], 0.0, 0.0)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        request = PendingRequest(loop, future, self._clock(), [None] * len(texts), len(texts))
        self._queue.admit(request, lambda length: self._batch_key(pooling, length), texts)
        try:
            await future
        finally:
            request.cancelled = True  # after an answer nothing is left to drop
        for _, error in sorted(request.errors.items()):
            if not keep_failures or isinstance(error, Unavailable):
                raise error
        rows = [_NO_ROWS if row is None else row for row in request.rows]
        return Submission(rows, request.queue_s, request.compute_s, request.errors)

    def _batch_key(self, pooling: Pooling, length: int) -> BatchKey:
        return BatchKey(pooling, long=length > self._contexts.max_tokens)

    def _deliver(self, outcome: BatchOutcome) -> None:
        """On a worker thread: count a batch and answer it."""
        batch = outcome.batch
        compute_s = outcome.done_s - outcome.taken_s
        self._observer.observe_batch(len(batch.tasks), batch.n_tokens, batch.budget_tokens, compute_s)
        _hand_out(outcome)

    def _on_death(self, batch: Batch | None, error: BaseException) -> None:
        """On the dying worker's thread: answer its batch and everything that waits, so that no client hangs."""
        reason = f"{type(error).__name__}: {error}"
        waiting = [*(batch.tasks if batch else ()), *self._queue.fail(reason)]
        failure = Unavailable(f"the model's worker has failed ({reason}): restart the server")
        now_s = self._clock()
        if waiting:
            orphans = Batch(waiting[0].key, waiting, 0, 0, 0)
            _hand_out(BatchOutcome(orphans, [failure] * len(waiting), now_s, now_s))

    def state(self) -> QueueState:
        return self._queue.state()

    def close(self) -> None:
        """Stop admitting, let the workers finish what waits, free their contexts. Blocks; not for the event loop."""
        self._queue.close()
        for worker in self._workers:
            worker.join()


def _hand_out(outcome: BatchOutcome) -> None:
    """On a worker thread: hand each event loop its share of a batch, in one call per loop."""
    for loop in {task.request.loop for task in outcome.batch.tasks}:
        try:
            loop.call_soon_threadsafe(_answer, loop, outcome)
        except RuntimeError:
            continue  # that loop is closed: nobody waits there any more


def _answer(loop: asyncio.AbstractEventLoop, outcome: BatchOutcome) -> None:
    """On the event loop: give each text of this loop's requests its rows or its error."""
    compute_s = outcome.done_s - outcome.taken_s
    counted: set[int] = set()
    for task, result in zip(outcome.batch.tasks, outcome.results, strict=True):
        request = task.request
        if request.loop is not loop:
            continue
        if id(request) not in counted:
            counted.add(id(request))
            request.compute_s += compute_s
            request.queue_s = max(request.queue_s, outcome.taken_s - request.admitted_s)
        request.answer(task.index, result)

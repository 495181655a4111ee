"""The workers of one model, and the bridge between the event loop and their threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gguf_embed.config import QueueConfig
from gguf_embed.engines.base import ExecutionPlan
from gguf_embed.errors import EmbedError, OutOfTime, Unavailable
from gguf_embed.scheduler.queue import QueueState, TaskQueue
from gguf_embed.scheduler.task import Batch, BatchOutcome, PendingRequest
from gguf_embed.scheduler.worker import ContextSet, OpensContexts, Worker
from gguf_embed.types import CALLER, Output, OutputSpec


class BatchObserver(Protocol):
    """Counts batches, for metrics. Called on worker threads."""

    def observe_batch(self, n_texts: int, n_tokens: int, budget_tokens: int, compute_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Submission:
    """The outputs for one request's texts, and where its time went."""

    outputs: Sequence[Output | None]  # one text each; None if it failed
    n_tokens: Sequence[int]  # read, per text
    queue_s: float
    compute_s: float
    failures: Mapping[int, EmbedError] = field(default_factory=dict)


class Scheduler:
    """Runs the texts of many requests in shared batches. Call `submit` on an event loop, the rest on any thread."""

    def __init__(
        self,
        engine: OpensContexts,
        plan: ExecutionPlan,
        config: QueueConfig,
        observer: BatchObserver,
        clock: Callable[[], float] = time.monotonic,
        unit: str = "tokens",
    ) -> None:
        self.plan = plan
        self._observer = observer
        self._clock = clock
        self._max_wait_s = config.max_wait_s
        self._queue = TaskQueue(plan, config, clock, unit)
        self._workers = [
            Worker(number, self._queue, ContextSet(engine, plan.contexts), self._deliver, self._on_death)
            for number in range(plan.n_workers)
        ]

    def start(self) -> None:
        for worker in self._workers:
            worker.start()

    async def submit(self, texts: Sequence[Sequence[int]], output: OutputSpec) -> Submission:
        """Run the token sequences, each at most `plan.contexts.long_tokens` long, for the caller of this task.

        Raises `Overloaded`, perhaps after waiting for room, or `Unavailable`; errors of single texts are in the
        submission's `failures`. If the caller is cancelled, texts that no worker has taken yet are dropped.
        """
        if not texts:
            return Submission([], [], 0.0, 0.0)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        request = PendingRequest(loop, future, self._clock(), [None] * len(texts), len(texts), CALLER.get())
        self._queue.admit(request, output, texts)
        try:
            if request.is_outside:
                await self._wait_for_room(request)
            await future
        finally:
            if request.n_left:
                self._queue.cancel(request)
        for error in request.errors.values():
            if isinstance(error, Unavailable):
                raise error
        n_tokens = list(map(len, texts))
        return Submission(request.outputs, n_tokens, request.queue_s, request.compute_s, request.errors)

    async def _wait_for_room(self, request: PendingRequest) -> None:
        """Raises `Overloaded` if there is no room in time."""
        done, _ = await asyncio.wait([request.future], timeout=self._max_wait_s)
        if not done:
            self._queue.refuse_outside(request)

    def _deliver(self, outcome: BatchOutcome) -> None:
        """On a worker thread: count a batch and deliver its outputs."""
        batch = outcome.batch
        compute_s = outcome.done_s - outcome.taken_s
        self._observer.observe_batch(len(batch.tasks), batch.n_tokens, batch.budget_tokens, compute_s)
        _deliver_to_loops(outcome)

    def _on_death(self, batch: Batch | None, error: BaseException) -> None:
        """On the dying worker's thread: fail its batch and everything queued, so that no client hangs."""
        reason = f"{type(error).__name__}: {error}"
        waiting = [*(batch.tasks if batch else ()), *self._queue.fail(reason)]
        failure = Unavailable(f"the model's worker has failed ({reason}): restart the server")
        now_s = self._clock()
        if waiting:
            orphans = Batch(waiting[0].key, waiting, 0, 0, 0)
            _deliver_to_loops(BatchOutcome(orphans, [failure] * len(waiting), now_s, now_s))

    def shed(self, within_s: float) -> None:
        """Fail the requests that cannot be computed within this time: `submit` raises `OutOfTime`."""
        for request in self._queue.shed(within_s):
            request.loop.call_soon_threadsafe(_fail, request, OutOfTime())

    def state(self) -> QueueState:
        return self._queue.state()

    def close(self) -> None:
        """Admit nothing more, wait for the workers to finish, free their contexts. Blocks: not on the event loop."""
        self._queue.close()
        for worker in self._workers:
            worker.join()


def _deliver_to_loops(outcome: BatchOutcome) -> None:
    """On a worker thread: deliver a batch to the event loops of its requests, in one call per loop."""
    for loop in {task.request.loop for task in outcome.batch.tasks}:
        try:
            loop.call_soon_threadsafe(_answer, loop, outcome)
        except RuntimeError:
            continue  # that loop is closed, so nothing awaits the result


def _fail(request: PendingRequest, error: EmbedError) -> None:
    if not request.future.done():
        request.future.set_exception(error)


def _answer(loop: asyncio.AbstractEventLoop, outcome: BatchOutcome) -> None:
    """On the event loop: store each text's output or error; the last text of a request wakes it."""
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
        if isinstance(result, EmbedError):
            request.errors[task.index] = result
        else:
            request.outputs[task.index] = result
        request.n_left -= 1
        if request.n_left == 0 and not request.future.done():
            request.future.set_result(None)

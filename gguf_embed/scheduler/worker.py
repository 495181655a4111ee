"""A worker thread with its own contexts. It takes batches, runs them, and answers every text of a batch."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol, cast

from gguf_embed.engines.base import ContextPlanner, ContextSpec, EngineContext
from gguf_embed.engines.freed_memory import release_buffers
from gguf_embed.errors import EmbedError, EngineFailure, Unavailable
from gguf_embed.scheduler.queue import TaskQueue
from gguf_embed.scheduler.task import Batch, BatchKey, BatchOutcome
from gguf_embed.types import Output

RELEASE_AFTER_S = 5.0
"""A worker that had nothing to do for so long gives memory back to the system. Its next batch gets it again, in a few
milliseconds."""

_log = logging.getLogger("gguf_embed.scheduler")


class OpensContexts(Protocol):
    """The part of an `Engine` that workers need."""

    def open_context(self, spec: ContextSpec) -> EngineContext: ...


@dataclass(slots=True)
class ContextSet:
    """The contexts of one worker, opened on first use. Belongs to one thread; call `close` after it has ended."""

    engine: OpensContexts
    planner: ContextPlanner
    _open: dict[ContextSpec, EngineContext] = field(default_factory=dict)
    _last: ContextSpec | None = None

    def embed(self, key: BatchKey, texts: Sequence[Sequence[int]], n_threads: int) -> Output:
        self._last = spec = self.planner.spec(key.output, sum(map(len, texts)), long=key.long)
        context = self._open.get(spec)
        if context is None:
            context = self._open[spec] = self.engine.open_context(spec)
        return context.embed(texts, n_threads)

    def renew(self) -> None:
        """Close the context that was used last. The next batch of its kind opens a fresh one, over the same weights."""
        context = self._open.pop(self._last, None) if self._last is not None else None
        if context is not None:
            context.close()

    def release_buffers(self) -> None:
        """Free what only running batches need. Raises nothing: whatever cannot be freed is not missed."""
        try:
            release_buffers(self._open.values())
        except Exception:
            _log.warning("buffers of an idle worker could not be freed", exc_info=True)

    def close(self) -> None:
        with ExitStack() as stack:
            for context in self._open.values():
                stack.callback(context.close)
            self._open.clear()


def run_isolated(contexts: ContextSet, batch: Batch) -> list[Output | EmbedError]:
    """Run a batch. If it fails, or an output is no answer (`Output.fault`), run its texts once more, one by one.

    This way a text that makes the engine fail does not affect the others. If the engine has failed, what it keeps
    between batches may be the reason, so the next text runs in a fresh context. Returns one result per task; raises
    only a `BaseException` that is not an `Exception`.
    """
    texts = [task.tokens for task in batch.tasks]
    try:
        output = _run_finite(contexts, batch.key, texts, batch.n_threads)
        return list(map(output.part, range(len(texts))))
    except Unavailable as error:
        return [error for _ in texts]  # the engine is gone, for each of them
    except Exception as error:
        if len(texts) == 1 and not _is_of_engine(error):
            return [cast(EmbedError, error)]
        level = logging.WARNING if _is_of_engine(error) else logging.INFO
        _log.log(level, "a batch of %d inputs failed (%s): running them one by one", len(texts), error)
        _renew_context(contexts, error)
    return [_run_alone(contexts, batch, text) for text in texts]


def _run_alone(contexts: ContextSet, batch: Batch, text: Sequence[int]) -> Output | EmbedError:
    try:
        return _run_finite(contexts, batch.key, [text], batch.n_threads)
    except Exception as error:
        _renew_context(contexts, error)
        return error if isinstance(error, EmbedError) else EngineFailure(f"the engine failed on this text: {error}")


def _is_of_engine(error: Exception) -> bool:
    """An error of the engine, not one of the text."""
    return isinstance(error, EngineFailure) or not isinstance(error, EmbedError)


def _renew_context(contexts: ContextSet, error: Exception) -> None:
    if _is_of_engine(error):
        contexts.renew()


def _run_finite(contexts: ContextSet, key: BatchKey, texts: Sequence[Sequence[int]], n_threads: int) -> Output:
    output = contexts.embed(key, texts, n_threads)
    fault = output.fault()
    if fault:
        raise EngineFailure(fault)
    return output


class Worker:
    """A thread that runs batches until the queue is closed and empty. Its death is reported, never silent."""

    def __init__(
        self,
        number: int,
        queue: TaskQueue,
        contexts: ContextSet,
        deliver: Callable[[BatchOutcome], None],
        on_death: Callable[[Batch | None, BaseException], None],
    ) -> None:
        self.number = number
        self._queue = queue
        self._contexts = contexts
        self._deliver = deliver
        self._on_death = on_death
        self._thread = threading.Thread(target=self._run, name=f"embed-worker-{number}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the thread to end, then free its contexts. False if it still runs after `timeout_s`.

        Returns at once for a worker that never started because loading the model failed.
        """
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self._contexts.close()
        return True

    def _run(self) -> None:
        batch: Batch | None = None
        patience_s: float | None = RELEASE_AFTER_S
        try:
            while True:
                try:
                    batch = self._queue.take(self.number, patience_s)
                except TimeoutError:
                    self._contexts.release_buffers()
                    patience_s = None
                    continue
                if batch is None:
                    return
                self._run_batch(batch)
                batch = None  # answered: if the next `take` raises, it must not be answered again
                patience_s = RELEASE_AFTER_S
        except BaseException as error:
            _log.critical("worker %d died", self.number, exc_info=True)
            self._on_death(batch, error)

    def _run_batch(self, batch: Batch) -> None:
        """A separate function, so that an idle worker keeps no rows in memory."""
        taken_s = time.monotonic()
        results = run_isolated(self._contexts, batch)
        done_s = time.monotonic()
        self._deliver(BatchOutcome(batch, results, taken_s, done_s))

"""One thread that owns one set of contexts: take a batch, run it, answer every text of it whatever happens."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from gguf_embed.engines.base import ContextPlanner, ContextSpec, Engine, EngineContext
from gguf_embed.errors import EmbedError, EngineFailure
from gguf_embed.scheduler.queue import TaskQueue
from gguf_embed.scheduler.task import Batch, BatchKey, BatchOutcome
from gguf_embed.types import Output

_log = logging.getLogger("gguf_embed.scheduler")


@dataclass(slots=True)
class ContextSet:
    """The contexts of one worker, opened when first needed. Used by one thread; `close` after that thread ended."""

    engine: Engine
    planner: ContextPlanner
    _open: dict[ContextSpec, EngineContext] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def embed(self, key: BatchKey, texts: Sequence[Sequence[int]], n_threads: int) -> Output:
        spec = self.planner.spec(key.output, sum(map(len, texts)), long=key.long)
        context = self._open.get(spec)
        if context is None:
            context = self._open[spec] = self.engine.open_context(spec)
            self._stack.callback(context.close)
        return context.embed(texts, n_threads)

    def close(self) -> None:
        self._open.clear()
        self._stack.close()


def run_isolated(contexts: ContextSet, batch: Batch) -> list[Output | EmbedError]:
    """Run a batch; when it fails or gives numbers that are not finite, run its texts one by one, once.

    So a poison text fails alone. Returns one answer per task; raises only what is no `Exception`.
    """
    texts = [task.tokens for task in batch.tasks]
    try:
        output = _run_finite(contexts, batch.key, texts, batch.n_threads)
        return list(map(output.part, range(len(texts))))
    except Exception as error:
        _log.warning("a batch of %d texts failed (%s): running them one by one", len(texts), error)
    results: list[Output | EmbedError] = []
    for text in texts:
        try:
            results.append(_run_finite(contexts, batch.key, [text], batch.n_threads))
        except EmbedError as error:
            results.append(error)
        except Exception as error:
            results.append(EngineFailure(f"the engine failed on this text alone: {error}"))
    return results


def _run_finite(contexts: ContextSet, key: BatchKey, texts: Sequence[Sequence[int]], n_threads: int) -> Output:
    output = contexts.embed(key, texts, n_threads)
    if not output.is_finite():
        raise EngineFailure(f"the model gave numbers that are not finite for {len(texts)} texts together or alone")
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
        """Wait for the thread to end, then free its contexts. False when it still runs after `timeout_s`.

        A worker that never started, because the start of the model failed half-way, has nothing to wait for.
        """
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self._contexts.close()
        return True

    def _run(self) -> None:
        batch: Batch | None = None
        try:
            while (batch := self._queue.take(self.number)) is not None:
                self._run_batch(batch)
                batch = None  # answered: should the next `take` raise, it is not to be answered again
        except BaseException as error:
            _log.critical("worker %d died", self.number, exc_info=True)
            self._on_death(batch, error)

    def _run_batch(self, batch: Batch) -> None:
        """Its own function, so that an idle worker keeps no rows alive."""
        taken_s = time.monotonic()
        results = run_isolated(self._contexts, batch)
        done_s = time.monotonic()
        if not any(isinstance(result, EmbedError) for result in results):  # a refusal takes no time
            self._queue.note_speed(batch.n_tokens, done_s - taken_s)
        self._deliver(BatchOutcome(batch, results, taken_s, done_s))

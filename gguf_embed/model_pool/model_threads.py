"""A loaded model's own threads, which must be done with it before it is unloaded."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from gguf_embed.errors import EngineFailure, Unavailable, WayOut
from gguf_embed.preprocessing.abandoned import begin_work

_T = TypeVar("_T")

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Patience:
    """How long work may run. If it takes longer, it cannot be ended, and its thread is lost until it ends by itself."""

    seconds: float
    what: str  # the beginning of the error's sentence, such as "tokenizing the text"


@dataclass(slots=True, eq=False)
class _Job(Generic[_T]):
    work: Callable[[], _T]
    future: Future[_T] = field(default_factory=Future)
    is_abandoned: threading.Event = field(default_factory=threading.Event)
    begun_s: float | None = None  # None: it still waits for a thread

    def left_s(self, limit_s: float) -> float:
        """How long it may still run."""
        return limit_s if self.begun_s is None else self.begun_s + limit_s - time.monotonic()


class ModelThreads:
    """A few threads, started when they are needed. `run` belongs to the event loop.

    They are daemons, so that work which never ends cannot keep the process from ending.
    """

    def __init__(self, name: str, n_threads: int) -> None:
        self._name = name
        self._n_threads = n_threads
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._overdue: list[_Job[Any]] = []
        self._is_closed = False

    async def run(self, work: Callable[[], _T], patience: Patience | None = None) -> _T:
        """Run `work` on a thread and return its result. Raises `EngineFailure` if it runs longer than `patience`.

        While all threads are lost, other work is refused with `Unavailable`. Otherwise it waits for a thread, for as
        long as it takes.

        If the caller is cancelled, work that has begun is abandoned, which it notices between two texts, and waited
        for: the caller holds the model's lease, and unloading a model while a thread reads its vocabulary would crash
        the process.
        """
        if self._is_closed:
            raise Unavailable("the model is being unloaded", [WayOut.RETRY])
        if self.n_lost() == self._n_threads:
            raise _all_lost()
        job = _Job(work)
        self._jobs.put(job)
        if len(self._threads) < self._n_threads:
            self._start_thread()
        done = asyncio.wrap_future(job.future)
        limit_s = None if patience is None else patience.seconds
        try:
            await _until_overdue(job, done, limit_s)
        except asyncio.CancelledError:
            if not job.future.cancel():
                job.is_abandoned.set()
                await _until_overdue(job, done, limit_s, is_cancelled=True)
                self._settle(job, done)
            raise
        if patience is not None and not done.done():
            self._settle(job, done)
            raise EngineFailure(f"{patience.what} took over {patience.seconds:.0f} s", ways_out=[WayOut.EXAMINE_FILE])
        try:
            return done.result()
        finally:
            del job, done  # they hold the error, whose traceback holds this frame

    def n_lost(self) -> int:
        """The threads with work that ran for too long and has not ended. Any thread."""
        return sum(not job.future.done() for job in self._overdue)

    def close(self) -> bool:
        """End the threads, and wait for those that are not lost. Returns whether all have ended. Any thread."""
        self._is_closed = True
        for _ in self._threads:
            self._jobs.put(None)
        while len(alive := [thread for thread in self._threads if thread.is_alive()]) > self.n_lost():
            alive[0].join(_POLL_S)
        return not alive

    def join(self) -> None:
        """Wait until lost threads have ended, too, which may be never. After `close`."""
        for thread in self._threads:
            thread.join()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"{self._name}_{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        """On a thread: do one job after another, until there is no more."""
        while (job := self._jobs.get()) is not None:
            job.begun_s = time.monotonic()
            if job.future.set_running_or_notify_cancel():
                begin_work(job.is_abandoned)
                try:
                    job.future.set_result(job.work())
                except BaseException as error:
                    job.future.set_exception(error)
            del job  # an idle thread keeps nothing in memory

    def _settle(self, job: _Job[_T], done: asyncio.Future[_T]) -> None:
        """Nobody waits for the job any more. If it still runs, its thread is lost."""

        def forget(late: asyncio.Future[_T]) -> None:
            self._overdue.remove(job)
            _ = late.cancelled() or late.exception()  # mark it as retrieved

        self._overdue.append(job)
        job.is_abandoned.set()
        done.add_done_callback(forget)
        if self.n_lost() == self._n_threads:
            self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is None:  # the threads are being closed, and each needs its mark
                    self._jobs.put(None)
                    return
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(_all_lost())


def _all_lost() -> Unavailable:
    return Unavailable(
        "tokenizing earlier texts has not ended, so no more can begin", [WayOut.RETRY, WayOut.EXAMINE_FILE]
    )


async def _until_overdue(
    job: _Job[_T], done: asyncio.Future[_T], limit_s: float | None, *, is_cancelled: bool = False
) -> None:
    """Wait until the job is done, or has run for too long. `is_cancelled`: through any number of cancellations."""
    while not done.done():
        left_s = None if limit_s is None else job.left_s(limit_s)
        if left_s is not None and left_s <= 0:
            return
        with contextlib.suppress(asyncio.CancelledError) if is_cancelled else contextlib.nullcontext():
            await asyncio.wait([done], timeout=left_s)


@dataclass(frozen=True, slots=True)
class TokenizingThreads:
    """What tokenizes for one model. Each model has its own, so that none holds up the texts of another."""

    long: ModelThreads = field(default_factory=lambda: ModelThreads("tokenize", 2))
    short: ModelThreads = field(default_factory=lambda: ModelThreads("tokenize-short", 2))  # never wait for a long text
    offsets: ModelThreads = field(default_factory=lambda: ModelThreads("offsets", 1))  # may be busy for seconds

    def close(self) -> bool:
        """See `ModelThreads.close`."""
        have_ended = [threads.close() for threads in (self.long, self.short, self.offsets)]
        return all(have_ended)

    def join(self) -> None:
        """See `ModelThreads.join`."""
        for threads in (self.long, self.short, self.offsets):
            threads.join()

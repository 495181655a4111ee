"""A loaded model's own threads, which must be done with it before it is unloaded."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from gguf_embed.errors import EngineFailure, Overloaded, Unavailable, WayOut
from gguf_embed.model_pool.fair_line import FairLine
from gguf_embed.preprocessing.abandoned import begin_work
from gguf_embed.scheduler.retry_times import RetryTimes
from gguf_embed.scheduler.throughput import Throughput
from gguf_embed.types import CALLER, Caller

_T = TypeVar("_T")

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Patience:
    """How long work may run. If it takes longer, it cannot be ended, and its thread is lost until it ends by itself."""

    seconds: float
    what: str  # the beginning of the error's sentence, such as "tokenizing the text"
    wait_s: float | None = None  # how long it may wait for a thread before that; None: for as long as it takes


@dataclass(slots=True, eq=False)
class _Job(Generic[_T]):
    work: Callable[[], _T]
    caller: Caller
    cost: int
    queued_s: float = field(default_factory=time.monotonic)
    future: Future[_T] = field(default_factory=Future)
    is_abandoned: threading.Event = field(default_factory=threading.Event)
    begun_s: float | None = None  # None: it still waits for a thread

    def left_s(self, patience: Patience) -> float:
        """How long it may still run, or wait for a thread, but then no longer than it may run."""
        if self.begun_s is not None:
            return self.begun_s + patience.seconds - time.monotonic()
        if patience.wait_s is None:
            return patience.seconds
        return min(patience.seconds, self.queued_s + patience.wait_s - time.monotonic())


class ModelThreads:
    """A few threads, started when they are needed, for which callers take turns. `run` belongs to the event loop.

    They are daemons, so that work which never ends cannot keep the process from ending.
    """

    def __init__(self, name: str, n_threads: int) -> None:
        self._name = name
        self._n_threads = n_threads
        self._changed = threading.Condition(threading.Lock())  # protects the next two
        self._line: FairLine[_Job[Any]] = FairLine()
        self._speed = Throughput()
        self._retry_times = RetryTimes()
        self._threads: list[threading.Thread] = []
        self._overdue: list[_Job[Any]] = []
        self._is_closed = False

    @property
    def n_waiting(self) -> int:
        """How many calls wait for a thread. Any thread."""
        with self._changed:
            return len(self._line)

    async def run(self, work: Callable[[], _T], patience: Patience | None = None, cost: int = 1) -> _T:
        """Run `work` on a thread and return its result. Raises `EngineFailure` if it runs longer than `patience`.

        `cost` is what it counts of its caller's share, in characters. Raises `Overloaded` if it waits longer for a
        thread than `patience` says, and `Unavailable` while all threads are lost.

        If the caller is cancelled, work that has begun is abandoned, which it notices between two texts, and waited
        for: the caller holds the model's lease, and unloading a model while a thread reads its vocabulary would crash
        the process.
        """
        if self._is_closed:
            raise Unavailable("the model is being unloaded", [WayOut.RETRY])
        if self.n_lost() == self._n_threads:
            raise _all_lost()
        job = _Job(work, CALLER.get(), max(1, cost))
        with self._changed:
            self._line.add(job.caller, job, job.cost)
            self._speed.begin(job.queued_s)
            self._changed.notify()
        if len(self._threads) < self._n_threads:
            self._start_thread()
        done = asyncio.wrap_future(job.future)
        try:
            await self._until_overdue(job, done, patience)
        except asyncio.CancelledError:
            self._withdraw(job)
            if not job.future.cancel():
                job.is_abandoned.set()
                await self._until_overdue(job, done, patience, is_cancelled=True)
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
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
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
        while (job := self._take()) is not None:
            if job.future.set_running_or_notify_cancel():
                begin_work(job.is_abandoned)
                try:
                    job.future.set_result(job.work())
                except BaseException as error:
                    job.future.set_exception(error)
                if not job.is_abandoned.is_set():
                    with self._changed:
                        self._speed.note(time.monotonic(), job.cost)
            del job  # an idle thread keeps nothing in memory

    def _take(self) -> _Job[Any] | None:
        """On a thread: wait for the job whose turn it is. None if there is none, and the threads are being closed."""
        with self._changed:
            while (job := self._line.take()) is None:
                if self._is_closed:
                    return None
                self._changed.wait()
            job.begun_s = time.monotonic()
            if not self._line:
                self._speed.end(job.begun_s)
            return job

    def _withdraw(self, job: _Job[Any]) -> bool:
        """Remove a job that still waits for a thread. Returns whether it did."""
        with self._changed:
            did_wait = self._line.remove(job.caller, job)
            if not self._line:
                self._speed.end(time.monotonic())
            return did_wait

    async def _until_overdue(
        self, job: _Job[_T], done: asyncio.Future[_T], patience: Patience | None, *, is_cancelled: bool = False
    ) -> None:
        """Wait until the job is done, or has run for too long. `is_cancelled`: through any number of cancellations.

        Raises `Overloaded` for a job that has waited too long for a thread.
        """
        while not done.done():
            has_begun = job.begun_s is not None  # before its time is looked at, because it may begin meanwhile
            left_s = None if patience is None else job.left_s(patience)
            if left_s is not None and left_s <= 0:
                if has_begun:
                    return
                if self._withdraw(job):
                    job.future.cancel()
                    raise self._overloaded(job)
                left_s = _POLL_S  # it has been refused, or begins at this moment
            with contextlib.suppress(asyncio.CancelledError) if is_cancelled else contextlib.nullcontext():
                await asyncio.wait([done], timeout=left_s)

    def _overloaded(self, job: _Job[Any]) -> Overloaded:
        now_s = time.monotonic()
        with self._changed:
            n_ahead, cost_per_s = self._line.cost, self._speed.per_s(now_s)
        waited_s = now_s - job.queued_s
        retry_after_s = waited_s
        if cost_per_s is not None:
            retry_after_s = self._retry_times.tell(now_s, job.cost, n_ahead, cost_per_s)
        return Overloaded(f"the threads that tokenize were busy with other texts for {waited_s:.1f} s", retry_after_s)

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
        with self._changed:
            refused = self._line.clear()
            self._speed.end(time.monotonic())
        for job in refused:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(_all_lost())


def _all_lost() -> Unavailable:
    return Unavailable(
        "tokenizing earlier texts has not ended, so no more can begin", [WayOut.RETRY, WayOut.EXAMINE_FILE]
    )


@dataclass(frozen=True, slots=True)
class TokenizingThreads:
    """What tokenizes for one model. Each model has its own, so that none holds up the texts of another."""

    long: ModelThreads = field(default_factory=lambda: ModelThreads("tokenize", 2))
    short: ModelThreads = field(default_factory=lambda: ModelThreads("tokenize-short", 2))  # never wait for a long text
    offsets: ModelThreads = field(default_factory=lambda: ModelThreads("offsets", 1))  # may be busy for seconds

    @property
    def n_waiting(self) -> int:
        """How many requests wait for one of the threads."""
        return self.long.n_waiting + self.short.n_waiting + self.offsets.n_waiting

    def close(self) -> bool:
        """See `ModelThreads.close`."""
        have_ended = [threads.close() for threads in (self.long, self.short, self.offsets)]
        return all(have_ended)

    def join(self) -> None:
        """See `ModelThreads.join`."""
        for threads in (self.long, self.short, self.offsets):
            threads.join()

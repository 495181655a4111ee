"""Threads for work on a leased model, which must not be unloaded while they use it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from gguf_embed.errors import EngineFailure, WayOut
from gguf_embed.preprocessing.abandoned import begin_work

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a caller waits for work. Work that takes longer cannot be ended: its thread is lost."""

    seconds: float
    what: str  # the beginning of the error's sentence, such as "tokenizing the text"
    on_lost: Callable[[], None]  # called once, on the event loop: the model must stay in memory


class ModelThreads:
    """A few threads, started when they are needed. `run` and `close` belong to the event loop.

    They are daemons, so that work which never ends cannot keep the process from ending.
    """

    def __init__(self, name: str, n_threads: int) -> None:
        self._name = name
        self._n_threads = n_threads
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any], threading.Event] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._running: dict[Future[Any], threading.Thread] = {}
        self._lost: set[threading.Thread] = set()

    async def run(self, work: Callable[[], _T], patience: Patience | None = None) -> _T:
        """Run `work` on a thread and return its result. Raises `EngineFailure` if it takes longer than `patience`.

        If the caller is cancelled, work that has begun is abandoned, which it notices between two texts, and waited
        for: the caller holds the model's lease, and unloading a model while a thread reads its vocabulary would crash
        the process.
        """
        is_abandoned = threading.Event()
        future = self._submit(work, is_abandoned)
        waiting = asyncio.wrap_future(future)
        limit_s = None if patience is None else patience.seconds
        try:
            done, _ = await asyncio.wait([waiting], timeout=limit_s)
        except asyncio.CancelledError:
            if not future.cancel():
                is_abandoned.set()
                await _until_done(waiting, limit_s)
                if patience is not None and not waiting.done():
                    self._lose(future, patience)
                else:
                    waiting.exception()  # mark it as retrieved
            raise
        if not done and patience is not None:
            waiting.add_done_callback(lambda late: late.cancelled() or late.exception())
            if not future.cancel():  # else it has not even begun
                self._lose(future, patience)
            raise EngineFailure(f"{patience.what} took over {patience.seconds:.0f} s", ways_out=[WayOut.EXAMINE_FILE])
        try:
            return waiting.result()
        finally:
            del future, waiting, done  # they hold the error, whose traceback holds this frame

    def _submit(self, work: Callable[[], _T], is_abandoned: threading.Event) -> Future[_T]:
        future: Future[_T] = Future()
        self._work.put((future, work, is_abandoned))
        if len(self._threads) < self._n_threads:
            self._start_thread()
        return future

    def _start_thread(self) -> None:
        number = len(self._threads) + len(self._lost)
        thread = threading.Thread(target=self._serve, name=f"{self._name}_{number}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        """On a thread: do one work after another, until it is lost or there is no more."""
        thread = threading.current_thread()
        while thread not in self._lost and (item := self._work.get()) is not None:
            future, work, is_abandoned = item
            if not future.set_running_or_notify_cancel():
                continue
            self._running[future] = thread
            begin_work(is_abandoned)
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
            finally:
                del self._running[future]
            del item, future, work  # an idle thread keeps nothing in memory

    def _lose(self, future: Future[Any], patience: Patience) -> None:
        """Let another thread take the place of the one that does this work. When it is done after all, it ends."""
        thread = self._running.get(future)
        if thread is not None:
            patience.on_lost()
            self._lost.add(thread)
            self._threads.remove(thread)
            self._start_thread()

    def close(self) -> None:
        """Wait for running work to end, except that of threads that were lost."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()


async def _until_done(waiting: asyncio.Future[_T], limit_s: float | None) -> None:
    """Wait, through any number of cancellations. The outcome does not matter."""
    loop = asyncio.get_running_loop()
    deadline_s = None if limit_s is None else loop.time() + limit_s
    while not waiting.done() and (deadline_s is None or loop.time() < deadline_s):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([waiting], timeout=None if deadline_s is None else deadline_s - loop.time())

"""An event loop in a thread of its own, for calls from any thread or from any other loop."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from gguf_embed.errors import EngineFailure, Unavailable

_T = TypeVar("_T")
_log = logging.getLogger("gguf_embed.embedder")

EXIT_TIMEOUT_S = 10.0
"""How long the end of the interpreter waits for each loop that was not closed."""


class LoopThread:
    """Runs coroutines on its loop until it is closed. Thread-safe.

    It uses no signal handler and no loop of its caller, so it works beside a running loop, as in a notebook.
    """

    def __init__(self, owner: str, clean_up: Callable[[], Awaitable[None]]) -> None:
        """`owner`: for messages, e.g. "Embedder". `clean_up` is awaited on the loop at the end, after all calls."""
        self._owner = owner
        self._clean_up = clean_up
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a garbage collection inside it may call `begin_close`
        self._closing = False
        self._users: set[Future[None]] = set()
        self._ended: Future[None] = Future()
        self._loop = asyncio.SelectorEventLoop()  # not the policy's: that may be the loop of a user interface
        self._asked = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name=f"gguf-embed-{owner.lower()}", daemon=True)
        _close_at_exit(self)
        self._thread.start()

    def call(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> Future[_T]:
        """Run `work` on the loop. Cancelling the future cancels it.

        Raises `Unavailable` after `close`, `EngineFailure` in another process than the one that made this.
        """
        self.check()
        with self._lock:
            self._check_open()
            return asyncio.run_coroutine_threadsafe(work(), self._loop)

    def run(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """`call`, and wait for the result."""
        future = self.call(work)
        try:
            return future.result()
        except CancelledError:
            raise Unavailable(f"this {self._owner} was closed before the result was there") from None
        except BaseException:
            future.cancel()  # if this thread was interrupted, nobody wants the result any more
            raise

    async def wait(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """`call`, and wait for the result on the running loop, whichever it is."""
        return await asyncio.wrap_future(self.call(work))

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """For work on the calling thread with what `clean_up` frees: it waits until the block ends."""
        self.check()
        user: Future[None] = Future()
        with self._lock:
            self._check_open()
            self._users.add(user)
        try:
            yield
        finally:
            with self._lock:
                self._users.discard(user)
            user.set_result(None)

    def check(self) -> None:
        """Raises `EngineFailure` in a forked process, where the threads do not exist."""
        if os.getpid() != self._pid:
            raise EngineFailure(
                f"this {self._owner} was created in another process (pid {self._pid}), and its threads did not come "
                f"along to this one: create one {self._owner} per process"
            )

    def _check_open(self) -> None:
        if self._closing:
            raise Unavailable(f"this {self._owner} is closed: create another one")

    @property
    def is_own_process(self) -> bool:
        return os.getpid() == self._pid

    def begin_close(self, cancel: bool = False) -> None:
        """Accept no more calls, and end once all are done; `cancel`: without waiting for them. Never blocks."""
        if not self.is_own_process:
            return
        with self._lock:
            first, self._closing = not self._closing, True
            if not self._ended.done() and (first or cancel):
                self._loop.call_soon_threadsafe(self._stop, cancel)

    def close(self) -> None:
        """Accept no more calls, wait for those that are running, and end the thread. Safe to call twice."""
        self.begin_close()
        if self.is_own_process and threading.current_thread() is not self._thread:
            self._ended.result()
            self._thread.join()

    async def aclose(self) -> None:
        """`close`, for a running loop."""
        self.begin_close()
        if self.is_own_process:
            await asyncio.shield(asyncio.wrap_future(self._ended))
            self._thread.join()  # its last instruction has run

    def end(self, timeout_s: float) -> None:
        """Cancel all calls and wait for the end, but not for ever."""
        self.begin_close(cancel=True)
        if self.is_own_process:
            self._thread.join(timeout_s)

    def _stop(self, cancel: bool) -> None:
        if cancel:
            for task in asyncio.all_tasks(self._loop) - {self._task}:
                task.cancel()
        self._asked.set()

    def _main(self) -> None:
        try:
            self._task = self._loop.create_task(self._live())
            self._loop.run_until_complete(self._task)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        except Exception:
            _log.exception("closing the %s failed", self._owner)
        finally:
            with self._lock:
                self._closing = True
                self._loop.close()
            self._ended.set_result(None)

    async def _live(self) -> None:
        await self._asked.wait()
        while waiting := asyncio.all_tasks() - {self._task}:
            await asyncio.wait(waiting)
        for user in list(self._users):
            await asyncio.wrap_future(user)
        await self._clean_up()


_living: weakref.WeakSet[LoopThread] = weakref.WeakSet()
_registering = threading.Lock()
_is_registered = False


def _close_at_exit(loop_thread: LoopThread) -> None:
    """Have the loop closed at the end of the interpreter, if its owner has not done it."""
    global _is_registered
    with _registering:
        _living.add(loop_thread)
        if _is_registered:
            return
        _is_registered = True
        # before concurrent.futures ends its threads, which freeing a model needs; `atexit` functions run after that
        register = getattr(threading, "_register_atexit", atexit.register)
        register(_close_all)


def _close_all() -> None:
    for loop_thread in list(_living):
        loop_thread.end(EXIT_TIMEOUT_S)

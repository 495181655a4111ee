"""Threads for work on a leased model, which must not be unloaded while they use it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


class ModelThreads:
    """A small thread pool. `run` belongs to the event loop."""

    def __init__(self, name: str, n_threads: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=n_threads, thread_name_prefix=name)

    async def run(self, work: Callable[[], _T]) -> _T:
        """Run `work` on a thread and return its result.

        If the caller is cancelled, this still waits for work that has begun: the caller holds the model's lease, and
        unloading a model while a thread reads its vocabulary would crash the process.
        """
        future = self._pool.submit(work)
        waiting = asyncio.wrap_future(future)
        try:
            await asyncio.wait([waiting])
        except asyncio.CancelledError:
            if not future.cancel():
                await _until_done(waiting)
                waiting.exception()  # mark it as retrieved
            raise
        return waiting.result()

    def close(self) -> None:
        """Wait for running work to end."""
        self._pool.shutdown()


async def _until_done(waiting: asyncio.Future[_T]) -> None:
    """Wait, through any number of cancellations. The outcome does not matter."""
    while not waiting.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([waiting])

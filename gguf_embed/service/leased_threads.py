"""Threads for work on a loaded model, which must not be unloaded under them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


class ModelThreads:
    """A few threads. `run` belongs to the event loop."""

    def __init__(self, name: str, n_threads: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=n_threads, thread_name_prefix=name)

    async def run(self, work: Callable[[], _T]) -> _T:
        """Its result, computed on a thread.

        When the client is gone, work that has begun is waited for all the same: whoever awaits this holds the model's
        lease, and a model that is unloaded while a thread reads its vocabulary ends the process.
        """
        future = self._pool.submit(work)
        waiting = asyncio.wrap_future(future)
        try:
            await asyncio.wait([waiting])
        except asyncio.CancelledError:
            if not future.cancel():
                await _until_done(waiting)
                waiting.exception()  # nobody is left to hear of it
            raise
        return waiting.result()

    def close(self) -> None:
        """Wait for what runs."""
        self._pool.shutdown()


async def _until_done(waiting: asyncio.Future[_T]) -> None:
    """However often this is cancelled meanwhile, and whatever came of it."""
    while not waiting.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([waiting])

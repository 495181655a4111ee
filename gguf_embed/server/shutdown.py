"""The requests in flight, so that a shutdown can wait for them."""

from __future__ import annotations

import asyncio

from gguf_embed.errors import Unavailable


class InFlightRequests:
    """The requests in flight, identified by their tasks. Belongs to the event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.stopping = asyncio.Event()  # when set, new work is refused

    @property
    def n_running(self) -> int:
        """How many requests are being answered."""
        return len(self._tasks)

    def enter(self, task: asyncio.Task[object]) -> None:
        """Call it once a request's body has been read, because half a body may never be completed.

        Raises `Unavailable` during a shutdown.
        """
        if self.stopping.is_set():
            raise Unavailable("the server is shutting down and takes no new work")
        self._tasks.add(task)
        self._idle.clear()

    def leave(self, task: asyncio.Task[object]) -> None:
        """Call it once a request has been answered. Does nothing if it never entered."""
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()

    async def finish(self, timeout_s: float) -> int:
        """Refuse new work, wait for requests in flight, then cancel those that remain and return their number."""
        self.stopping.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            pass
        unanswered = tuple(self._tasks)
        for task in unanswered:
            task.cancel()
        return len(unanswered)

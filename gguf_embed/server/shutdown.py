"""Who is still being answered, so that a stop can wait for them."""

from __future__ import annotations

import asyncio


class InFlightRequests:
    """The requests in flight, each known by its task. Lives on the event loop's thread only."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.stopping = asyncio.Event()  # set: no new work is taken

    @property
    def n_running(self) -> int:
        """How many requests are being answered."""
        return len(self._tasks)

    def enter(self, task: asyncio.Task[object]) -> None:
        """When a request's body is here: half a body may never end. A request without a body is answered at once."""
        self._tasks.add(task)
        self._idle.clear()

    def leave(self, task: asyncio.Task[object]) -> None:
        """When it is answered; nothing happens where it never entered."""
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()

    async def finish(self, timeout_s: float) -> int:
        """Refuse new work from now on and wait for what was accepted; then cancel the rest and return its number."""
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

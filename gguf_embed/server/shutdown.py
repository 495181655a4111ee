"""The requests in flight, so that a shutdown can wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from gguf_embed.errors import Unavailable
from gguf_embed.scheduler.retry_times import MAX_RETRY_S

SHED_EVERY_S = 1.0
"""How often it is estimated again what can be computed in the time that is left."""

RESTART_S = 5.0
"""What a restart is guessed to take: to load a model, or to have another machine take over."""

LAST_ANSWERS_S = 2.0
"""How long requests may take to answer that they ran out of time."""


class InFlightRequests:
    """The requests in flight, identified by their tasks. Belongs to the event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.stopping = asyncio.Event()  # when set, new work is refused
        self.is_out_of_time = False  # a handler that is cancelled from now on answers so
        self.n_out_of_time = 0  # requests that were accepted, and refused after all
        self._end_s = 0.0  # on the loop's clock, when a shutdown stops waiting

    @property
    def n_running(self) -> int:
        """How many requests are being answered."""
        return len(self._tasks)

    def restarted_in_s(self, queued_s: float) -> float:
        """During a shutdown: when to ask again. `queued_s` is how long the texts take that are queued."""
        left_s = max(0.0, self._end_s - asyncio.get_running_loop().time())
        return min(MAX_RETRY_S, RESTART_S + min(left_s, queued_s))

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

    async def finish(self, timeout_s: float, shed: Callable[[float], None]) -> int:
        """Refuse new work and wait for the requests in flight; return how many of them were not computed.

        `shed` is told every second how much time is left, and refuses what cannot be computed by then. Those that
        remain after all are cancelled, which they answer with a 503.
        """
        self.stopping.set()
        loop = asyncio.get_running_loop()
        self._end_s = end_s = loop.time() + timeout_s
        while self._tasks and (left_s := end_s - loop.time()) > 0:
            shed(left_s)
            await self._wait(min(left_s, SHED_EVERY_S))
        self.is_out_of_time = True
        for task in tuple(self._tasks):
            task.cancel()
        await self._wait(LAST_ANSWERS_S)
        return self.n_out_of_time + len(self._tasks)

    async def _wait(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()

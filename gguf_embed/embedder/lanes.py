"""Several servers with one model: which one gets the next request, and how long a busy or dead one is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from gguf_embed.embedder.endpoint import Endpoint
from gguf_embed.embedder.endpoint_errors import Temporary, Trouble
from gguf_embed.errors import Unavailable

_T = TypeVar("_T")

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
MAX_FAILED_TRIES = 4
"""A request that servers failed on so often is the reason itself, if another one succeeds."""


class Blamed(Exception):
    """Servers fail on this request, and on no other. `error`: the last failure."""

    def __init__(self, error: Temporary) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(slots=True, eq=False)
class Lane:
    """One server. While it cools down it gets nothing; after that one request at a time, until one succeeds."""

    endpoint: Endpoint
    is_checked: bool = False  # whether it has the same model as the others
    n_running: int = 0
    n_pauses: int = 0  # in a row, without a success
    cool_until_s: float = 0.0
    paused_s: float = 0.0  # when the last pause began

    def n_free(self, limit: int, now_s: float) -> int:
        if now_s < self.cool_until_s:
            return 0
        return (1 if self.n_pauses else limit) - self.n_running

    def pause(self, error: Temporary, started_s: float, now_s: float) -> None:
        """Cool down after a request that began at `started_s`. Several that failed together are one reason."""
        if started_s >= self.paused_s or not self.n_pauses:
            self.n_pauses += 1
            self.paused_s = now_s
        pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (self.n_pauses - 1)) * random.uniform(0.8, 1.2)
        if error.retry_after_s is not None:
            pause_s = error.retry_after_s + random.uniform(0.0, 0.1)
        self.cool_until_s = max(self.cool_until_s, now_s + pause_s)


class Lanes:
    """Sends each request to the server with the most room, and again until it succeeds. Belongs to one event loop."""

    def __init__(self, endpoints: Sequence[Endpoint], n_at_once: int, give_up_s: float) -> None:
        """`n_at_once`: requests in flight per server. `give_up_s`: how long nothing may succeed."""
        self.all = [Lane(endpoint) for endpoint in endpoints]
        self.give_up_s = give_up_s
        self._n_at_once = n_at_once
        self._failing_since_s: float | None = None
        self._last_message = ""
        self._changed = asyncio.Event()

    async def send(self, request: Callable[[Endpoint], Awaitable[_T]], check: Callable[[Lane], Awaitable[None]]) -> _T:
        """The reply of the first server that answers. `check` is awaited before a server's first request.

        Raises `Unavailable` if nothing has succeeded for too long, `Blamed` for a request that servers fail on, and
        what `request` and `check` raise.
        """
        if self._left_s() <= 0:  # that was for an earlier request
            self._failing_since_s = None
        n_failed, last = 0, None
        while True:
            async with self._taken(last) as lane:
                started_s = time.monotonic()
                try:
                    if not lane.is_checked:
                        await check(lane)
                        lane.is_checked = True
                    started_s = time.monotonic()
                    reply = await request(lane.endpoint)
                except Temporary as error:
                    self._note_failure(lane, error, started_s)
                    last = lane
                    n_failed += error.trouble is Trouble.FAILED
                    if n_failed >= MAX_FAILED_TRIES and await self._works(lane, check):
                        raise Blamed(error) from None
                    continue
                self._note_success(lane, started_s)
                return reply

    async def _works(self, lane: Lane, check: Callable[[Lane], Awaitable[None]]) -> bool:
        """Whether a server that failed on a request answers another one."""
        with contextlib.suppress(Temporary):
            started_s = time.monotonic()
            await check(lane)
            self._note_success(lane, started_s)
            return True
        return False

    def _note_success(self, lane: Lane, started_s: float) -> None:
        if started_s >= lane.paused_s:  # one from before the pause does not end it
            lane.n_pauses = 0
            lane.cool_until_s = 0.0
        self._failing_since_s = None
        self._notify()

    def _note_failure(self, lane: Lane, error: Temporary, started_s: float) -> None:
        now_s = time.monotonic()
        lane.pause(error, started_s, now_s)
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        self._last_message = error.message
        self._check_patience()

    def _check_patience(self) -> None:
        if self._left_s() <= 0:
            raise Unavailable(f"{self._last_message}; no request has succeeded for {self.give_up_s:g} s")

    def _left_s(self) -> float:
        if self._failing_since_s is None:
            return self.give_up_s
        return self._failing_since_s + self.give_up_s - time.monotonic()

    @asynccontextmanager
    async def _taken(self, last: Lane | None) -> AsyncIterator[Lane]:
        """Room at a server, if possible another one than `last`. Waits for it."""
        while (lane := self._freest(last)) is None:
            now_s = time.monotonic()
            coolest_s = min((lane.cool_until_s for lane in self.all if lane.cool_until_s > now_s), default=now_s + 60.0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), max(0.0, min(coolest_s - now_s, self._left_s())))
            self._check_patience()
        lane.n_running += 1
        try:
            yield lane
        finally:
            lane.n_running -= 1
            self._notify()

    def _freest(self, last: Lane | None) -> Lane | None:
        now_s = time.monotonic()
        free = [lane for lane in self.all if lane.n_free(self._n_at_once, now_s) > 0]
        if len(free) > 1:
            free = [lane for lane in free if lane is not last]
        return max(free, key=lambda lane: lane.n_free(self._n_at_once, now_s), default=None)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def close(self) -> None:
        for lane in self.all:
            await lane.endpoint.close()

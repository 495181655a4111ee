"""How much memory the bodies of all requests together may take. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from gguf_embed.errors import Overloaded, WayOut
from gguf_embed.scheduler.retry_times import RetryTimes
from gguf_embed.scheduler.throughput import Throughput

MAX_WAIT_S = 30.0
"""How long a body may wait to be read. Its client sends nothing meanwhile, beyond what fits in the socket."""

MAX_WAITING = 200

GUESSED_RETRY_S = 10.0
"""What a refused client is told before any memory was given back."""

MEDIUM_PART = 8
"""An eighth more is for medium bodies, so that large ones cannot lock them out."""


class BodyMemory:
    """Bodies take their share of the memory in the order in which they came, and wait while there is none left."""

    def __init__(self, limit_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_bytes = limit_bytes
        self._clock = clock
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._given_back = Throughput()
        self._retry_times = RetryTimes()
        self.used_bytes = 0

    @property
    def n_waiting(self) -> int:
        """How many bodies wait to be read."""
        return len(self._waiting)

    async def take(self, n_bytes: int) -> None:
        """Wait until there is room for `n_bytes`, at most the limit. Raises `Overloaded` if that takes too long."""
        if not self._waiting and self.used_bytes + n_bytes <= self.limit_bytes:
            self.used_bytes += n_bytes
            return
        if len(self._waiting) >= MAX_WAITING:
            raise self._overloaded(n_bytes)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((n_bytes, granted))
        self._given_back.begin(self._clock())
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await granted
        except BaseException as error:
            if granted.done() and not granted.cancelled():
                self.give_back(n_bytes)
            else:
                with suppress(ValueError):  # it may have been passed over already
                    self._waiting.remove((n_bytes, granted))
                self._grant()
            if isinstance(error, TimeoutError):
                raise self._overloaded(n_bytes) from None
            raise

    def give_back(self, n_bytes: int) -> None:
        """Of what `take` has counted."""
        self.used_bytes -= n_bytes
        if self._waiting:
            self._given_back.note(self._clock(), n_bytes)
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self.used_bytes + self._waiting[0][0] <= self.limit_bytes:
            n_bytes, granted = self._waiting.popleft()
            if not granted.done():
                self.used_bytes += n_bytes
                granted.set_result(None)
        if not self._waiting:
            self._given_back.end(self._clock())

    def _overloaded(self, n_bytes: int) -> Overloaded:
        return Overloaded(
            f"other requests' bodies take the {self.limit_bytes:,} bytes that the server has for bodies",
            retry_after_s=self._retry_after_s(n_bytes),
            ways_out=[WayOut.RETRY, WayOut.MORE_BODY_MEMORY],
        )

    def _retry_after_s(self, n_bytes: int) -> float:
        """When there is room for a refused body, after those that wait and those that were refused before it."""
        now_s = self._clock()
        bytes_per_s = self._given_back.per_s(now_s)
        if bytes_per_s is None:
            return GUESSED_RETRY_S
        n_ahead = self.used_bytes + sum(n_waiting for n_waiting, _ in self._waiting)
        excess = max(0, n_ahead + n_bytes - self.limit_bytes)
        return self._retry_times.tell(now_s, n_bytes, excess, bytes_per_s)


@dataclass(frozen=True, slots=True)
class BodyMemories:
    """The memory for large bodies, and that for medium ones."""

    large: BodyMemory
    medium: BodyMemory
    parsing: asyncio.Lock = field(default_factory=asyncio.Lock)  # one at a time: it takes a processor from the engine

    @classmethod
    def of(cls, limit_bytes: int) -> BodyMemories:
        return cls(BodyMemory(limit_bytes), BodyMemory(limit_bytes // MEDIUM_PART))

    @property
    def used_bytes(self) -> int:
        return self.large.used_bytes + self.medium.used_bytes

    @property
    def n_waiting(self) -> int:
        return self.large.n_waiting + self.medium.n_waiting

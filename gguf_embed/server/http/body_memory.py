"""How much memory the bodies of all requests together may take. Belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from gguf_embed.errors import Overloaded, WayOut

MAX_WAIT_S = 30.0
"""How long a body may wait to be read. Its client sends nothing meanwhile, beyond what fits in the socket."""

MAX_WAITING = 200


class BodyMemory:
    """Bodies take their share of the memory in the order in which they came, and wait while there is none left."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.used_bytes = 0
        self.parsing = asyncio.Lock()  # one at a time: parsing takes a processor from the engine

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
            raise self._overloaded()
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((n_bytes, granted))
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
                raise self._overloaded() from None
            raise

    def give_back(self, n_bytes: int) -> None:
        """Of what `take` has counted."""
        self.used_bytes -= n_bytes
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self.used_bytes + self._waiting[0][0] <= self.limit_bytes:
            n_bytes, granted = self._waiting.popleft()
            if not granted.done():
                self.used_bytes += n_bytes
                granted.set_result(None)

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"other requests' bodies take the {self.limit_bytes:,} bytes that the server has for bodies",
            retry_after_s=int(MAX_WAIT_S) // 3,
            ways_out=[WayOut.RETRY, WayOut.MORE_BODY_MEMORY],
        )

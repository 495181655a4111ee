"""Requests for which the queue has no room yet. No lock: it belongs to the queue that has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gguf_embed.scheduler.batching import PRIORITY_WEIGHTS
from gguf_embed.scheduler.task import PendingRequest, Work
from gguf_embed.types import Caller

MAX_REQUESTS = 1024
"""Limit on how many requests wait here, whatever their size."""


class WaitingRoom:
    """First come, first served for one client and class; the clients take turns."""

    def __init__(self) -> None:
        self._waiting: dict[Caller, dict[PendingRequest, Work]] = {}  # dicts keep the order of arrival
        self._held: dict[str, int] = {}  # client → tokens
        self.n_requests = 0
        self.n_tokens = 0

    def held(self, client: str) -> int:
        """Tokens of one client."""
        return self._held.get(client, 0)

    def add(self, work: Work) -> None:
        caller = work.request.caller
        self._waiting.setdefault(caller, {})[work.request] = work
        self._held[caller.client] = self._held.get(caller.client, 0) + work.n_tokens
        work.request.is_outside = True
        self.n_requests += 1
        self.n_tokens += work.n_tokens

    def remove(self, request: PendingRequest) -> Work:
        """Raises `KeyError` for a request that does not wait here."""
        caller = request.caller
        work = self._waiting[caller].pop(request)
        if not self._waiting[caller]:
            del self._waiting[caller]
        self._held[caller.client] -= work.n_tokens
        if not self._held[caller.client]:
            del self._held[caller.client]
        request.is_outside = False
        self.n_requests -= 1
        self.n_tokens -= work.n_tokens
        return work

    def in_turn(self, held: Callable[[str], int]) -> Sequence[Work]:
        """The first request of each client and class: that of the client with the least in the queue comes first.

        `held` is how many tokens a client has there.
        """
        callers = sorted(
            self._waiting, key=lambda caller: (held(caller.client) + 1) / PRIORITY_WEIGHTS[caller.priority]
        )
        return [next(iter(self._waiting[caller].values())) for caller in callers]

    def tokens(self) -> dict[PendingRequest, int]:
        """How many each request has."""
        return {work.request: work.n_tokens for waiting in self._waiting.values() for work in waiting.values()}

    def clear(self) -> Sequence[Work]:
        """Remove everything, and return it."""
        everything = [work for waiting in self._waiting.values() for work in waiting.values()]
        for work in everything:
            self.remove(work.request)
        return everything

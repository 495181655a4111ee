"""Requests for which the queue has no room yet. No lock: it belongs to the queue that has one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gguf_embed.scheduler.batching import PRIORITY_WEIGHTS
from gguf_embed.scheduler.task import PendingRequest, Work
from gguf_embed.types import Caller

MAX_REQUESTS = 1024
"""Limit on how many requests wait here, whatever their size."""


@dataclass(slots=True)
class Line:
    """The requests of one client and class, in the order in which they first came."""

    waiting: dict[PendingRequest, Work] = field(default_factory=dict)
    entered_s: float = -math.inf  # when one of them entered the queue

    def first(self) -> Work:
        return next(iter(self.waiting.values()))

    def add(self, work: Work) -> None:
        is_last = not self.waiting or next(reversed(self.waiting.values())).since_s <= work.since_s
        self.waiting[work.request] = work
        if not is_last:
            self.waiting = dict(sorted(self.waiting.items(), key=lambda item: item[1].since_s))


class WaitingRoom:
    """First come, first served for one client and class; the clients take turns."""

    def __init__(self) -> None:
        self._lines: dict[Caller, Line] = {}
        self._held: dict[str, int] = {}  # client → tokens
        self.n_requests = 0
        self.n_tokens = 0

    def held(self, client: str) -> int:
        """Tokens of one client."""
        return self._held.get(client, 0)

    def add(self, work: Work) -> None:
        caller = work.request.caller
        self._lines.setdefault(caller, Line()).add(work)
        self._held[caller.client] = self._held.get(caller.client, 0) + work.n_tokens
        work.request.is_outside = True
        self.n_requests += 1
        self.n_tokens += work.n_tokens

    def remove(self, request: PendingRequest) -> Work:
        """Raises `KeyError` for a request that does not wait here."""
        caller = request.caller
        work = self._lines[caller].waiting.pop(request)
        if not self._lines[caller].waiting:
            del self._lines[caller]
        self._held[caller.client] -= work.n_tokens
        if not self._held[caller.client]:
            del self._held[caller.client]
        request.is_outside = False
        self.n_requests -= 1
        self.n_tokens -= work.n_tokens
        return work

    def enter(self, request: PendingRequest, now_s: float) -> Work:
        """Remove a request because it enters the queue."""
        work = self.remove(request)
        if request.caller in self._lines:
            self._lines[request.caller].entered_s = now_s
        return work

    def by_age(self) -> Sequence[tuple[float, Work]]:
        """The first request of each client and class, and since when none of theirs has entered: the oldest first."""
        firsts = [(max(line.entered_s, line.first().since_s), line.first()) for line in self._lines.values()]
        return sorted(firsts, key=lambda first: first[0])

    def in_turn(self, held: Callable[[str], int]) -> Sequence[Work]:
        """The first request of each client and class: that of the client with the least in the queue comes first.

        `held` is how many tokens a client has there.
        """
        callers = sorted(self._lines, key=lambda caller: (held(caller.client) + 1) / PRIORITY_WEIGHTS[caller.priority])
        return [self._lines[caller].first() for caller in callers]

    def tokens(self) -> dict[PendingRequest, int]:
        """How many each request has."""
        return {work.request: work.n_tokens for line in self._lines.values() for work in line.waiting.values()}

    def clear(self) -> Sequence[Work]:
        """Remove everything, and return it."""
        everything = [work for line in self._lines.values() for work in line.waiting.values()]
        for work in everything:
            self.remove(work.request)
        return everything

"""When refused requests should come back, and what room is kept for them. No clock, no lock."""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from gguf_embed.scheduler.retry_times import GRACE_S, MAX_RETRY_S, told_s
from gguf_embed.scheduler.task import Work

EARLY_S = 0.01
"""How much earlier than told a client may come, because `Retry-After-Ms` is rounded."""

MAX_PROMISES = 4096
"""Limit on how many refused requests are remembered."""

MAX_KEPT = 128
"""Limit on for how many of them room is left at the same time."""


@dataclass(frozen=True, slots=True, eq=False)
class Promise:
    """A request that was refused, and may come back."""

    key: Hashable  # what tells the request from others
    client: str
    n_tokens: int
    since_s: float  # when it came for the first time
    order: int  # of its first refusal
    due_s: float  # when it was told to come
    is_of_room: bool  # not only to be told again
    is_kept: bool  # it came back when it was told before, so others leave room for it


def tokens_until_share(n_own: int, n_clients: int, n_all: int) -> int:
    """How many tokens are computed until `n_own` of one client are, while `n_clients` share the workers.

    `n_all`: after so many, everything is computed.
    """
    return min(n_own * n_clients, n_all)


def kept_limit(kept: Iterable[tuple[float, int]], now_s: float, tokens_per_s: float, limit: int) -> int:
    """How many tokens may wait now, so that there is room for each kept request when it comes.

    `kept`: when each comes, in order, and its tokens. What is computed by then does not take its room.
    """
    n_tokens, least = 0, float(limit)
    for due_s, n_more in kept:
        n_tokens += min(n_more, limit)
        least = min(least, limit - n_tokens + tokens_per_s * max(0.0, due_s - now_s))
    return int(least)


class RetryPromises:
    """Tells each refused request a time, and knows it when it comes back.

    A promise lapses when its client does not come in time.
    """

    def __init__(self) -> None:
        self._by_key: dict[Hashable, list[Promise]] = {}
        self._by_due: list[tuple[float, int, Promise]] = []  # a heap, also of those that are over
        self._over: set[Promise] = set()  # that are still in the heap
        self._kept: list[Promise] = []  # by time
        self._of_client: dict[str, int] = {}  # tokens
        self._n_seen = 0
        self._n_beyond = 0
        self._n_tokens = 0
        self.n_requests = 0

    def promise(self, key: Hashable, work: Work, now_s: float, wait_s: float, *, is_kept: bool) -> float:
        """Seconds, `MIN_RETRY_S` to `MAX_RETRY_S`, after which a request should try again.

        `wait_s`: when there should be room for it. `is_kept`: others leave room for it then.
        """
        is_beyond = wait_s > MAX_RETRY_S
        told = told_s(wait_s, self._n_beyond)
        self._n_beyond += is_beyond
        client, n_tokens = work.request.caller.client, work.n_tokens
        if self.n_requests < MAX_PROMISES:
            order = self._n_seen if work.order is None else work.order
            is_kept = is_kept and not is_beyond and len(self._kept) < MAX_KEPT
            promise = Promise(key, client, n_tokens, work.since_s, order, now_s + told, not is_beyond, is_kept)
            self._by_key.setdefault(key, []).append(promise)
            heapq.heappush(self._by_due, (promise.due_s, self._n_seen, promise))
            if promise.is_kept:
                bisect.insort(self._kept, promise, key=lambda one: one.due_s)
            self._of_client[client] = self._of_client.get(client, 0) + n_tokens
            self._n_seen += 1
            self._n_tokens += n_tokens
            self.n_requests += 1
        return told

    def redeem(self, key: Hashable, now_s: float) -> Promise | None:
        """The promise to a request that comes when it was told, if there was one. It is over then."""
        self.expire(now_s)
        due = [promise for promise in self._by_key.get(key, ()) if promise.due_s - EARLY_S <= now_s]
        if not due:
            return None
        promise = min(due, key=lambda one: one.order)
        self._forget(promise)
        self._over.add(promise)
        return promise

    def tokens_before(self, client: str, order: int | None) -> tuple[int, int]:
        """Tokens of the promised requests that were refused before one, and those of one client.

        `order`: of the first refusal of that request; None: it is refused for the first time now.
        """
        if order is None:
            return self._n_tokens, self._of_client.get(client, 0)
        before = [promise for promises in self._by_key.values() for promise in promises if promise.order < order]
        return (
            sum(promise.n_tokens for promise in before),
            sum(promise.n_tokens for promise in before if promise.client == client),
        )

    def kept_before(self, work: Work) -> Sequence[Promise]:
        """Those for which a request leaves room, by time: they came before it."""
        return [
            promise
            for promise in self._kept
            if promise.since_s <= work.since_s and (work.order is None or promise.order < work.order)
        ]

    def expire(self, now_s: float) -> None:
        """Forget the clients that did not come."""
        while self._by_due and (self._by_due[0][2] in self._over or self._by_due[0][0] + GRACE_S < now_s):
            promise = heapq.heappop(self._by_due)[2]
            if promise in self._over:
                self._over.remove(promise)
            else:
                self._forget(promise)

    def _forget(self, promise: Promise) -> None:
        promises = self._by_key[promise.key]
        promises.remove(promise)
        if not promises:
            del self._by_key[promise.key]
        if promise.is_kept:
            self._kept.remove(promise)
        left = self._of_client[promise.client] - promise.n_tokens
        if left:
            self._of_client[promise.client] = left
        else:
            del self._of_client[promise.client]
        self._n_tokens -= promise.n_tokens
        self.n_requests -= 1

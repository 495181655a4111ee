"""Which requests enter the queue, wait outside, or come again. No lock: it belongs to the queue that has one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from gguf_embed.config import QueueConfig
from gguf_embed.engines.base import ExecutionPlan
from gguf_embed.errors import Overloaded, WayOut
from gguf_embed.scheduler.admission import (
    SHARED_S,
    excess_tokens,
    has_reserve,
    has_room,
    has_room_at_last,
    is_within_share,
    overtaken_s,
    queue_limit,
    reserve_of,
)
from gguf_embed.scheduler.batching import PRIORITY_WEIGHTS, FairQueue
from gguf_embed.scheduler.promises import Promise, RetryPromises, kept_limit, tokens_until_share
from gguf_embed.scheduler.queue_speed import QueueSpeed
from gguf_embed.scheduler.task import PendingRequest, Work
from gguf_embed.scheduler.waiting_room import MAX_REQUESTS, WaitingRoom

KEY_TOKENS = 64
"""How many tokens of its first text tell a request from others of the same client with texts of the same lengths."""


class Entrance:
    """Lets requests into a queue while it has room.

    A request may be overtaken for a while only, see `overtaken_s`: then nobody enters before it, but on the reserve.
    One that was refused, and came back when it was told, is in the same position while it is away: the others leave
    room for the time at which it was told to come.
    """

    def __init__(
        self,
        plan: ExecutionPlan,
        config: QueueConfig,
        texts: FairQueue,
        speed: QueueSpeed,
        clock: Callable[[], float],
        unit: str,  # in errors
    ) -> None:
        self._batch_tokens = plan.limits.max_tokens
        self._config = config
        self._texts = texts
        self._speed = speed
        self._clock = clock
        self._unit = unit
        self.last_client: str | None = None
        self._shared_until_s = 0.0  # until then, one client gets a half of the queue at most
        self.outside = WaitingRoom()
        self.promises = RetryPromises()

    def limit(self) -> int:
        """How many tokens may wait in the queue."""
        config = self._config
        return queue_limit(config.max_tokens, config.max_s, self._speed.tokens_per_s, self._batch_tokens)

    def note_client(self, client: str) -> None:
        """Another client comes than before."""
        if self.last_client is not None:
            self._shared_until_s = self._clock() + SHARED_S
        self.last_client = client

    def admit(self, work: Work) -> None:
        """Let a request in, or let it wait outside. Raises `Overloaded` if it may not."""
        now_s = self._clock()
        promise = self.promises.redeem(_key(work), now_s) if self.promises.n_requests else None
        if promise is None:
            work = replace(work, since_s=now_s)
        else:
            work = replace(work, since_s=promise.since_s, order=promise.order)
        is_promised = promise is not None and promise.is_of_room
        if self._enters(work, now_s, is_promised=is_promised):
            return
        if self._texts.drop_cancelled() and self._enters(work, now_s, is_promised=is_promised):
            return
        if self._enters_on_reserve(work):
            return
        if not self._may_wait(work, is_kept=promise is not None and promise.is_kept):
            raise self._refusal(work, self.outside.n_tokens, self.outside.held(work.request.caller.client))
        self.outside.add(work)

    def _enters(self, work: Work, now_s: float, *, is_promised: bool) -> bool:
        """Let a request in that comes, if it is its turn. `is_promised`: it was told that there is room now."""
        if not self.outside.n_requests:
            if not self._fits(work, now_s, is_owed=is_promised):
                return False
            self._texts.add(work)
            return True
        self.outside.add(work)
        self._let_in(now_s)
        if work.request.is_outside:
            self.outside.remove(work.request)
            return False
        return True

    def let_in(self) -> None:
        """Admit requests that wait outside, in turn."""
        self._let_in(self._clock())

    def _let_in(self, now_s: float) -> None:
        self.promises.expire(now_s)
        while self.outside.n_requests:
            work = self._next(now_s)
            if work is None:
                return
            self.outside.enter(work.request, now_s)
            self._texts.add(work)

    def _next(self, now_s: float) -> Work | None:
        """The request outside that enters now."""
        held_back: set[str] = set()  # clients that have too much in the queue for one of theirs that was overtaken
        for since_s, work in self.outside.by_age():
            if self._is_owed(work, since_s, now_s):
                if self._fits(work, now_s, is_owed=True):
                    return work
                if self._is_within_share(work, self.promises.kept_before(work), is_owed=True):
                    return None
                held_back.add(work.request.caller.client)
        for work in self.outside.in_turn(self._texts.held):
            if work.request.caller.client not in held_back and self._fits(work, now_s, is_owed=False):
                return work
        return None

    def _is_owed(self, work: Work, since_s: float, now_s: float) -> bool:
        """Whether nobody may overtake a request any more that waits since then."""
        return now_s - since_s > overtaken_s(self._config.max_wait_s, PRIORITY_WEIGHTS[work.request.caller.priority])

    def _fits(self, work: Work, now_s: float, *, is_owed: bool) -> bool:
        if not self._texts.n_tokens:
            return True  # the workers have nothing to do
        if not is_owed and not has_room(work.n_tokens, self._texts.n_tokens, self.limit()):
            return False  # before what is kept is looked at, which takes longer
        promises = self.promises.kept_before(work)
        has_room_beside = self._has_room_beside(work, promises, now_s, is_owed=is_owed)
        return has_room_beside and self._is_within_share(work, promises, is_owed=is_owed)

    def _has_room_beside(self, work: Work, promises: Sequence[Promise], now_s: float, *, is_owed: bool) -> bool:
        """Whether there is room besides what is kept for these."""
        limit, n_held = self.limit(), self._texts.n_tokens
        kept = self._kept(promises, work.request.caller.client, limit)
        room = kept_limit(kept, now_s, self._speed.tokens_per_s, self._kept_limit())
        if is_owed:
            most = room if kept else limit + reserve_of(limit)
            return has_room_at_last(work.n_tokens, n_held - self._texts.n_reserved, limit, most)
        return has_room(work.n_tokens, n_held, min(limit, room))

    def _kept(self, promises: Sequence[Promise], client: str, limit: int) -> list[tuple[float, int]]:
        """When those come for whom a client's request leaves room, and for how many tokens: not beyond their share."""
        is_shared = self._is_shared()
        kept: list[tuple[float, int]] = []
        own: dict[str, int] = {}  # of the other clients, in the queue and kept
        for promise in promises:
            n_tokens = min(promise.n_tokens, limit)
            if is_shared and promise.client != client:
                n_own = own.get(promise.client, self._texts.held(promise.client))
                if n_own:  # it may have one request of any size, else a half
                    n_tokens = min(n_tokens, max(0, limit // 2 - n_own))
                own[promise.client] = n_own + n_tokens
            kept.append((promise.due_s, n_tokens))
        return kept

    def _kept_limit(self) -> int:
        """How much may wait when a request comes for which room was left: a batch less than it may find."""
        limit = self.limit()
        return limit + max(0, reserve_of(limit) - self._batch_tokens)

    def _is_within_share(self, work: Work, promises: Sequence[Promise], *, is_owed: bool) -> bool:
        """`promises`: for which it leaves room."""
        limit, client = self.limit(), work.request.caller.client
        kept = sum(promise.n_tokens for promise in promises if promise.client == client)
        own = self._texts.held(client) + kept
        if is_owed:
            half = limit // 2
            return not self._is_shared() or has_room_at_last(work.n_tokens, own, half, half + reserve_of(limit))
        return is_within_share(work.n_tokens, own, limit, is_shared=self._is_shared())

    def _is_shared(self) -> bool:
        return self._clock() < self._shared_until_s

    def _enters_on_reserve(self, work: Work) -> bool:
        if not has_reserve(work.n_tokens, self._texts.n_reserved, self.limit(), self._batch_tokens):
            return False
        work.request.on_reserve = True
        self._texts.add(work)
        return True

    def _may_wait(self, work: Work, *, is_kept: bool) -> bool:
        """Whether a request will have room within the time that one waits, and not only this client's.

        One for which room was left is next.
        """
        limit = round(self._speed.tokens_per_s * self._config.max_wait_s)
        if not limit or self.outside.n_tokens > limit or self.outside.n_requests >= MAX_REQUESTS:
            return False
        own = self.outside.held(work.request.caller.client)
        excess = excess_tokens(work.n_tokens, self._texts.n_tokens + self.outside.n_tokens, self.limit())
        return is_kept or (excess <= limit and is_within_share(work.n_tokens, own, limit, is_shared=self._is_shared()))

    def refuse(self, request: PendingRequest) -> Overloaded:
        """Remove a request that has waited outside for too long. Those that still wait came after it."""
        return self._refusal(self.outside.remove(request), n_outside=0, n_own_outside=0)

    def _refusal(self, work: Work, n_outside: int, n_own_outside: int) -> Overloaded:
        """`n_outside`: tokens outside that are computed before those of the refused request, and its client's."""
        now_s, limit, client = self._clock(), self.limit(), work.request.caller.client
        is_kept = work.order is not None and self._is_owed(work, work.since_s, now_s)
        n_promised, n_own_promised = self.promises.tokens_before(client, work.order)
        n_ahead, n_own = self._texts.n_tokens + n_outside, self._texts.held(client) + n_own_outside
        most = self._kept_limit() if is_kept else limit
        n_tokens = n_promised + excess_tokens(min(work.n_tokens, limit), n_ahead, most)
        if self._is_shared():
            n_own = excess_tokens(work.n_tokens, n_own + n_own_promised, limit // 2)
            n_tokens = max(n_tokens, tokens_until_share(n_own, self._texts.n_clients, n_ahead + n_promised))
        wait_s = n_tokens / self._speed.tokens_per_s
        return Overloaded(
            f"the queue holds {self._texts.n_tokens} {self._unit}, this request has {work.n_tokens}, and the limit is "
            f"{limit}",
            retry_after_s=self.promises.promise(_key(work), work, now_s, wait_s, is_kept=is_kept),
            ways_out=[WayOut.RETRY, WayOut.LARGER_QUEUE],
        )


def _key(work: Work) -> Hashable:
    """Equal if a request comes again."""
    return hash((work.request.caller, tuple(work.lengths), tuple(work.texts[0][:KEY_TOKENS])))

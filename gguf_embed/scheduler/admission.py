"""Pure decisions: which requests may enter, how much may wait, and how long a batch may take. No clock, no lock."""

from __future__ import annotations

from gguf_embed.engines.base import BatchLimits

RESERVE = 10
"""A tenth more than the queue's limit is reserved for requests that fit in one batch, so that bulk requests cannot
lock out a short query."""

BULK_BATCH_S = 0.15
"""How long a batch of bulk texts may take while short requests come, which wait for it. A text that takes longer runs
alone. With 0.1 s, bulk clients lost 9 % beside queries, half of that by batches of three passages instead of four."""

INTERACTIVE_BATCH_S = 0.01
"""How long a batch of short requests may take, so that replies and new requests of one batch overlap with the next."""

INTERACTIVE_BATCH_TOKENS = 168
"""A batch of short requests may have as many in any case, up to what `BULK_BATCH_S` allows."""

INTERACTIVE_S = 2.0
"""How long a short request keeps batches short."""

SHARED_S = 60.0
"""How long after two clients came one of them may fill a half of the queue only."""


def queue_limit(max_tokens: int | None, max_s: float, tokens_per_s: float, batch_tokens: int) -> int:
    """How many tokens may wait: `max_tokens` if it is set, else what is computed in `max_s`, but always one batch."""
    if max_tokens is not None:
        return max_tokens
    return max(batch_tokens, round(tokens_per_s * max_s))


def has_room(n_tokens: int, n_held: int, limit: int) -> bool:
    """Whether a request of `n_tokens` fits. What is empty takes a request of any size."""
    return not n_held or n_held + n_tokens <= limit


def has_room_at_last(n_tokens: int, n_held: int, limit: int, room: int) -> bool:
    """Whether a request fits that nobody may overtake any more: one that is larger than the limit needs all of it.

    `room` may exceed the limit by the reserve, so that the workers have something to do until such a request comes.
    """
    return n_held + min(n_tokens, limit) <= room


def overtaken_s(max_wait_s: float, weight: float) -> float:
    """How long a request of a class of this weight may be overtaken: a half of the time that requests wait for room."""
    return max_wait_s / 2 / weight


def is_within_share(n_tokens: int, n_own: int, limit: int, *, is_shared: bool) -> bool:
    """Whether a client with `n_own` tokens may add a request. If others come, it gets a half, or one request."""
    return not is_shared or not n_own or n_own + n_tokens <= limit // 2


def reserve_of(limit: int) -> int:
    """How many tokens may wait over the limit."""
    return limit // RESERVE


def has_reserve(n_tokens: int, n_reserved: int, limit: int, batch_tokens: int) -> bool:
    """Whether a request that fits in one batch may use the reserve."""
    return n_tokens <= batch_tokens and n_reserved + n_tokens <= reserve_of(limit)


def excess_tokens(n_tokens: int, n_ahead: int, limit: int) -> int:
    """How many tokens must be computed before a request has room behind `n_ahead` others."""
    return max(0, n_ahead + min(n_tokens, limit) - limit)


def bulk_tokens(limits: BatchLimits, worker_tokens_per_s: float) -> int:
    """Tokens in a batch of bulk texts while short requests come, but not so few that a batch is not worth while."""
    tokens = int(worker_tokens_per_s * BULK_BATCH_S)
    return min(limits.max_tokens, max(limits.min_share_tokens, tokens))


def interactive_tokens(limits: BatchLimits, worker_tokens_per_s: float) -> int:
    """Tokens in a batch of short requests."""
    tokens = max(INTERACTIVE_BATCH_TOKENS, int(worker_tokens_per_s * INTERACTIVE_BATCH_S))
    return min(bulk_tokens(limits, worker_tokens_per_s), tokens)

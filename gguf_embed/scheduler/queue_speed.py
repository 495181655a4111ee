"""How fast the workers of a queue are. No lock: it belongs to the queue that has one."""

from __future__ import annotations

import math
from collections.abc import Callable

SPEED_S = 2.0
"""The measured speed is a mean over about this long."""


def updated_speed(tokens_per_s: float, n_tokens: int, seconds: float) -> float:
    """The speed after `n_tokens` more have left a full queue in so many seconds: a mean weighted by time."""
    if seconds <= 0:
        return tokens_per_s
    step = -math.expm1(-seconds / SPEED_S)
    return tokens_per_s + step * (n_tokens / seconds - tokens_per_s)


class QueueSpeed:
    """How fast the workers together empty the queue, while there is a batch for each of them.

    It begins with the plan's speed, so there always is one, and follows within seconds, because batches are short. It
    changes only when a batch is taken. See `Throughput` for work of which nothing is known before.
    """

    def __init__(self, tokens_per_s: float, clock: Callable[[], float]) -> None:
        self.tokens_per_s = tokens_per_s
        self._clock = clock
        self.full_since_s: float | None = None  # when a batch was taken that left another full one waiting
        self._n_taken_tokens = 0  # then

    def note(self, n_tokens: int, *, is_full: bool) -> None:
        """A batch of so many tokens was taken. `is_full`: it left a full one waiting."""
        now_s, since_s = self._clock(), self.full_since_s
        if since_s is None or now_s > since_s:
            if since_s is not None:
                self.tokens_per_s = updated_speed(self.tokens_per_s, self._n_taken_tokens, now_s - since_s)
            self._n_taken_tokens = 0
        self._n_taken_tokens += n_tokens
        self.full_since_s = now_s if is_full else None

"""When refused requests should come back, one after the other. No clock, no lock."""

from __future__ import annotations

import math
from collections import deque

MIN_RETRY_S = 0.1
MAX_RETRY_S = 60.0  # the official OpenAI client does not obey longer ones
GRACE_S = 1.5
"""How much later than told a client may come: a second, because `Retry-After` is rounded up, and the time to arrive."""

_GOLDEN = (math.sqrt(5) - 1) / 2


def told_s(wait_s: float, n_beyond: int) -> float:
    """Seconds that a refused request is told to wait. Beyond a minute, it is told again then.

    The `n_beyond` requests before it that had to wait longer than a minute, too, are told other times in its second
    half: the multiples of the golden ratio are spread evenly, however many there are.
    """
    if wait_s <= MAX_RETRY_S:
        return max(MIN_RETRY_S, wait_s)
    return MAX_RETRY_S * (1.0 - 0.5 * (n_beyond * _GOLDEN % 1.0))


class RetryTimes:
    """Tells each refused request a time at which there is room for it, after those that were refused before it."""

    def __init__(self) -> None:
        self._told: deque[tuple[float, float]] = deque()  # when they should come, and how much room they need
        self._amount = 0.0
        self._n_beyond = 0

    def tell(self, now_s: float, amount: float, excess: float, amount_per_s: float) -> float:
        """Seconds, `MIN_RETRY_S` to `MAX_RETRY_S`, after which a request that needs room for `amount` should try again.

        `excess` must become free before there is room for it, and so must what the requests need that were told to
        come before it, as long as they may still come.
        """
        while self._told and self._told[0][0] + GRACE_S < now_s:
            self._amount -= self._told.popleft()[1]
        wait_s = (excess + self._amount) / amount_per_s
        seconds = told_s(wait_s, self._n_beyond)
        self._n_beyond += wait_s > MAX_RETRY_S
        self._told.append((now_s + seconds, amount))
        self._amount += amount
        return seconds

"""How fast something is done while there is always more to do. Pure, but for what it remembers."""

from __future__ import annotations

import math

MEAN_S = 30.0
"""The speed is a mean over about this long."""

MIN_SECONDS = 0.5
"""What is done in less time is taken to have needed as long: the first of many ends at any moment."""


class Throughput:
    """Measures while somebody waits, because only then is the speed what is possible. Remembers it in between.

    Unlike a `QueueSpeed`, it begins without a speed, and falls while nothing is done. It is a mean over a longer time,
    because it is for a few pieces of any size, such as bodies and long texts, which may take seconds each.
    """

    def __init__(self) -> None:
        self._since_s: float | None = None  # up to when it is counted; None: nobody waits
        self._amount = 0.0
        self._seconds = 0.0

    def begin(self, now_s: float) -> None:
        """Somebody waits from now on."""
        if self._since_s is None:
            self._since_s = now_s

    def note(self, now_s: float, amount: float) -> None:
        """So much more is done."""
        if self._since_s is not None:
            self._age(now_s, self._since_s)
            self._amount += amount

    def end(self, now_s: float) -> None:
        """Nobody waits any more."""
        if self._since_s is not None:
            self._age(now_s, self._since_s)
            self._since_s = None

    def per_s(self, now_s: float) -> float | None:
        """None: nothing was done yet while somebody waited."""
        if self._since_s is not None:
            self._age(now_s, self._since_s)
        return self._amount / max(MIN_SECONDS, self._seconds) if self._amount else None

    def _age(self, now_s: float, since_s: float) -> None:
        left = math.exp((since_s - now_s) / MEAN_S)
        self._amount *= left
        self._seconds = self._seconds * left + MEAN_S * (1 - left)
        self._since_s = now_s

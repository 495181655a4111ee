"""When refused requests should come back. Pure, but for what it remembers of earlier refusals."""

from __future__ import annotations

from collections import deque

MIN_RETRY_S = 0.1
MAX_RETRY_S = 60.0  # the official OpenAI client does not obey longer ones
GRACE_S = 1.0
"""How much later than told a client may come, and still find its room kept out of what others are told."""


class RetryPromises:
    """Tells each refused request a time at which there is room for it, one after the other."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, int]] = deque()  # when they should come, and with how many tokens
        self._n_tokens = 0

    def promise(self, now_s: float, n_tokens: int, excess_tokens: int, tokens_per_s: float) -> float:
        """Seconds, `MIN_RETRY_S` to `MAX_RETRY_S`, after which a request of `n_tokens` should try again.

        `excess_tokens` must be computed before there is room for it, and so must the requests that were told to come
        before it.
        """
        while self._waiting and self._waiting[0][0] + GRACE_S < now_s:
            self._n_tokens -= self._waiting.popleft()[1]
        wait_s = (excess_tokens + self._n_tokens) / tokens_per_s
        told_s = min(MAX_RETRY_S, max(MIN_RETRY_S, wait_s))
        self._waiting.append((now_s + told_s, n_tokens))
        self._n_tokens += n_tokens
        return told_s

"""When an engine that has ended is started again. Pure."""

from __future__ import annotations

FIRST_S = 0.5
MOST_S = 30.0
STEADY_S = 60.0
"""An engine that has run for this long counts as healthy: what ended it is not what ended the one before."""


def next_delay_s(last_delay_s: float | None, ran_s: float) -> float:
    """How long to wait before the next start: `FIRST_S`, doubled with each early end, at most `MOST_S`.

    `last_delay_s`: before the start of the engine that has ended; None: it was the first. `ran_s`: how long it ran.
    """
    if last_delay_s is None or ran_s >= STEADY_S:
        return FIRST_S
    return min(2 * last_delay_s, MOST_S)

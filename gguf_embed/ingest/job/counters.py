"""What a job has done so far, and who wants to know."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """The numbers of one run. `n_read` = unchanged + rejected + stored + those still under way."""

    n_read: int = 0  # rows of the source
    n_unchanged: int = 0  # documents that are stored already
    n_rejected: int = 0  # rows that cannot be stored
    n_stored: int = 0  # documents stored in this run
    n_chunks: int = 0  # rows written
    n_tokens: int = 0
    n_pruned: int = 0  # documents deleted because the source does not have them any more
    n_gone: int = 0  # documents that are stored, but not in the source
    n_sent: int = 0  # rows given to the pool
    n_begun: int = 0  # of those, which it has begun to embed
    n_embedded: int = 0  # of those, which are embedded
    n_settled: int = 0  # of those, which are written or rejected
    n_embedded_tokens: int = 0
    share_read: float | None = None
    started_s: float = field(default_factory=time.monotonic)
    busy_s: float = 0.0  # seconds of the whole run, once it has ended

    @property
    def n_under_way(self) -> int:
        return self.n_read - self.n_unchanged - self.n_rejected - self.n_stored

    @property
    def share_done(self) -> float | None:
        """From 0 to 1, of the source: reading is ahead of storing. None if the source does not tell its size."""
        if self.share_read is None or not self.n_read:
            return self.share_read
        done = self.n_read - self.n_under_way + self.n_under_way * self._share_embedded
        return self.share_read * done / self.n_read

    @property
    def _share_embedded(self) -> float:
        """Of the rows under way."""
        n_waiting = self.n_sent - self.n_settled
        return min(1.0, max(0, self.n_embedded - self.n_settled) / n_waiting) if n_waiting > 0 else 0.0

    @property
    def n_rows_embedded(self) -> int:
        """Equal texts are embedded once, so the engine's number may be lower than that of rows."""
        return max(self.n_embedded, self.n_settled)

    @property
    def n_to_store(self) -> int:
        """Rows that are embedded or being embedded, and not stored yet: what a job that is stopped stores."""
        return max(0, self.n_begun - self.n_settled)

    @property
    def elapsed_s(self) -> float:
        return self.busy_s or time.monotonic() - self.started_s


class Ledger:
    """Owns the counters of a run. Any thread may count; `on_change` is told after each change."""

    def __init__(self, on_change: Callable[[Counters], None] = lambda _: None) -> None:
        self.counters = Counters()
        self._on_change = on_change
        self._lock = threading.Lock()

    def count(self, **changes: int) -> None:
        """Add to the counters of these names."""
        with self._lock:
            for name, n in changes.items():
                setattr(self.counters, name, getattr(self.counters, name) + n)
            self._on_change(self.counters)

    def raise_to(self, **counters: int) -> None:
        """Set the counters of these names to these numbers, unless they are higher."""
        with self._lock:
            for name, n in counters.items():
                setattr(self.counters, name, max(n, getattr(self.counters, name)))
            self._on_change(self.counters)

    def set_share(self, share: float | None) -> None:
        self.counters.share_read = share

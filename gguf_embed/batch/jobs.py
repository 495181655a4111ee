"""Which batches are computed now: a few at once, the others in turn; one whose disk fails is tried again later."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gguf_embed.batch.errors import StorageFailed, StorageFull
from gguf_embed.batch.job import Job, Work
from gguf_embed.batch.ledger import Ledger
from gguf_embed.batch.records import Batch, Status

logger = logging.getLogger(__name__)

JOBS_AT_ONCE = 4
ENDING_AT_ONCE = 16
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Pause:
    """When a batch that failed may be tried again. Seconds since 1970."""

    n_failures: int
    begin_s: float
    end_s: float

    def is_over(self, now_s: float) -> bool:
        """Also if the clock was put back."""
        return not self.begin_s <= now_s < self.end_s


def pause_after(n_failures: int, now_s: float, expires_at: float) -> Pause:
    """The pause after the latest of `n_failures`: each is twice as long as the one before. It ends when the batch
    expires."""
    end_s = now_s + min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** min(n_failures - 1, 10))
    return Pause(n_failures, now_s, min(end_s, expires_at) if now_s < expires_at else end_s)


class Jobs:
    """The jobs of one ledger. Belongs to its event loop."""

    def __init__(self, ledger: Ledger, work: Work, poll_s: float) -> None:
        """`poll_s`: how often the clock is looked at."""
        self._ledger = ledger
        self._work = work
        self._poll_s = poll_s
        self._running: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._pauses: dict[str, Pause] = {}
        self._looked_s = self._next_s = -math.inf  # when `start` looked at the clock, and when it has to look again
        self._is_closing = False
        self._watcher = asyncio.create_task(self._watch())

    def is_running(self, batch_id: str) -> bool:
        """Whether it has a job, which may have come to its end just now."""
        return batch_id in self._running

    def now(self, batch: Batch) -> Batch:
        """The batch with the lines that are finished now."""
        running = self._running.get(batch.id)
        return running[0].batch if running is not None else batch

    def start(self) -> None:
        """Start as many jobs as may run."""
        if self._is_closing:
            return
        now_s, store = self._ledger.clock(), self._ledger.store
        while True:
            running = [store.batches[batch_id] for batch_id in self._running]
            left = [b for b in store.all_batches() if not b.is_over and b.id not in self._running]
            chosen = choose([b for b in left if not self._is_paused(b, now_s)], running, JOBS_AT_ONCE, now_s)
            if chosen is None:
                break
            job = Job(chosen.id, self._ledger, self._work, self._poll_s)
            self._running[chosen.id] = job, asyncio.create_task(self._run(job))
        ends = (self._pauses[b.id].end_s if self._is_paused(b, now_s) else b.expires_at for b in left)
        self._looked_s, self._next_s = now_s, min((end_s for end_s in ends if end_s > now_s), default=math.inf)

    def _is_paused(self, batch: Batch, now_s: float) -> bool:
        pause = self._pauses.get(batch.id)
        return pause is not None and not pause.is_over(now_s)

    def cancel(self, batch_id: str) -> None:
        """End a batch whose status is `cancelling` already."""
        if batch_id in self._running:
            self._running[batch_id][0].cancel()
        else:
            self._pauses.pop(batch_id, None)
            self.start()

    async def stop(self) -> None:
        """The next server continues them."""
        self._is_closing = True
        tasks = [self._watcher, *(task for _, task in self._running.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job: Job) -> None:
        try:
            await job.run()
        except (StorageFailed, StorageFull) as error:
            self._pause(job, error.message)
        except OSError as error:
            self._pause(job, str(error))
        except Exception:
            logger.exception("%s failed", job.batch_id)
            self._pause(job, "internal error")
        else:
            self._pauses.pop(job.batch_id, None)
            batch = job.batch
            logger.info(
                "%s is %s: %d of %d requests succeeded", batch.id, batch.status, batch.n_completed, batch.n_requests
            )
        del self._running[job.batch_id]
        self.start()

    def _pause(self, job: Job, why: str) -> None:
        before = self._pauses.get(job.batch_id)
        n_failures = 1 if before is None else before.n_failures + 1
        pause = pause_after(n_failures, self._ledger.clock(), job.batch.expires_at)
        self._pauses[job.batch_id] = pause
        logger.warning("%s is continued in %.0f s: %s", job.batch_id, pause.end_s - pause.begin_s, why)

    async def _watch(self) -> None:
        """Start batches whose pause is over, and those that have expired while they waited."""
        while True:
            await asyncio.sleep(self._poll_s)
            if not self._looked_s <= self._ledger.clock() < self._next_s:
                self.start()


def choose(waiting: Sequence[Batch], running: Sequence[Batch], n_at_once: int, now_s: float) -> Batch | None:
    """The batch to start now: the oldest one of the owner that has the fewest running; None if none may start.

    One that is being cancelled or finalized, or has expired, starts in any case, because its end takes no computing;
    but only `ENDING_AT_ONCE`, each of which has files open.
    """
    ending = [batch for batch in waiting if _is_ending(batch, now_s)]
    if ending and sum(_is_ending(batch, now_s) for batch in running) < ENDING_AT_ONCE:
        return min(ending, key=lambda batch: batch.number)
    if len(running) >= n_at_once:
        return None
    n_running = Counter(batch.owner for batch in running)
    return min(waiting, key=lambda batch: (n_running[batch.owner], batch.number), default=None)


def _is_ending(batch: Batch, now_s: float) -> bool:
    return batch.status in (Status.CANCELLING, Status.FINALIZING) or batch.expires_at <= now_s

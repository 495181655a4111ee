from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager

from gguf_embed.engines.fake import FakeBatch, FakeEngine, FakeScript
from gguf_embed.scheduler.batching import BatchLimits
from gguf_embed.scheduler.queue import QueueConfig
from gguf_embed.scheduler.scheduler import Scheduler
from gguf_embed.scheduler.worker import ContextPlan

SAFETY_S = 20.0
POISON, DEADLY = 66, 88
SLOW = 99  # a batch with this token waits at the gate


class Counts:
    """The batches an observer saw; workers call it."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, int]] = []

    def observe_batch(self, n_texts: int, n_tokens: int, budget_tokens: int, compute_s: float) -> None:
        assert compute_s >= 0
        self.batches.append((n_texts, n_tokens, budget_tokens))


class Gate:
    """Holds batches with the token SLOW until opened; `entered` tells that one has arrived."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()

    def __call__(self, batch: FakeBatch) -> None:
        if any(SLOW in text for text in batch.texts):
            self.entered.release()
            assert self.opened.wait(SAFETY_S)

    async def wait_until_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=SAFETY_S)


def make_scheduler(script: FakeScript, n_workers: int = 2, max_queued_tokens: int = 100_000) -> Scheduler:
    config = QueueConfig(
        limits=BatchLimits(max_tokens=32, max_sequences=8, min_share_tokens=8),
        n_workers=n_workers,
        n_threads=n_workers,
        alone_threads=n_workers,
        max_queued_tokens=max_queued_tokens,
        tokens_per_s=10_000.0,
    )
    plan = ContextPlan(max_tokens=32, max_sequences=8, long_tokens=128, flash_min_tokens=16)
    return Scheduler(FakeEngine(script), config, plan, Counts())


@contextmanager
def running(script: FakeScript | None = None, **sizes: int) -> Iterator[Scheduler]:
    scheduler = make_scheduler(script or FakeScript(), **sizes)
    scheduler.start()
    try:
        yield scheduler
    finally:
        scheduler.close()


def run[T](main: Coroutine[object, object, T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(SAFETY_S):
            return await main

    return asyncio.run(limited())
